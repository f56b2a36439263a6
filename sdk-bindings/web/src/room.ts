/** Rooms as the application sees them: publish, signal, read events and gaps, read signals, page through history. */
import type { EventItem, GapItem, Item } from './core/inbox.js';
import type { PublishInput, Receipt } from './core/outbox.js';
import { laneNumber, type LaneName, parsePosition, type Position } from './core/position.js';
import type { RoomCore, RoomState, RoomStats } from './core/room.js';
import type { Page, Query } from './core/history.js';
import type { Session } from './core/session.js';
import type { SignalItem } from './core/signals.js';
import { LanecastError } from './errors.js';
import { type Cursor, FocusLevel, HistoryDirection, type Start } from './gen/wire.js';
import type { Init } from './wire/codec.js';

/** What a room needs of its client. */
export interface RoomHost {
  readonly session: Session;
  run<T>(command: (session: Session, now: number) => T): T;
  publish(input: PublishInput): Promise<Receipt>;
  history(room: string, query: Query): Promise<Page>;
}

/** Where a subscription starts: now, at the oldest event, after a position, or so many events or ms back. */
export type From =
  | 'live'
  | 'beginning'
  | { position: Position | string }
  | { count: number }
  | { durationMs: number };

/** Options of a subscription. */
export interface SubscribeOptions {
  from?: From;
  /** Ends the subscription. */
  signal?: AbortSignal;
}

/** What an event or a signal says. */
export interface Message {
  /** Application-chosen, at most 128 bytes. */
  type: string;
  /** Application-chosen; mandatory for signals: what the newest one replaces. */
  key?: string;
  contentType?: string;
  headers?: Record<string, string>;
  /** A text payload … */
  text?: string;
  /** … or a binary one. */
  data?: Uint8Array;
  /** Not to be delivered later than this, ms; 0: no limit, or for signals the node's default. */
  ttlMs?: number;
}

/** What to publish. */
export interface PublishMessage extends Message {
  /** Default normal. */
  lane?: LaneName;
  /** Default durable: stored, numbered, and sent again until it is acknowledged. */
  delivery?: 'durable' | 'transient';
}

/** How much a room matters to the user now. */
export type Focus = 'background' | 'default' | 'foreground';

const FOCUS: Record<Focus, FocusLevel> = {
  ...{ background: FocusLevel.BACKGROUND, default: FocusLevel.DEFAULT, foreground: FocusLevel.FOREGROUND },
};

/** What to signal. */
export interface SignalMessage extends Message {
  key: string;
  /** The value is gone: typing stopped. */
  clear?: boolean;
}

/** Which part of the history to read. */
export interface HistoryQuery {
  /** Default backward: newest first. */
  direction?: 'backward' | 'forward';
  /** Where to read on: `next` of the page before. */
  cursor?: Cursor;
  limit?: number;
  lanes?: LaneName[];
}

/** Turns values into messages and back, for {@link Room.typed}. */
export interface Codec<T> {
  encode(value: T): Message;
  /** Undefined: the event is not of this codec's type. */
  decode(event: EventItem): T | undefined;
}

/** A codec of JSON texts with one event type. */
export function json<T>(type: string): Codec<T> {
  return {
    encode: (value) => ({ type, contentType: 'application/json', text: JSON.stringify(value) }),
    decode: (event) => (event.type === type && event.text !== undefined ? (JSON.parse(event.text) as T) : undefined),
  };
}

/** An event with its value. */
export interface TypedEvent<T> extends EventItem {
  value: T;
}

/** A room whose events have values. */
export interface TypedRoom<T> {
  publish(value: T, options?: Pick<PublishMessage, 'lane' | 'delivery' | 'ttlMs' | 'key'>): Promise<Receipt>;
  /** The events that the codec decodes, and every gap. */
  subscribe(options?: SubscribeOptions): AsyncIterable<TypedEvent<T> | GapItem>;
}

/** A named place to publish to and to subscribe to. */
export class Room {
  #core: RoomCore | undefined;
  #subscription: Subscription | undefined;
  #readers = new Set<Waker>();
  #focus: FocusLevel | undefined;
  readonly #host: RoomHost;

  constructor(
    readonly name: string,
    host: RoomHost,
  ) {
    this.#host = host;
  }

