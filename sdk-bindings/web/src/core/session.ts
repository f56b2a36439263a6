/**
 * The client's side of the protocol, without I/O: bytes and time go in, bytes, deadlines and notices come out.
 *
 * One `Session` lives as long as the client, over all its connections. After every input its owner sends what
 * {@link Session.next} has and sets a timer for {@link Session.deadline}. Families of methods: inputs (`opened`,
 * `received`, `handle`, `lost`, `failed`, `tick`), commands (`connect`, `subscribe`, `publish`, …), outputs (`next`,
 * `deadline`, and the calls of {@link Host}).
 *
 * ```text
 *  idle ──connect──▶ connecting ──Welcome──▶ connected
 *                      ▲    │ lost              │ lost, GoAway, no Pong
 *                      │    ▼                   ▼
 *                      └─ suspended ◀───────────┘
 *  any ──close, a code that says stop──▶ closed
 * ```
 */
import { Code, LanecastError, reasonOf } from '../errors.js';
import * as wire from '../gen/wire.js';
import { type Init, WireError } from '../wire/codec.js';
import { type Body, frames, laneOf as laneOfBody, record } from '../wire/packet.js';
import { Flow } from './flow.js';
import { Outbox, OUTBOX_LIMITS, type OutboxLimits, type PublishInput, type Receipt } from './outbox.js';
import type { Link, Part } from './part.js';
import { laneOf, OUT_LANES, type OutLane } from './position.js';
import type { RoomCore } from './room.js';
import { Rooms } from './rooms.js';
import { SignalOutbox } from './signals.js';

/** Dialling and the handshake together take at most this long. */
const CONNECT_MS_MAX = 15_000;
/** After a hint a Pong is expected this soon (LC-QUIC-012, LC-SDK-022). */
const PROBE_MS = 2000;
/** A newer token is asked for this long before the present one expires, or a tenth of its life if that is less … */
const REFRESH_LEAD_MS_MAX = 60_000;
/** … and at most this often. */
const REFRESH_MIN_MS = 1000;

/** A record on its way out. */
export interface Output {
  lane: OutLane;
  record: Uint8Array;
}

/** State of a client. */
export type ClientState =
  | { name: 'idle' }
  | { name: 'connecting'; attempt: number }
  | { name: 'connected'; connectionId: string; node: string; user: string }
  | { name: 'suspended'; retryInMs: number; cause: LanecastError }
  | { name: 'closed'; cause: LanecastError };

/** What a session asks of its owner. Calls come in the middle of inputs: they must not call the session back. */
export interface Host {
  /** Get a token, a new one if the former was refused, and open a socket; answer with `opened`, `lost` or `failed`. */
  dial(target: { address: string; refused: boolean }): void;
  /** Drop the socket and everything that it may still say. */
  hangUp(code: number): void;
  /** Get a newer token and hand it to `refresh`, or say `notRefreshed`; `refused` as for `dial`. */
  refresh(refused: boolean): void;
  /** The state of the client changed. */
  changed(state: ClientState): void;
  /** The state of a room changed, or it has something to read. */
  ready(room: RoomCore): void;
  /** Something that nobody waits for went wrong. */
  diagnostic(error: Error): void;
}

/** What a session is made with. */
export interface SessionOptions {
  instance: string;
  device?: string;
  client: Init<wire.ClientInfo>;
  /** Between 0 and 1. */
  random: () => number;
  outbox?: Partial<OutboxLimits>;
  /** No lanes and no credit in what is sent: for comparison. */
  oneQueue?: boolean;
}

/** What a client can use (LC-HS-020); with one queue the last two are left out. */
const CAPABILITIES = [
  ...[wire.Capability.HISTORY, wire.Capability.SIGNALS, wire.Capability.REFRESH, wire.Capability.FOCUS],
  ...[wire.Capability.FRAGMENTS, wire.Capability.CREDIT],
];

/** When something is due, by what it is. */
interface Timers {
  connect?: number;
  retry?: number;
  ping?: number;
  pong?: number;
  leave?: number;
  refresh?: number;
}

/** The client's side of the protocol. */
export class Session implements Link {
  state: ClientState = { name: 'idle' };
  readonly rooms = new Rooms(this);
  readonly #parts: Part[] = [this.rooms];
  readonly outbox: Outbox;
  readonly signals = new SignalOutbox();
  /** Node's clock minus the clock of `now`, ms. */
  clockOffsetMs = 0;
  /** Round trip of the last Ping, ms; 0: not measured yet. */
  roundTripMs = 0;
  welcome: wire.Welcome | undefined;

