/**
 * The client: the session's owner, with a transport, a clock and timers.
 *
 * Promises and iterables end by their `AbortSignal`, by `close`, or when a room ends; nothing of an earlier connection
 * reaches the session after it was dropped.
 */
import type { Histories, Page, Query } from './core/history.js';
import { Fragments } from './core/fragments.js';
import { Ground } from './core/ground.js';
import { Session, type ClientState } from './core/session.js';
import type { OutboxLimits, PublishInput, Receipt } from './core/outbox.js';
import type { RoomCore } from './core/room.js';
import { Code, LanecastError, reasonOf } from './errors.js';
import { Room, type RoomHost } from './room.js';
import { Dialer, type TransportChoice } from './transport/dialer.js';
import type { Transport, TransportName } from './transport/transport.js';
import type { SocketConstructor } from './transport/websocket.js';
import type { WebTransportConstructor } from './transport/webtransport.js';

/** Options of a client. */
export interface ClientOptions {
  /**
   * Address of the node, `https://chat.example/` or `wss://…`, or of its WebSocket if it has a path:
   * `wss://chat.example/v1/connect`. What else the node serves, and where, its `/.well-known/lanecast` says.
   */
  url: string | URL;
  /**
   * By default `auto`: WebTransport where browser, page and node have it and the network lets it through, else WebSocket,
   * at most half a second later. A function is asked before every connection.
   */
  transport?: TransportChoice | (() => TransportChoice);
  /**
   * The token, or a function that gets one. It is asked before every connection, and on a connection before the present
   * token expires; `refused` says that the node refused the one before, so that a cached one must not be given again.
   */
  token: string | ((ask: { refused: boolean }) => string | Promise<string>);
  /** The WebSocket to use; by default the global one. Node 20 has none: pass that of the package `ws`. */
  WebSocket?: SocketConstructor;
  /** The WebTransport to use; by default the global one. */
  WebTransport?: WebTransportConstructor;
  /** Name and version of the application, for the logs of the node. */
  app?: { name: string; version: string };
  /** The device of the user, at most 128 bytes. */
  device?: string;
  /** Bounds of the outbox: 1,000 publishes, 4 MiB, 12 h. */
  outbox?: Partial<OutboxLimits>;
  /** Hands everything to the transport at once and in one order, as clients without lanes do. Only to measure against. */
  oneQueue?: boolean;
  /** Called with problems that no promise tells of. */
  onDiagnostic?: (error: Error) => void;
}

/** Timers are set no closer, so that what waits for the transport does not spin. */
const TIMER_MS_MIN = 5;
/** Events of the window after which a connection may be dead, or a new one possible. */
const HINTS = ['online', 'offline'];

/** A connection to Lanecast that mends itself. Make one per page or process. */
export class Client implements RoomHost {
  readonly session: Session;
  /** The id by which this client's publishes are numbered, and the `instance` of what it sends. */
  readonly instance: string;
  readonly #rooms = new Map<string, Room>();
  readonly #listeners = new Set<(state: ClientState) => void>();
  readonly #dialer: Dialer;
  #link: Transport | undefined;
  /** The transport that opened, as long as there was no Welcome on it. */
  #unproven: TransportName | undefined;
  /** Ends the dial that is under way. */
  #abort = new AbortController();
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** Counts connections, so that what belongs to an earlier one is ignored. */
  #dials = 0;
  #woken = false;
  readonly #ground: Ground;
  /** Loaded when the first page is asked for. */
  #histories: Promise<Histories> | undefined;
  readonly #options: ClientOptions;

