/**
 * The client: the session's owner, with a socket, a clock and timers.
 *
 * Promises and iterables end by their `AbortSignal`, by `close`, or when a room ends; nothing of an earlier connection
 * reaches the session after it was dropped.
 */
import { Session, type ClientState, type Page } from './core/session.js';
import type { OutboxLimits, PublishInput, Receipt } from './core/outbox.js';
import type { RoomCore } from './core/room.js';
import { Code, LanecastError } from './errors.js';
import { Room, type RoomHost } from './room.js';

/** What the client needs of a WebSocket; the one of browsers, of Node ≥ 22 and of the package `ws` fit. */
export interface SocketLike {
  binaryType: string;
  readonly bufferedAmount: number;
  onopen: ((event: never) => void) | null;
  onmessage: ((event: never) => void) | null;
  onclose: ((event: never) => void) | null;
  onerror: ((event: never) => void) | null;
  send(data: Uint8Array<ArrayBuffer>): void;
  close(code?: number): void;
}

/** Makes a {@link SocketLike}. */
export type SocketConstructor = new (url: string, protocols: string[]) => SocketLike;

/** Options of a client. */
export interface ClientOptions {
  /** Address of the endpoint, for example `wss://chat.example/v1/connect`; `http` and `https` are taken too. */
  url: string | URL;
  /**
   * The token, or a function that gets one. It is asked before every connection; `refused` says that the node refused
   * the one before, so that a cached one must not be given again.
   */
  token: string | ((ask: { refused: boolean }) => string | Promise<string>);
  /** The WebSocket to use; by default the global one. Node 20 has none: pass that of the package `ws`. */
  WebSocket?: SocketConstructor;
  /** Name and version of the application, for the logs of the node. */
  app?: { name: string; version: string };
  /** The device of the user, at most 128 bytes. */
  device?: string;
  /** Bounds of the outbox: 1,000 publishes, 4 MiB, 12 h. */
  outbox?: Partial<OutboxLimits>;
  /** Called with problems that no promise tells of. */
  onDiagnostic?: (error: Error) => void;
}

/** Bytes that are handed to the socket at once; our queues can reorder, those of the transport cannot. */
const SOCKET_BYTES_MAX = 16 * 1024;
/** How often a socket that is full is looked at; browsers have no event for it. */
const DRAIN_POLL_MS = 5;

/** A connection to Lanecast that mends itself. Make one per page or process. */
export class Client implements RoomHost {
  readonly session: Session;
  /** The id by which this client's publishes are numbered, and the `instance` of what it sends. */
  readonly instance: string;
  private readonly rooms = new Map<string, Room>();
  private readonly listeners = new Set<(state: ClientState) => void>();
  private socket: SocketLike | undefined;
  private timer: ReturnType<typeof setTimeout> | undefined;
  /** Counts connections, so that what belongs to an earlier one is ignored. */
  private dials = 0;
  private woken = false;