  /**
   * Subscribes. The result is iterated for events and gaps; ending the loop, `close` or the signal ends the
   * subscription. A room has one at a time. After a lost connection it goes on by itself from what was received.
   */
  subscribe(options: SubscribeOptions = {}): Subscription {
    const active = this.#subscription && this.#core?.state.name !== 'ended';
    if (active) throw LanecastError.local('USAGE', 'the room is subscribed already', { room: this.name });
    const { at, start } = startOf(options.from ?? 'live');
    const wanted = { start, signals: this.#readers.size > 0, events: true, focus: this.#focus };
    this.#core = this.#host.run((session, now) => session.rooms.subscribe(now, this.name, wanted, at));
    const subscription = new Subscription(this.#core, this.#host, () => {
      this.#subscription = undefined;
      this.#leave();
    });
    this.#subscription = subscription;
    onAbort(options.signal, () => subscription.close());
    return subscription;
  }

  /** Publishes. A durable event resolves once it is stored; a transient one once the node passed it on. */
  publish(message: PublishMessage): Promise<Receipt> {
    const { lane = 'normal', delivery = 'durable', ttlMs = 0 } = message;
    return this.#host.publish({ room: this.name, lane, durable: delivery === 'durable', ttlMs, envelope: envelope(message) });
  }

  /**
   * Signals: the newest of a type and key wins, here before it is sent, and at every receiver. It is sent when the rate
   * of the node allows it and the client is connected, or never.
   */
  signal(message: SignalMessage): void {
    const { clear = false, ttlMs = 0 } = message;
    const signal = { room: this.name, ttlMs, clear, envelope: { ...envelope(message), type: message.type, key: message.key } };
    this.#host.run((session, now) => session.signal(now, signal));
  }