  #control: Uint8Array[] = [];
  #ids = 0;
  /** Whether the transport keeps the order of lane urgent, and that between lanes. */
  ordered = true;
  /** Credit of the present connection. */
  #flows = flows();
  #window: wire.ReconnectWindow = { minMs: 500, maxMs: 20_000 };
  #attempt = 0;
  #address = '';
  #lastToken = '';
  #refusedToken: string | undefined;
  #refusedFor: LanecastError | undefined;
  /** The token that a RefreshToken bears, and its id. */
  #offered: { id: number; token: string } | undefined;
  /** When the token of the connection expires, on the clock of `now`. */
  #expiresAt = 0;
  #lastConnection = '';
  #connectedAt = Infinity;
  #due: Timers = {};
  /** Asked when it is time to connect; after a no it waits for `nudge`. */
  mayDial = (): boolean => true;
  /** After a hint, no Pong to a Ping from before this is an answer; 0: each is. */
  #probe = 0;

  /** Whether nothing is to be held back by the transport either. */
  readonly oneQueue: boolean;
  readonly #capabilities: readonly number[];
  readonly #options: SessionOptions;

  constructor(
    options: SessionOptions,
    readonly host: Host,
  ) {
    this.#options = options;
    this.oneQueue = options.oneQueue ?? false;
    this.#capabilities = this.oneQueue ? CAPABILITIES.slice(0, -2) : CAPABILITIES;
    this.outbox = new Outbox({ ...OUTBOX_LIMITS, ...options.outbox });
  }

  /** Adds a part of the protocol. */
  add<P extends Part>(part: P): P {
    this.#parts.push(part);
    return part;
  }

  // Commands.

  /** Starts to connect, and keeps connected until `close`. */
  connect(now: number): void {
    if (this.state.name !== 'idle' && this.state.name !== 'closed') return;
    this.#attempt = 0;
    this.#refusedFor = this.#refusedToken = undefined;
    this.#dial(now);
  }