  constructor(private readonly options: ClientOptions) {
    this.instance = randomId();
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
      },
      {
        dial: (target) => void this.dial(target),
        hangUp: (code) => this.hangUp(code),
        refresh: () => void this.refresh(),
        changed: (state) => queueMicrotask(() => this.listeners.forEach((listener) => listener(state))),
        ready: (room) => this.ready(room),
        diagnostic: (error) => queueMicrotask(() => options.onDiagnostic?.(error)),
      },
    );
    globalThis.addEventListener?.('online', this.networkChanged);
  }

  /** Where the client stands. */
  get state(): ClientState {
    return this.session.state;
  }

  /** Calls `listener` after every change of state; returns what ends that. */
  onState(listener: (state: ClientState) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
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
    globalThis.removeEventListener?.('online', this.networkChanged);
    this.run((session) => session.close());
  }

  /** Tells that the network may have changed: the client tries at once instead of waiting. */
  readonly networkChanged = (): void => {
    this.run((session) => session.nudge(now()));
  };

  /** A room by its name. The same name gives the same object. */
  room(name: string): Room {
    let room = this.rooms.get(name);
    if (!room) this.rooms.set(name, (room = new Room(name, this)));
    return room;
  }

  /** Publishes; see `Room.publish`. */
  publish(input: PublishInput): Promise<Receipt> {
    return this.ask((settle) => this.session.publish(now(), input, settle));
  }

  /** Reads history; see `Room.history`. */
  history(room: string, history: Parameters<Session['history']>[2]): Promise<Page> {
    return this.ask((settle) => this.session.history(now(), room, history, settle));
  }

  /** Runs a command and sends what it led to. */
  run<T>(command: (session: Session, now: number) => T): T {
    const result = command(this.session, now());
    this.wake();
    return result;
  }

  private ask<T>(start: (settle: (result: T | LanecastError) => void) => void): Promise<T> {
    return new Promise((resolve, reject) => {
      this.run(() => start((result) => (result instanceof LanecastError ? reject(result) : resolve(result))));
    });
  }

  private ready(core: RoomCore): void {
    this.rooms.get(core.name)?.wake(core);
  }

  private async dial({ address, refused }: { address: string; refused: boolean }): Promise<void> {
    const dial = ++this.dials;
    const { token } = this.options;
    let text: string;
    try {
      // Never in the middle of the input that led here.
      await null;
      text = typeof token === 'string' ? token : await token({ refused });
    } catch (error) {
      if (dial === this.dials) this.run((session) => session.failed(now(), error));
      return;
    }
    if (dial === this.dials) this.open(dial, endpoint(this.options.url, address), text);
  }

  private open(dial: number, url: string, token: string): void {
    const Socket = this.options.WebSocket ?? (globalThis.WebSocket as unknown as SocketConstructor | undefined);
    if (!Socket) {
      const cause = LanecastError.local('USAGE', 'there is no WebSocket here: pass one in the options');
      return this.run((session) => session.close(cause));
    }
    let socket: SocketLike;
    try {
      socket = new Socket(url, ['lanecast.v1']);
    } catch (error) {
      return this.run((session) => session.close(LanecastError.local('USAGE', String(error), { cause: error })));
    }
    this.socket = socket;
    socket.binaryType = 'arraybuffer';
    const when = (then: (session: Session) => void) => {
      if (dial === this.dials) this.run(then);
    };
    socket.onopen = () => when((session) => session.opened(now(), token));
    socket.onerror = () => {};
    socket.onmessage = ({ data }: { data: unknown }) =>
      when((session) => {
        if (data instanceof ArrayBuffer) session.received(now(), new Uint8Array(data));
        else session.lost(now(), Code.TEXT_FRAME, 'the node sent text on the binary subprotocol');
      });
    socket.onclose = ({ code, reason }: { code: number; reason: string }) => when((session) => session.lost(now(), code, reason));
  }

  private hangUp(code: number): void {
    this.dials++;
    const { socket } = this;
    this.socket = undefined;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close(code);
  }

  private async refresh(): Promise<void> {
    const { token } = this.options;
    if (typeof token === 'string') return;
    try {
      const text = await token({ refused: false });
      this.run((session) => session.refresh(text));
    } catch (error) {
      this.options.onDiagnostic?.(error instanceof Error ? error : new Error(String(error)));
    }
  }

  /** Sends and sets the timer once all that happens now has happened. */
  private wake(): void {
    if (this.woken) return;
    this.woken = true;
    queueMicrotask(() => {
      this.woken = false;
      this.flush();
    });
  }

  private flush(): void {
    const { socket, session } = this;
    let full = false;
    while (socket && socket === this.socket) {
      full = socket.bufferedAmount >= SOCKET_BYTES_MAX;
      const message = full ? undefined : session.take(now(), SOCKET_BYTES_MAX);
      if (!message) break;
      socket.send(message as Uint8Array<ArrayBuffer>);
    }
    clearTimeout(this.timer);
    const deadline = session.deadline(now());
    const wait = deadline === undefined ? Infinity : Math.max(DRAIN_POLL_MS, deadline - now());
    const next = full ? Math.min(wait, DRAIN_POLL_MS) : wait;
    if (next === Infinity) return;
    this.timer = setTimeout(() => this.run((each) => each.tick(now())), Math.min(next, 2 ** 31 - 1));
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

function endpoint(url: string | URL, address: string): string {
  const base = new URL(url, globalThis.location?.href);
  base.protocol = base.protocol.replace('http', 'ws');
  if (!address) return base.href;
  const secure = base.protocol === 'wss:';
  try {
    const other = new URL(address.includes('://') ? address : `${base.protocol}//${address}${base.pathname}`);
    other.protocol = other.protocol.replace('http', 'ws');
    // A token that was trusted to TLS is not sent without it.
    return /^wss?:$/.test(other.protocol) && (other.protocol === 'wss:' || !secure) ? other.href : base.href;
  } catch {
    return base.href;
  }
}

function randomId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

function platform(): string {
  const agent = globalThis.navigator?.userAgent;
  return (agent ?? 'unknown').slice(0, 128);
}