  constructor(options: ClientOptions) {
    this.#options = options;
    this.instance = randomId();
    this.#dialer = new Dialer(options);
    this.session = new Session(
      {
        instance: this.instance,
        random: Math.random,
        client: {
          ...{ name: 'lanecast-web', version: '0.1.0', platform: platform() },
          ...{ app: options.app?.name, appVersion: options.app?.version },
        },
        ...(options.device === undefined ? {} : { device: options.device }),
        ...(options.outbox === undefined ? {} : { outbox: options.outbox }),
        ...(options.oneQueue === undefined ? {} : { oneQueue: options.oneQueue }),
      },
      {
        dial: (target) => void this.#dial(target),
        hangUp: (code) => this.#hangUp(code),
        refresh: (refused) => void this.#refresh(refused),
        changed: (state) => this.#changed(state),
        ready: (room) => this.#ready(room),
        diagnostic: (error) => queueMicrotask(() => options.onDiagnostic?.(error)),
      },
    );
    this.session.add(new Fragments(this.session));
    this.#ground = this.session.add(new Ground(this.session));
    for (const hint of HINTS) globalThis.addEventListener?.(hint, this.networkChanged);
  }

  /** Where the client stands. */
  get state(): ClientState {
    return this.session.state;
  }

  /** Calls `listener` after every change of state; returns what ends that. */
  onState(listener: (state: ClientState) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** What carries the present connection; undefined: there is none. */
  get transport(): TransportName | undefined {
    return this.state.name === 'connected' ? this.#link?.name : undefined;
  }

  /** Round trip of the last ping, ms; 0: not measured yet. */
  get roundTripMs(): number {
    return this.session.roundTripMs;
  }

  /** Publishes that are not settled yet. */
  get waiting(): number {
    return this.session.outbox.length;
  }

  /** The node's clock, ms since the Unix epoch, as far as this client knows it. */
  serverTimeMs(): number {
    return now() + this.session.clockOffsetMs;
  }

  /**
   * Starts to connect, and resolves with the first connection. It rejects when that is refused for good or `signal`
   * aborts; until then, and after it resolved, the client connects again by itself.
   */
  connect(options: { signal?: AbortSignal } = {}): Promise<this> {
    const { signal } = options;
    this.run((session) => session.connect(now()));
    return new Promise((resolve, reject) => {
      const look = () => {
        if (this.state.name === 'closed') done(() => reject(this.state.name === 'closed' && this.state.cause));
        else if (this.state.name === 'connected') done(() => resolve(this));
        else if (signal?.aborted) done(() => reject(signal.reason));
      };
      const off = this.onState(look);
      const done = (then: () => void) => {
        off();
        signal?.removeEventListener('abort', look);
        then();
      };
      signal?.addEventListener('abort', look);
      look();
    });
  }

  /** Ends everything; publishes that are not acknowledged are rejected. */
  close(): void {
    for (const hint of HINTS) globalThis.removeEventListener?.(hint, this.networkChanged);
    this.run((session) => session.close());
  }

  /** Tells that the network may have changed: the client tries at once, or asks whether its connection still lives. */
  readonly networkChanged = (): void => {
    this.#ground.refill();
    this.#dialer.networkChanged();
    this.run((session) => session.nudge(now()));
  };

  /**
   * Tells that the application is out of sight and wants to rest: a connection stays while the system lets it, and none is
   * opened unless a durable publish waits. A page that shows notifications while it is hidden does not call this.
   */
  readonly enteredBackground = (): void => this.#ground.enter();

  /** Tells that the application is back, perhaps after it was frozen: as `networkChanged`, and ends `enteredBackground`. */
  readonly enteredForeground = (): void => {
    this.#ground.leave();
    this.networkChanged();
  };

  /** A room by its name. The same name gives the same object. */
  room(name: string): Room {
    let room = this.#rooms.get(name);
    if (!room) this.#rooms.set(name, (room = new Room(name, this)));
    return room;
  }

  /** Publishes; see `Room.publish`. */
  publish(input: PublishInput): Promise<Receipt> {
    return this.#ask((settle) => this.session.publish(now(), input, settle));
  }

  /** Reads history; see `Room.history`. */
  async history(room: string, query: Query): Promise<Page> {
    this.#histories ??= import('./core/history.js').then((part) => this.session.add(new part.Histories(this.session)));
    // A network that is away takes the code along; it may be there the next time.
    this.#histories.catch(() => (this.#histories = undefined));
    const histories = await this.#histories;
    return this.#ask((settle) => histories.ask(now(), room, query, settle));
  }

  /** Runs a command and sends what it led to. */
  run<T>(command: (session: Session, now: number) => T): T {
    const result = command(this.session, now());
    this.#wake();
    return result;
  }

  #ask<T>(start: (settle: (result: T | LanecastError) => void) => void): Promise<T> {
    return new Promise((resolve, reject) => {
      this.run(() => start((result) => (result instanceof LanecastError ? reject(result) : resolve(result))));
    });
  }

