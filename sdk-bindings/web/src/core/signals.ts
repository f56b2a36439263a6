/**
 * Signals, both ways. Outgoing ones are conflated by key before they are sent and kept below the node's rate; of the
 * incoming ones the newest of each key counts (law 6) until it dies.
 */
import { Frame, type Sender, type Signal } from '../gen/wire.js';
import type { Init } from '../wire/codec.js';
import { payload, record } from '../wire/packet.js';

/** Keys waiting to be sent; beyond it the one that waits longest is dropped. */
const OUT_KEYS_MAX = 100;
/** Signals of a room that are remembered; beyond it the one that was heard longest ago is forgotten. */
const LIVE_MAX = 1000;
/** How long a signal without any expiry is kept; also how long a cleared one is remembered. */
const TTL_DEFAULT_MS = 10_000;
/** A whole token, as far as fractions of a millisecond can tell. */
const ONE = 0.999;

/** Outgoing signals. */
export class SignalOutbox {
  #waiting = new Map<string, { signal: Init<Signal>; untilMs: number }>();
  #counter = 0;
  #tokens = 1;
  #filledAt = 0;
  /** Signals per second that the node accepts. */
  rate = 10;

  /** Queues a signal; one of the same room, type and key that still waits is replaced. */
  push(now: number, key: string, signal: Init<Signal>): void {
    this.#waiting.delete(key);
    const [oldest] = this.#waiting.keys();
    if (oldest !== undefined && this.#waiting.size >= OUT_KEYS_MAX) this.#waiting.delete(oldest);
    this.#waiting.set(key, { signal, untilMs: now + ((signal.ttlMs as number) || TTL_DEFAULT_MS) });
  }

  /** Whether the rate allows one now. */
  ready(now: number): boolean {
    return this.#due(now) !== undefined;
  }

  #due(now: number): [string, Init<Signal>] | undefined {
    const burst = Math.max(1, this.rate / 2);
    this.#tokens = Math.min(burst, this.#tokens + (Math.max(0, now - this.#filledAt) * this.rate) / 1000);
    this.#filledAt = now;
    for (const [key, { signal, untilMs }] of this.#waiting) {
      if (untilMs > now) return this.#tokens < ONE ? undefined : [key, { ...signal, ttlMs: (signal.ttlMs as number) && Math.ceil(untilMs - now) }];
      // Too late is not sent (law 8): it waited for a connection longer than it lives.
      this.#waiting.delete(key);
    }
    return undefined;
  }

  /** The next record, if the rate allows one now. */
  next(now: number): Uint8Array | undefined {
    const due = this.#due(now);
    if (!due) return undefined;
    const [key, signal] = due;
    this.#waiting.delete(key);
    this.#tokens--;
    const value: Init<Signal> = { ...signal, counter: ++this.#counter };
    return record({ body: { case: 'signal', value } } as Init<Frame>);
  }

  /** When the next signal may be sent. */
  deadline(): number {
    if (!this.#waiting.size) return Infinity;
    return this.#filledAt + Math.max(0, Math.ceil(((1 - this.#tokens) * 1000) / this.rate));
  }

  clear(): void {
    this.#waiting.clear();
  }
}

/** A signal as the application gets it. */
export interface SignalItem {
  room: string;
  /** `live` until it is cleared by its sender or its time is over. */
  state: 'live' | 'cleared' | 'expired';
  type: string;
  key: string;
  from: Sender;
  headers: Readonly<Record<string, string>>;
  contentType: string;
  text?: string;
  data?: Uint8Array;
}

interface Entry {
  item: SignalItem;
  start: number;
  counter: number;
  /** On the clock of the session. */
  diesAt: number;
}

/** The signals of a room that count at present. */
export class LiveSignals {
  #entries = new Map<string, Entry>();
  #readers = new Set<SignalReader>();
  /** Not later than when the next one dies. */
  #nextAt = Infinity;
  readonly #room: string;

  constructor(room: string) {
    this.#room = room;
  }

  /** Takes a signal; false: a newer one of its key is known. `offset` is node's clock minus the session's. */
  take(now: number, offset: number, signal: Signal): boolean {
    const { envelope, from, start, counter } = signal;
    if (!envelope || !from) return false;
    const id = JSON.stringify([from.user, from.instance || from.service, envelope.type, envelope.key]);
    const known = this.#entries.get(id);
    if (known && (start < known.start || (start === known.start && counter <= known.counter))) return false;
    const diesAt = signal.expiresAtMs ? signal.expiresAtMs - offset : now + TTL_DEFAULT_MS;
    const { type, key, headers, contentType, body } = envelope;
    const item: SignalItem = { room: this.#room, state: 'live', type, key, from, headers, contentType, ...payload(body) };
    if (signal.clear) item.state = 'cleared';
    else if (diesAt <= now) item.state = 'expired';
    this.#entries.delete(id);
    const [oldest] = this.#entries.keys();
    if (oldest !== undefined && this.#entries.size >= LIVE_MAX) this.#entries.delete(oldest);
    this.#entries.set(id, { item, start, counter, diesAt });
    this.#nextAt = Math.min(this.#nextAt, diesAt);
    for (const reader of this.#readers) reader.changed(id);
    return true;
  }

  /** Lets signals die whose time is over. */
  expire(now: number): void {
    if (this.#nextAt > now) return;
    for (const [id, entry] of this.#entries) {
      if (entry.diesAt > now) continue;
      if (entry.item.state === 'live') {
        entry.item = { ...entry.item, state: 'expired' };
        entry.diesAt = now + TTL_DEFAULT_MS;
        for (const reader of this.#readers) reader.changed(id);
      } else {
        this.#entries.delete(id);
      }
    }
    this.#nextAt = Math.min(...[...this.#entries.values()].map(({ diesAt }) => diesAt));
  }

  /** When to call {@link LiveSignals.expire}. */
  deadline(): number {
    return this.#nextAt;
  }

  /** A reader that starts with the live values. */
  reader(wake: () => void): SignalReader {
    const live = [...this.#entries].filter(([, entry]) => entry.item.state === 'live').map(([id]) => id);
    const reader = new SignalReader(live, (id) => this.#entries.get(id)?.item, wake, () => this.#readers.delete(reader));
    this.#readers.add(reader);
    return reader;
  }
}

/** Reads the changes of a room's signals, each key once with its newest value: it never holds more than keys. */
export class SignalReader {
  #dirty: Set<string>;
  readonly #look: (id: string) => SignalItem | undefined;
  readonly #wake: () => void;

  constructor(
    live: Iterable<string>,
    look: (id: string) => SignalItem | undefined,
    wake: () => void,
    readonly close: () => void,
  ) {
    this.#look = look;
    this.#wake = wake;
    this.#dirty = new Set(live);
  }

  changed(id: string): void {
    this.#dirty.add(id);
    this.#wake();
  }

  next(): SignalItem | undefined {
    for (const id of this.#dirty) {
      this.#dirty.delete(id);
      const item = this.#look(id);
      if (item) return item;
    }
    return undefined;
  }
}