  /** Ends everything; what is not settled is refused with `cause`. */
  close(cause = LanecastError.local('CLOSED', 'the client was closed'), code: number = Code.NORMAL): void {
    if (this.state.name === 'closed') return;
    this.host.hangUp(code);
    this.#disconnected();
    this.#set({ name: 'closed', cause });
    this.outbox.clear(cause);
    this.signals.clear();
    for (const part of this.#parts) part.close?.(cause);
  }

  /** The network may have changed: tries at once, or asks at once whether the node is there (LC-QUIC-012). */
  nudge(now: number): void {
    if (this.state.name === 'suspended') {
      this.#attempt = 0;
      this.#due.retry = now;
      this.tick(now);
    } else if (this.connected) this.#ping(now, PROBE_MS, now - 1);
  }

  /** Publishes; `settle` is called once. */
  publish(now: number, input: PublishInput, settle: (result: Receipt | LanecastError) => void): void {
    if (this.closed) return settle(this.closed);
    if (!input.durable && this.state.name !== 'connected') {
      return settle(LanecastError.local('OFFLINE', 'transients do not wait', { room: input.room }));
    }
    this.outbox.push(now, input, settle);
  }

  /** Signals; the newest of a room, type and key is sent when the rate allows it. */
  signal(now: number, signal: Init<wire.Signal> & { room: string; envelope: { type: string; key: string } }): void {
    const { room, envelope } = signal;
    if (this.state.name !== 'closed') this.signals.push(now, JSON.stringify([room, envelope.type, envelope.key]), signal);
  }

  /** A newer token, which `Host.refresh` was asked for. */
  refresh(now: number, token: string): void {
    if (!this.connected) return;
    // It would be refused again (LC-AUTH-022).
    if (token === this.#refusedToken) return this.notRefreshed(now);
    this.#offered = { id: this.send({ case: 'refreshToken', value: { token } }), token };
  }

  /** There is no newer token, or the node did not take it: asks again while the present one holds. */
  notRefreshed(now: number): void {
    const at = now + Math.max(REFRESH_MIN_MS, (this.#expiresAt - now) / 4);
    if (at < this.#expiresAt) this.#due.refresh = at;
  }

  // Inputs.

  /** The transport is open; `ordered` says whether it keeps the order of lane urgent, and that between lanes. */
  opened(now: number, token: string, ordered = true): void {
    if (this.state.name !== 'connecting') return;
    this.ordered = ordered;
    if (token === this.#refusedToken) {
      // It would be refused again (LC-AUTH-022).
      this.close(this.#refusedFor);
      return;
    }
    this.#lastToken = token;
    const { instance, device = '', client } = this.#options;
    const names = { token, instance, device, client, replaces: this.#lastConnection };
    const more = { capabilities: this.#capabilities, subscriptions: this.rooms.requests(now) };
    this.send({ case: 'hello', value: { versionMin: 1, versionMax: 1, ...names, ...more } });
  }

  /** No token could be had. */
  failed(now: number, error: unknown): void {
    if (this.state.name !== 'connecting') return;
    this.#suspend(now, LanecastError.local('TOKEN_PROVIDER', reasonOf(error), { cause: error }));
  }

  /** The socket is gone, with the close code that it knows. */
  lost(now: number, code: number, reason = ''): void {
    if (this.#open) this.#suspend(now, LanecastError.of(code, reason));
  }

  /** A message came. */
  received(now: number, packet: Uint8Array): void {
    try {
      for (const [frame, bytes] of frames(packet)) this.handle(now, frame, bytes);
    } catch (error) {
      if (!(error instanceof WireError)) throw error;
      this.malformed(now, error);
    }
  }

  /** The node broke the framing. */
  malformed(now: number, { message, code }: WireError): void {
    this.#giveUp(now, LanecastError.of(1002, message), code ?? Code.PROTOCOL);
  }

  /** A deadline may have passed. */
  tick(now: number): void {
    const due = (timer: keyof Timers) => (this.#due[timer] ?? Infinity) <= now;
    if (due('retry')) {
      this.#due = {};
      if (this.mayDial()) this.#dial(now);
    }
    if (due('connect')) this.#giveUp(now, LanecastError.local('TIMEOUT', 'no connection'));
    if (due('pong')) {
      // Who does not answer a hint is left for a new connection at once (LC-SDK-022).
      if (this.#probe) this.#due.leave = now;
      this.#giveUp(now, LanecastError.local('TIMEOUT', 'no Pong'));
    }
    if (due('leave')) this.#giveUp(now, LanecastError.of(Code.GOING_AWAY));
    if (due('ping')) this.#ping(now);
    if (due('refresh')) {
      delete this.#due.refresh;
      this.host.refresh(this.#refusedToken !== undefined);
    }
    this.#tellCredit(now);
    this.outbox.expire(now);
    for (const part of this.#parts) part.tick?.(now);
  }

  // Outputs.

  /** When to call `tick` next; Infinity: not at all. `now`: when outputs were taken last. */
  deadline(now: number): number {
    const all = [...Object.values(this.#due), this.outbox.deadline(now)];
    if (this.connected) all.push(...Object.values(this.#flows).map(({ dueAt }) => dueAt));
    for (const part of this.#parts) all.push(...(part.deadlines?.() ?? []));
    if (this.connected && this.serves(wire.Capability.SIGNALS)) all.push(this.signals.deadline());
    return Math.min(...all.map((at) => at ?? Infinity));
  }

  /** Whether credit lets a record of the lane leave now. */
  mayLeave(lane: OutLane, bytes: number): boolean {
    return !this.#credits || (this.#flows[lane]?.mayLeave(bytes) ?? true);
  }

  /** Whether there is a record of the lane that may leave now, at most `most` bytes of it at once. */
  ready(now: number, lane: OutLane, most = Infinity): boolean {
    if (lane === 'control') return this.#control.length > 0;
    if (!this.connected) return false;
    if (lane === 'signal') return this.serves(wire.Capability.SIGNALS) && this.signals.ready(now);
    const bytes = this.outbox.ready(now, lane);
    return bytes > 0 && this.mayLeave(lane, Math.min(bytes, most));
  }

  /** The next record of a lane that is {@link Session.ready}; `left` is to be told what of it leaves. */
  take(now: number, lane: OutLane): Uint8Array | undefined {
    if (lane === 'control') return this.#control.shift();
    return lane === 'signal' ? this.signals.next(now) : this.outbox.next(now, lane, () => this.#nextId(), this.clockOffsetMs);
  }

  /** So many bytes of records of a lane were handed to the transport. */
  left(now: number, lane: OutLane, bytes: number): void {
    this.#flows[lane]?.left(now, bytes);
    if (this.welcome) this.#due.ping = now + (this.welcome.heartbeat?.pingAfterMs || 25_000);
  }

  /** The next record for a transport with streams, of the highest lane that `free` lets pass; undefined: there is none. */
  next(now: number, free: (lane: OutLane) => boolean): Output | undefined {
    for (const lane of OUT_LANES) {
      const record = free(lane) && this.ready(now, lane) ? this.take(now, lane) : undefined;
      if (!record) continue;
      this.left(now, lane, record.length);
      return { lane, record };
    }
    return undefined;
  }

  // Connection.

  #dial(now: number): void {
    this.#due = { connect: now + CONNECT_MS_MAX };
    this.#set({ name: 'connecting', attempt: this.#attempt });
    this.host.dial({ address: this.#address, refused: this.#refusedFor !== undefined });
  }

  #giveUp(now: number, cause: LanecastError, code: number = Code.NORMAL): void {
    this.host.hangUp(code);
    this.#suspend(now, cause);
  }

  /** The connection ended: stop, or try again after a wait with full jitter (LC-LIFE-023). */
  #suspend(now: number, cause: LanecastError): void {
    if (cause.action === 'stop' && cause.code) return this.close(cause);
    if (cause.action === 'new-token') {
      this.#refusedToken = this.#lastToken;
      this.#refusedFor = cause;
    }
    if (now - this.#connectedAt >= this.#window.maxMs) this.#attempt = 0;
    // A node may have said when to come back, or where; an address that fails is not tried again.
    const away = this.#due.leave;
    if (this.state.name === 'connecting') this.#address = '';
    this.#disconnected();
    const most = Math.min(this.#window.maxMs, this.#window.minMs * 2 ** this.#attempt++);
    const wait = Math.max(this.#options.random() * most, cause.retryAfterMs);
    const retry = away ?? now + wait;
    this.#due = { retry };
    this.#set({ name: 'suspended', retryInMs: Math.max(0, retry - now), cause });
  }

  #disconnected(): void {
    this.#due = {};
    this.#connectedAt = Infinity;
    this.#control = [];
    this.#flows = flows();
    this.#offered = undefined;
    this.welcome = undefined;
    this.outbox.disconnected();
    for (const part of this.#parts) part.disconnected?.();
  }

  #ping(now: number, withinMs = this.welcome?.heartbeat?.pongWithinMs || 10_000, probe = 0): void {
    delete this.#due.ping;
    this.#probe = probe;
    this.#due.pong = Math.min(this.#due.pong ?? Infinity, now + withinMs);
    this.send({ case: 'ping', value: { stamp: Math.floor(now) } });
  }

  #welcomed(now: number, welcome: wire.Welcome): void {
    const { limits, reconnect, tokenExpiresAtMs, serverTimeMs, connectionId, node, user } = welcome;
    this.welcome = welcome;
    this.#lastConnection = connectionId;
    this.#connectedAt = now;
    this.#due = { ping: now + (welcome.heartbeat?.pingAfterMs || 25_000) };
    this.#refusedFor = this.#refusedToken = undefined;
    this.clockOffsetMs = serverTimeMs - now;
    if (reconnect?.maxMs) this.#window = reconnect;
    if (limits) this.#limit(limits);
    this.#expires(now, tokenExpiresAtMs);
    this.#set({ name: 'connected', connectionId, node, user });
    for (const part of this.#parts) part.welcomed?.(now);
  }

  #limit(limits: wire.Limits): void {
    this.outbox.inFlightMax = limits.publishesInFlight || 1;
    this.outbox.recordBytesMax = limits.recordBytes;
    this.signals.rate = limits.signalsPerSecond || 1;
    this.rooms.max = limits.rooms;
  }

  /** Asks for a newer token some time before the present one expires, where the node takes it. */
  #expires(now: number, atMs: number): void {
    delete this.#due.refresh;
    if (!atMs || !this.serves(wire.Capability.REFRESH)) return;
    this.#expiresAt = atMs - this.clockOffsetMs;
    const left = this.#expiresAt - now;
    // Clients that got their tokens at once do not ask for others at once.
    const lead = Math.min(REFRESH_LEAD_MS_MAX, left / 10) * (1 + this.#options.random() / 2);
    this.#due.refresh = now + Math.max(REFRESH_MIN_MS, left - lead);
  }

  get connected(): boolean {
    return this.state.name === 'connected';
  }

  get closed(): LanecastError | undefined {
    return this.state.name === 'closed' ? this.state.cause : undefined;
  }

  /** Whether there is, or may be, a transport. */
  get #open(): boolean {
    return this.connected || this.state.name === 'connecting';
  }

  serves(capability: number): boolean {
    return this.#capabilities.includes(capability) && (this.welcome?.capabilities.includes(capability) ?? true);
  }

  /** Whether both sides keep to Credit. */
  get #credits(): boolean {
    return this.serves(wire.Capability.CREDIT);
  }

  /** Whether long records are to be cut (LC-FRM-030). */
  get cuts(): boolean {
    return this.serves(wire.Capability.FRAGMENTS);
  }

  #set(state: ClientState): void {
    this.state = state;
    this.host.changed(state);
  }

  #nextId(): number {
    this.#ids = (this.#ids % 0xffff_fffe) + 1;
    return this.#ids;
  }

  send(body: Init<Body>, id = this.#nextId()): number {
    if (this.connected || body.case === 'hello') this.#control.push(record({ id, body } as Init<wire.Frame>));
    return id;
  }

  // Frames.

  /** A frame came, `bytes` long with its tag; throws {@link WireError} if a node may not send it. */
  handle(now: number, frame: wire.Frame, bytes: number): void {
    // A frame may have ended the connection that the rest came on.
    if (!this.#open) return;
    if (this.#credits) this.#flows[laneOf(laneOfBody(frame.body)) ?? '']?.took(now, bytes);
    this.#tellCredit(now);
    this.dispatch(now, frame, bytes);
  }

  dispatch(now: number, frame: wire.Frame, bytes: number): void {
    const { id, body } = frame;
    switch (body?.case) {
      case 'published':
        this.outbox.published(id, body.value);
        return;
      case 'error':
        return this.#refusal(now, id, body.value);
      case 'welcome':
        return this.#welcomed(now, body.value);
      case 'ping':
        this.send({ case: 'pong', value: { stamp: body.value.stamp } }, id);
        return;
      case 'pong': {
        const sentAt = body.value.stamp;
        if (sentAt >= this.#probe) delete this.#due.pong;
        this.roundTripMs = Math.max(1, now - sentAt);
        this.clockOffsetMs = body.value.serverTimeMs - (now - this.roundTripMs / 2);
        return;
      }
      case 'limits':
        return this.#limit(body.value);
      case 'tokenRefreshed':
        if (id === this.#offered?.id) this.#lastToken = this.#offered.token;
        this.#refusedToken = this.#offered = undefined;
        return this.#expires(now, body.value.expiresAtMs);
      case 'goAway':
        this.#due.leave = now + body.value.retryAfterMs;
        this.#address = body.value.address;
        return;
      case 'credit':
        if (this.#flows[laneOf(body.value.lane) ?? '']?.credited(now, body.value) === false) throw new WireError('LC-FLOW-010: impossible credit');
        return;
      default:
        this.#parts.some((part) => part.take(now, frame, bytes));
    }
  }

  #refusal(now: number, id: number, frame: wire.Error): void {
    const { code, detail, room: name, retryAfterMs, closing } = frame;
    const error = LanecastError.of(code, detail, { room: name, retryAfterMs });
    // The close code that follows says less, and may not reach a page.
    if (closing) return this.#giveUp(now, error);
    if (id) {
      if (this.outbox.refused(now, id, error)) return;
      if (id === this.#offered?.id) {
        // The connection goes on with the former token (LC-AUTH-021).
        const again = error.action === 'new-token';
        if (again) this.#refusedToken = this.#offered.token;
        if (again || error.retryable) this.notRefreshed(now);
        this.#offered = undefined;
      }
      if (this.#parts.some((part) => part.refused?.(now, id, error))) return;
    }
    this.host.diagnostic(error);
  }

  // Credit.

  #tellCredit(now: number): void {
    for (const flow of Object.values(this.connected ? this.#flows : {})) {
      const value = flow.credit(now);
      if (value) this.send({ case: 'credit', value }, 0);
    }
  }
}

/** Credit of each lane that has it, by its name. */
const flows = (): Record<string, Flow> => ({ normal: new Flow(wire.Lane.NORMAL), bulk: new Flow(wire.Lane.BULK) });