  /** Reads the signals of the room: first those that are live, then every change. Slow readers skip to the newest. */
  signals(options: { signal?: AbortSignal } = {}): AsyncIterableIterator<SignalItem> {
    const want = { start: undefined, signals: true, events: false, focus: this.#focus };
    this.#core = this.#host.run((session, now) => session.rooms.subscribe(now, this.name, want));
    const waker = new Waker();
    this.#readers.add(waker);
    const reader = this.#core.signals.reader(() => waker.wake());
    const close = () => {
      reader.close();
      if (this.#readers.delete(waker)) this.#leave();
      waker.close();
    };
    onAbort(options.signal, close);
    const read = () => {
      const item = reader.next();
      if (!item && this.#core) finished(this.#core, waker);
      return item;
    };
    return iterate<SignalItem>(waker, read, close);
  }

  /** Reads a page of the durable events, merged by order. */
  history(query: HistoryQuery = {}): Promise<Page> {
    const { direction, cursor, limit = 0, lanes = [] } = query;
    const way = direction === 'forward' ? HistoryDirection.FORWARD : HistoryDirection.BACKWARD;
    return this.#host.history(this.name, { direction: way, cursor, limit, lanes: lanes.map(laneNumber) });
  }

  /**
   * Says how much the room matters now: in each lane the node serves those in the foreground before the others, and those
   * in the background after them. It holds for subscriptions present and later, over reconnects.
   */
  focus(level: Focus): void {
    const focus = (this.#focus = FOCUS[level]);
    const core = this.#core;
    if (core) this.#host.run((session) => session.rooms.focus(core, focus));
  }

  /** The room with values in place of payloads. */
  typed<T>(codec: Codec<T>): TypedRoom<T> {
    return {
      publish: (value, options) => this.publish({ ...codec.encode(value), ...options }),
      subscribe: (options) => decoded(this.subscribe(options), codec),
    };
  }

  /** Something of this room changed. */
  wake(core: RoomCore): void {
    if (core !== this.#core) return;
    this.#subscription?.wake();
    for (const reader of this.#readers) reader.wake();
  }

  /** The events or the signals are no longer wanted. */
  #leave(): void {
    const core = this.#core;
    if (!core) return;
    if (this.#subscription) return;
    if (this.#readers.size) core.options.events = false;
    else this.#host.run((session) => session.rooms.leave(core));
  }
}

/** The events and gaps of a room. */
export class Subscription implements AsyncIterable<Item> {
  readonly #waker = new Waker();
  readonly #stateListeners = new Set<(state: RoomState) => void>();
  #told: RoomState;
  readonly #core: RoomCore;
  readonly #host: RoomHost;
  readonly #left: () => void;

  constructor(
    core: RoomCore,
    host: RoomHost,
    left: () => void,
  ) {
    this.#core = core;
    this.#host = host;
    this.#left = left;
    this.#told = core.state;
  }

  /** Where the subscription stands. */
  get state(): RoomState {
    return this.#core.state;
  }

  /** What it counted. */
  get stats(): Readonly<RoomStats> {
    return this.#core.stats;
  }

  /** Everything up to it was taken: keep it, and subscribe from it later. It moves when the next item is asked for. */
  get position(): Position | undefined {
    return this.#core.inbox.position;
  }

  /** Calls `listener` after every change of state; returns what ends that. */
  onState(listener: (state: RoomState) => void): () => void {
    this.#stateListeners.add(listener);
    return () => this.#stateListeners.delete(listener);
  }

  /** Says that the item read last was handled, without asking for the next one. */
  take(): void {
    this.#core.inbox.take();
  }

  /** Leaves the room; the iteration ends. */
  close(): void {
    this.#left();
    this.#waker.close();
  }

  /** Breaking out of the loop leaves the room, and leaves the item at which it broke untaken. */
  [Symbol.asyncIterator](): AsyncIterableIterator<Item> {
    return iterate<Item>(this.#waker, () => this.#next(), () => this.close());
  }

  #next(): Item | undefined {
    const item = this.#core.inbox.next();
    if (this.#core.paused) this.#host.run((session, now) => session.rooms.drained(now, this.#core));
    if (!item) finished(this.#core, this.#waker);
    return item;
  }

  wake(): void {
    const { state } = this.#core;
    if (state !== this.#told) {
      this.#told = state;
      queueMicrotask(() => this.#stateListeners.forEach((listener) => listener(state)));
    }
    this.#waker.wake();
  }
}

/** Wakes the one reader that waits. */
class Waker {
  closed = false;
  #waiting: (() => void) | undefined;

  wake(): void {
    this.#waiting?.();
    this.#waiting = undefined;
  }

  close(): void {
    this.closed = true;
    this.wake();
  }

  wait(): Promise<void> {
    return new Promise((resolve) => (this.#waiting = resolve));
  }
}

/** Ends an iteration whose room ended: with the error, if it was not the application that ended it. */
function finished(core: RoomCore, waker: Waker): void {
  if (core.state.name !== 'ended') return;
  waker.closed = true;
  const { error } = core.state;
  if (error && error.name !== 'CLOSED') throw error;
}

function iterate<T>(waker: Waker, read: () => T | undefined, close: () => void): AsyncIterableIterator<T> {
  return {
    async next() {
      for (;;) {
        const value = waker.closed ? undefined : read();
        if (value !== undefined) return { value, done: false };
        if (waker.closed) return { value: undefined, done: true };
        await waker.wait();
      }
    },
    async return() {
      close();
      return { value: undefined, done: true };
    },
    [Symbol.asyncIterator]() {
      return this;
    },
  };
}

async function* decoded<T>(items: AsyncIterable<Item>, codec: Codec<T>): AsyncGenerator<TypedEvent<T> | GapItem> {
  for await (const item of items) {
    if (item.kind === 'gap') {
      yield item;
      continue;
    }
    const value = codec.decode(item);
    if (value !== undefined) yield { ...item, value };
  }
}

function onAbort(signal: AbortSignal | undefined, then: () => void): void {
  if (signal?.aborted) then();
  else signal?.addEventListener('abort', then, { once: true });
}

function startOf(from: From): { at?: Position; start: Init<Start> | undefined } {
  if (from === 'live') return { start: undefined };
  if (from === 'beginning') return { start: { at: { case: 'beginning', value: {} } } };
  if ('count' in from) return { start: { at: { case: 'count', value: from.count } } };
  if ('durationMs' in from) return { start: { at: { case: 'durationMs', value: from.durationMs } } };
  const at = typeof from.position === 'string' ? parsePosition(from.position) : from.position;
  return { at, start: { at: { case: 'position', value: at } } };
}

function envelope({ type, key = '', contentType = '', headers = {}, text, data }: Message) {
  const body = data ? ({ case: 'data', value: data } as const) : ({ case: 'text', value: text ?? '' } as const);
  return { type, key, contentType, headers, ...(data || text !== undefined ? { body } : {}) };
}