  #changed(state: ClientState): void {
    // What has a code of the table was said by the node, over a transport that works.
    if (state.name === 'suspended' && this.#unproven && state.cause.code < Code.NORMAL) this.#dialer.failed(this.#unproven);
    if (state.name !== 'connecting') this.#unproven = undefined;
    queueMicrotask(() => this.#listeners.forEach((listener) => listener(state)));
  }

  #ready(core: RoomCore): void {
    this.#rooms.get(core.name)?.wake(core);
  }

  async #dial({ address, refused }: { address: string; refused: boolean }): Promise<void> {
    const dial = ++this.#dials;
    this.#link = undefined;
    const { token } = this.#options;
    let text: string;
    try {
      // Never in the middle of the input that led here.
      await null;
      text = typeof token === 'string' ? token : await token({ refused });
    } catch (error) {
      if (dial === this.#dials) this.run((session) => session.failed(now(), error));
      return;
    }
    if (dial === this.#dials) await this.#open(dial, address, text);
  }

  async #open(dial: number, address: string, token: string): Promise<void> {
    let link: Transport;
    try {
      link = await this.#dialer.dial(address, this.#abort.signal);
    } catch (error) {
      if (dial !== this.#dials) return;
      const usage = error instanceof LanecastError && error.name === 'USAGE';
      // The constructors of the browser throw this if they cannot use the address.
      const wrong = usage ? error : (error as Error).name === 'SyntaxError' && LanecastError.local('USAGE', String(error), { cause: error });
      return this.run((session) => (wrong ? session.close(wrong) : session.lost(now(), 1006, reasonOf(error))));
    }
    if (dial !== this.#dials) return link.close(Code.NORMAL);
    this.#link = link;
    this.#unproven = link.name;
    link.start((input) => {
      if (dial === this.#dials) this.run((session) => input(session, now()));
    });
    this.run((session) => session.opened(now(), token, link.ordered));
  }

  #hangUp(code: number): void {
    this.#dials++;
    this.#abort.abort();
    this.#abort = new AbortController();
    this.#link?.close(code);
    this.#link = undefined;
  }

  async #refresh(refused: boolean): Promise<void> {
    const { token } = this.#options;
    if (typeof token === 'string') return;
    const dials = this.#dials;
    const when = (then: (session: Session) => void) => {
      if (dials === this.#dials) this.run(then);
    };
    try {
      const text = await token({ refused });
      when((session) => session.refresh(now(), text));
    } catch (error) {
      this.#options.onDiagnostic?.(error instanceof Error ? error : new Error(String(error)));
      when((session) => session.notRefreshed(now()));
    }
  }

  /** Sends and sets the timer once all that happens now has happened. */
  #wake(): void {
    if (this.#woken) return;
    this.#woken = true;
    queueMicrotask(() => {
      this.#woken = false;
      this.#flush();
    });
  }

  #flush(): void {
    const { session } = this;
    // One time for both: what becomes due between them would be neither sent nor waited for.
    const at = now();
    this.#link?.flush(session, at);
    clearTimeout(this.#timer);
    const deadline = session.deadline(at);
    if (deadline === Infinity) return;
    const wait = Math.max(TIMER_MS_MIN, deadline - at);
    this.#timer = setTimeout(() => this.run((each) => each.tick(now())), Math.min(wait, 2 ** 31 - 1));
  }
}

/** Makes a client and connects it. */
export function connect(options: ClientOptions & { signal?: AbortSignal }): Promise<Client> {
  const client = new Client(options);
  return client.connect(options.signal ? { signal: options.signal } : {});
}

/** A clock that never jumps back, near the Unix epoch's. */
function now(): number {
  return performance.timeOrigin + performance.now();
}

function randomId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

function platform(): string {
  const agent = globalThis.navigator?.userAgent;
  return (agent ?? 'unknown').slice(0, 128);
}
