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
import { Code, LanecastError } from '../errors.js';
import * as wire from '../gen/wire.js';
import { type Init, WireError } from '../wire/codec.js';
import { type Body, frames, record } from '../wire/packet.js';
import { type GapItem, type EventItem } from './inbox.js';
import { Outbox, OUTBOX_LIMITS, type OutboxLimits, type PublishInput, type Receipt } from './outbox.js';
import { laneOf, type Position } from './position.js';
import { RoomCore, type RoomOptions, type RoomState, toItem } from './room.js';
import { SignalOutbox } from './signals.js';
import { causeOf, Misbehaviour } from './tracker.js';

/** Frames whose handle is not known yet are held up to this many bytes … */
const HELD_BYTES_MAX = 64 * 1024;
/** … and this long, where they may overtake the Subscribed that names it (LC-QUIC-010). */
const HELD_MS_MAX = 2000;
/** Handles of dropped frames that are remembered: more than the rooms that a node lets a connection have. */
const DROPPED_MAX = 256;
/** Dialling and the handshake together take at most this long. */
const CONNECT_MS_MAX = 15_000;
/** A request other than Publish and Subscribe is given up after this long. */
const REQUEST_MS_MAX = 30_000;
/** Requests other than Publish and Subscribe that may wait at once. */
const REQUESTS_MAX = 64;
/** After a hint that the network changed, a Pong is expected this soon (LC-QUIC-012). */
const PROBE_MS = 2000;
/** A newer token is asked for this long before the present one expires, or a tenth of its life if that is less … */
const REFRESH_LEAD_MS_MAX = 60_000;
/** … and at most this often. */
const REFRESH_MIN_MS = 1000;

/** The lanes of what a client sends, highest first. */
export const OUT_LANES = ['control', 'urgent', 'normal', 'signal', 'bulk'] as const;
/** A lane of what a client sends. */
export type OutLane = (typeof OUT_LANES)[number];

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
}

/** A page of history. */
export interface Page {
  events: EventItem[];
  gaps: GapItem[];
  /** Where to read on; undefined: there is nothing further in this direction. */
  next: wire.Cursor | undefined;
  /** Subscribe from here after the last page of a snapshot. */
  head: Position | undefined;
}

/** The frames that bear a handle. */
type Delivered = Extract<Body, { case: 'event' | 'gap' | 'signal' }>;

interface Request {
  body: Init<Body>;
  until: number;
  settle: (answer: Body | LanecastError) => void;
}

/** The client's side of the protocol. */
export class Session {
  state: ClientState = { name: 'idle' };
  readonly rooms = new Map<string, RoomCore>();
  readonly outbox: Outbox;
  readonly signals = new SignalOutbox();
  /** Node's clock minus the clock of `now`, ms. */
  clockOffsetMs = 0;
  /** Round trip of the last Ping, ms; 0: not measured yet. */
  roundTripMs = 0;
  welcome: wire.Welcome | undefined;

  private control: Uint8Array[] = [];
  private ids = 0;
  private handles = new Map<number, RoomCore>();
  /** Whether the transport keeps the order of lane urgent, and that between lanes. */
  private ordered = true;
  private held: { body: Delivered; bytes: number }[] = [];
  private heldBytes = 0;
  /** Handles of which frames were dropped: nothing else need show that something is missing. */
  private dropped = new Set<number>();
  private requests = new Map<number, Request>();
  private window: wire.ReconnectWindow = { minMs: 500, maxMs: 20_000 };
  /** What the node accepts. */
  limits: wire.Limits = {
    ...{ recordBytes: 256 * 1024, messageBytes: 64 * 1024, rooms: 100 },
    ...{ publishesInFlight: 256, signalsPerSecond: 10, historyPage: 200 },
  };
  private attempt = 0;
  private address = '';
  private lastToken = '';
  private refusedToken: string | undefined;
  private refusedFor: LanecastError | undefined;
  /** The token that a RefreshToken bears, and its id. */
  private offered: { id: number; token: string } | undefined;
  /** When the token of the connection expires, on the clock of `now`. */
  private expiresAt = 0;
  private lastConnection = '';
  private connectedAt = Infinity;
  // Timers; undefined: not set.
  private connectBy: number | undefined;
  private retryAt: number | undefined;
  private pingAt: number | undefined;
  private pongBy: number | undefined;
  private leaveAt: number | undefined;
  private refreshAt: number | undefined;
  private heldUntil: number | undefined;

  constructor(
    private readonly options: SessionOptions,
    private readonly host: Host,
  ) {
    this.outbox = new Outbox({ ...OUTBOX_LIMITS, ...options.outbox });
  }

  // Commands.

  /** Starts to connect, and keeps connected until `close`. */
  connect(now: number): void {
    if (this.state.name !== 'idle' && this.state.name !== 'closed') return;
    this.attempt = 0;
    this.refusedFor = this.refusedToken = undefined;
    this.dial(now);
  }

  /** Ends everything; what is not settled is refused with `cause`. */
  close(cause = LanecastError.local('CLOSED', 'the client was closed'), code: number = Code.NORMAL): void {
    if (this.state.name === 'closed') return;
    this.host.hangUp(code);
    this.disconnected();
    this.retryAt = undefined;
    this.set({ name: 'closed', cause });
    this.outbox.clear(cause);
    this.signals.clear();
    for (const request of this.requests.values()) request.settle(cause);
    this.requests.clear();
    for (const room of [...this.rooms.values()]) this.end(room, { name: 'ended', cause: 'closed', error: cause });
  }

  /** The network may have changed: tries at once, or asks at once whether the node is there (LC-QUIC-012). */
  nudge(now: number): void {
    if (this.state.name === 'suspended') this.dial(now);
    else if (this.state.name === 'connected') this.ping(now, PROBE_MS);
  }

  /** Subscribes to a room, or adds to what is asked of it. */
  subscribe(now: number, name: string, options: RoomOptions, at?: Position): RoomCore {
    let room = this.rooms.get(name);
    if (room && options.events && !room.options.events) {
      // It was followed for its signals only: begin where the application wants.
      this.forget(room);
      const signals = options.signals || room.options.signals;
      this.rooms.set(name, (room = new RoomCore(name, { ...options, signals }, at, room.signals)));
    } else if (room) {
      if (!options.signals || room.options.signals) return room;
      room.options.signals = true;
    } else {
      this.rooms.set(name, (room = new RoomCore(name, options, at)));
    }
    if (this.state.name === 'connected') this.ask(now, room);
    return room;
  }

  /** Leaves a room. */
  unsubscribe(room: RoomCore): void {
    if (this.rooms.get(room.name) !== room) return;
    this.leave(room);
    this.end(room, { name: 'ended', cause: 'left' });
  }

  /** The application read from a room that was left because its inbox was full. */
  drained(now: number, room: RoomCore): void {
    if (!room.paused || !room.drained) return;
    room.paused = false;
    if (this.state.name === 'connected') room.resubscribe(now);
  }

  /** Publishes; `settle` is called once. */
  publish(now: number, input: PublishInput, settle: (result: Receipt | LanecastError) => void): void {
    if (this.state.name === 'closed') return settle(this.state.cause);
    if (!input.durable && this.state.name !== 'connected') {
      return settle(LanecastError.local('OFFLINE', 'transient events need a connection', { room: input.room }));
    }
    this.outbox.push(now, input, settle);
  }

  /** Signals; the newest of a room, type and key is sent when the rate allows it. */
  signal(now: number, signal: Init<wire.Signal> & { room: string; envelope: { type: string; key: string } }): void {
    const { room, envelope } = signal;
    if (this.state.name !== 'closed') this.signals.push(now, JSON.stringify([room, envelope.type, envelope.key]), signal);
  }

  /** Reads a page of history. It is asked for again if the connection goes before the answer. */
  history(now: number, room: string, history: Init<wire.History>, settle: (page: Page | LanecastError) => void): void {
    if (this.state.name === 'closed') return settle(this.state.cause);
    if (!this.serves(wire.Capability.HISTORY)) return settle(LanecastError.of(Code.UNIMPLEMENTED, '', { room }));
    if (this.requests.size >= REQUESTS_MAX) {
      return settle(LanecastError.local('OUTBOX_FULL', 'too many requests wait for their answers', { room }));
    }
    const body = { case: 'history', value: { ...history, room } } as Init<Body>;
    const answered = (answer: Body | LanecastError) => {
      if (answer instanceof LanecastError) settle(answer);
      else if (answer.case === 'historyPage') settle(page(answer.value));
    };
    const id = this.nextId();
    this.requests.set(id, { body, until: now + REQUEST_MS_MAX, settle: answered });
    if (this.state.name === 'connected') this.send(id, body);
  }

  /** A newer token, which `Host.refresh` was asked for. */
  refresh(now: number, token: string): void {
    if (this.state.name !== 'connected') return;
    // It would be refused again (LC-AUTH-022).
    if (token === this.refusedToken) return this.notRefreshed(now);
    const id = this.nextId();
    this.offered = { id, token };
    this.send(id, { case: 'refreshToken', value: { token } });
  }

  /** There is no newer token, or the node did not take it: asks again while the present one holds. */
  notRefreshed(now: number): void {
    const at = now + Math.max(REFRESH_MIN_MS, (this.expiresAt - now) / 4);
    if (at < this.expiresAt) this.refreshAt = at;
  }

  // Inputs.

  /** The transport is open; `ordered` says whether it keeps the order of lane urgent, and that between lanes. */
  opened(now: number, token: string, ordered = true): void {
    if (this.state.name !== 'connecting') return;
    this.ordered = ordered;
    if (token === this.refusedToken) {
      // It would be refused again (LC-AUTH-022).
      this.close(this.refusedFor);
      return;
    }
    this.lastToken = token;
    const subscriptions: Init<wire.Subscribe>[] = [];
    for (const room of this.rooms.values()) {
      if (room.paused) continue;
      room.pending = 0;
      room.subscribedAt = now;
      subscriptions.push(room.request());
    }
    const { instance, device = '', client } = this.options;
    const capabilities = [wire.Capability.HISTORY, wire.Capability.SIGNALS, wire.Capability.REFRESH];
    const names = { token, instance, device, client, replaces: this.lastConnection };
    this.send(this.nextId(), { case: 'hello', value: { versionMin: 1, versionMax: 1, ...names, capabilities, subscriptions } });
  }

  /** No token could be had. */
  failed(now: number, error: unknown): void {
    if (this.state.name !== 'connecting') return;
    const detail = error instanceof Error ? error.message : String(error);
    this.suspend(now, LanecastError.local('TOKEN_PROVIDER', detail, { cause: error }));
  }

  /** The socket is gone, with the close code that it knows. */
  lost(now: number, code: number, reason = ''): void {
    if (this.state.name !== 'connecting' && this.state.name !== 'connected') return;
    this.suspend(now, LanecastError.of(code, reason));
  }

  /** A message came. */
  received(now: number, packet: Uint8Array): void {
    try {
      for (const [frame, bytes] of frames(packet)) {
        // A frame may have ended the connection that the rest came on.
        if (this.state.name !== 'connecting' && this.state.name !== 'connected') return;
        this.handle(now, frame, bytes);
      }
    } catch (error) {
      if (!(error instanceof WireError)) throw error;
      this.malformed(now, error.message);
    }
  }

  /** The node broke the framing. */
  malformed(now: number, detail: string): void {
    this.giveUp(now, LanecastError.of(1002, `the node sent what is no packet: ${detail}`), Code.PROTOCOL);
  }

  /** A deadline may have passed. */
  tick(now: number): void {
    const due = (at: number | undefined) => at !== undefined && at <= now;
    if (due(this.retryAt)) this.dial(now);
    if (due(this.connectBy)) this.giveUp(now, LanecastError.local('TIMEOUT', 'no connection in time'));
    if (due(this.pongBy)) this.giveUp(now, LanecastError.local('TIMEOUT', 'no Pong in time'));
    if (due(this.leaveAt)) this.giveUp(now, LanecastError.of(Code.GOING_AWAY));
    if (due(this.pingAt)) this.ping(now);
    if (due(this.refreshAt)) {
      this.refreshAt = undefined;
      this.host.refresh(this.refusedToken !== undefined);
    }
    if (due(this.heldUntil)) this.dropHeld(now);
    this.outbox.expire(now);
    for (const [id, request] of this.requests) {
      if (request.until > now) continue;
      this.requests.delete(id);
      request.settle(LanecastError.local('TIMEOUT', 'no answer in time'));
    }
    for (const room of this.rooms.values()) {
      room.signals.expire(now);
      if (due(room.subscribeAt) && this.state.name === 'connected') this.ask(now, room);
    }
  }

  // Outputs.

  /** When to call `tick` next. */
  deadline(now: number): number | undefined {
    const connected = this.state.name === 'connected';
    const all = [this.connectBy, this.retryAt, this.pingAt, this.pongBy, this.leaveAt, this.refreshAt, this.heldUntil];
    const signals = connected && this.serves(wire.Capability.SIGNALS);
    all.push(this.outbox.deadline(now), signals ? this.signals.deadline() : undefined);
    for (const request of this.requests.values()) all.push(request.until);
    for (const room of this.rooms.values()) all.push(room.subscribeAt, room.signals.deadline());
    const next = all.reduce<number>((least, at) => Math.min(least, at ?? Infinity), Infinity);
    return next === Infinity ? undefined : next;
  }

  /** The next record to send, of the highest lane that `free` lets pass; undefined: there is none. */
  next(now: number, free: (lane: OutLane) => boolean): Output | undefined {
    for (const lane of OUT_LANES) {
      const record = free(lane) ? this.nextOf(now, lane) : undefined;
      if (!record) continue;
      if (this.welcome) this.pingAt = now + (this.welcome.heartbeat?.pingAfterMs || 25_000);
      return { lane, record };
    }
    return undefined;
  }

  private nextOf(now: number, lane: OutLane): Uint8Array | undefined {
    if (lane === 'control') return this.control.shift();
    if (this.state.name !== 'connected') return undefined;
    if (lane !== 'signal') return this.outbox.next(now, lane, () => this.nextId());
    return this.serves(wire.Capability.SIGNALS) ? this.signals.next(now) : undefined;
  }

  // Connection.

  private dial(now: number): void {
    this.retryAt = undefined;
    this.connectBy = now + CONNECT_MS_MAX;
    this.set({ name: 'connecting', attempt: this.attempt });
    this.host.dial({ address: this.address, refused: this.refusedFor !== undefined });
  }

  private giveUp(now: number, cause: LanecastError, code: number = Code.NORMAL): void {
    this.host.hangUp(code);
    this.suspend(now, cause);
  }

  /** The connection ended: stop, or try again after a wait with full jitter (LC-LIFE-023). */
  private suspend(now: number, cause: LanecastError): void {
    if (cause.action === 'stop' && cause.code) return this.close(cause);
    if (cause.action === 'new-token') {
      this.refusedToken = this.lastToken;
      this.refusedFor = cause;
    }
    if (now - this.connectedAt >= this.window.maxMs) this.attempt = 0;
    // A node may have said when to come back, or where; an address that fails is not tried again.
    const away = this.leaveAt;
    if (this.state.name === 'connecting') this.address = '';
    this.disconnected();
    const most = Math.min(this.window.maxMs, this.window.minMs * 2 ** this.attempt++);
    const wait = Math.max(this.options.random() * most, cause.retryAfterMs);
    this.retryAt = away ?? now + wait;
    this.set({ name: 'suspended', retryInMs: Math.max(0, this.retryAt - now), cause });
  }

  private disconnected(): void {
    this.connectBy = this.pingAt = this.pongBy = this.leaveAt = this.refreshAt = this.heldUntil = undefined;
    this.connectedAt = Infinity;
    this.control = [];
    this.handles.clear();
    this.held = [];
    this.heldBytes = 0;
    this.dropped.clear();
    this.offered = undefined;
    this.welcome = undefined;
    this.outbox.disconnected();
    for (const room of this.rooms.values()) {
      room.disconnected();
      this.setRoom(room, { name: room.paused ? 'catching-up' : 'subscribing' });
    }
  }

  private ping(now: number, withinMs = this.welcome?.heartbeat?.pongWithinMs || 10_000): void {
    this.pingAt = undefined;
    this.pongBy = Math.min(this.pongBy ?? Infinity, now + withinMs);
    this.send(this.nextId(), { case: 'ping', value: { stamp: Math.floor(now) } });
  }

  private welcomed(now: number, welcome: wire.Welcome): void {
    const { limits, reconnect, tokenExpiresAtMs, serverTimeMs, connectionId, node, user } = welcome;
    this.welcome = welcome;
    this.lastConnection = connectionId;
    this.connectedAt = now;
    this.connectBy = undefined;
    this.pingAt = now + (welcome.heartbeat?.pingAfterMs || 25_000);
    this.refusedFor = this.refusedToken = undefined;
    this.clockOffsetMs = serverTimeMs - now;
    if (reconnect?.maxMs) this.window = reconnect;
    if (limits) this.limit(limits);
    this.expires(now, tokenExpiresAtMs);
    this.set({ name: 'connected', connectionId, node, user });
    for (const [id, { body }] of this.requests) this.send(id, body);
    for (const room of this.rooms.values()) if (room.pending === undefined && !room.paused) this.ask(now, room);
  }

  private limit(limits: wire.Limits): void {
    this.limits = limits;
    this.outbox.inFlightMax = limits.publishesInFlight || 1;
    this.outbox.recordBytesMax = limits.recordBytes;
    this.signals.rate = limits.signalsPerSecond || 1;
  }

  /** Asks for a newer token some time before the present one expires, where the node takes it. */
  private expires(now: number, atMs: number): void {
    this.refreshAt = undefined;
    if (!atMs || !this.serves(wire.Capability.REFRESH)) return;
    this.expiresAt = atMs - this.clockOffsetMs;
    const left = this.expiresAt - now;
    // Clients that got their tokens at once do not ask for others at once.
    const lead = Math.min(REFRESH_LEAD_MS_MAX, left / 10) * (1 + this.options.random() / 2);
    this.refreshAt = now + Math.max(REFRESH_MIN_MS, left - lead);
  }

  /** Whether the node serves an optional part (LC-HS-020); true as long as nothing is known. */
  private serves(capability: number): boolean {
    return this.welcome?.capabilities.includes(capability) ?? true;
  }

  private set(state: ClientState): void {
    this.state = state;
    this.host.changed(state);
  }

  private nextId(): number {
    this.ids = (this.ids % 0xffff_fffe) + 1;
    return this.ids;
  }

  private send(id: number, body: Init<Body>): void {
    this.control.push(record({ id, body } as Init<wire.Frame>));
  }

  // Frames.

  /** A frame came, `bytes` long with its tag. */
  handle(now: number, { id, body }: wire.Frame, bytes: number): void {
    switch (body?.case) {
      case 'event':
      case 'gap':
      case 'signal':
        return this.delivered(now, body, bytes);
      case 'published':
        this.outbox.published(id, body.value);
        return;
      case 'error':
        return this.refusal(now, id, body.value);
      case 'welcome':
        return this.welcomed(now, body.value);
      case 'subscribed':
        return this.subscribed(now, id, body.value);
      case 'unsubscribed':
        return this.unsubscribed(now, body.value);
      case 'historyPage': {
        const request = this.requests.get(id);
        this.requests.delete(id);
        request?.settle(body);
        return;
      }
      case 'ping':
        return this.send(id, { case: 'pong', value: { stamp: body.value.stamp } });
      case 'pong': {
        const sentAt = body.value.stamp;
        this.pongBy = undefined;
        this.roundTripMs = Math.max(1, now - sentAt);
        this.clockOffsetMs = body.value.serverTimeMs - (now - this.roundTripMs / 2);
        return;
      }
      case 'limits':
        return this.limit(body.value);
      case 'tokenRefreshed':
        if (id === this.offered?.id) this.lastToken = this.offered.token;
        this.refusedToken = this.offered = undefined;
        return this.expires(now, body.value.expiresAtMs);
      case 'goAway':
        this.leaveAt = now + body.value.retryAfterMs;
        this.address = body.value.address;
    }
  }

  private refusal(now: number, id: number, frame: wire.Error): void {
    const { code, detail, room: name, retryAfterMs, closing } = frame;
    const error = LanecastError.of(code, detail, { room: name, retryAfterMs });
    // The close code that follows says less, and may not reach a page.
    if (closing) return this.giveUp(now, error);
    if (id) {
      if (this.outbox.refused(now, id, error)) return;
      if (id === this.offered?.id) {
        // The connection goes on with the former token (LC-AUTH-021).
        const again = error.action === 'new-token';
        if (again) this.refusedToken = this.offered.token;
        if (again || error.retryable) this.notRefreshed(now);
        this.offered = undefined;
      }
      const request = this.requests.get(id);
      if (request) {
        this.requests.delete(id);
        return request.settle(error);
      }
      for (const room of this.rooms.values()) if (room.pending === id) return this.notSubscribed(now, room, error);
    }
    this.host.diagnostic(error);
  }

  // Rooms.

  private ask(now: number, room: RoomCore): void {
    room.pending = this.nextId();
    room.subscribeAt = undefined;
    room.subscribedAt = now;
    this.send(room.pending, { case: 'subscribe', value: room.request() });
  }

  private subscribed(now: number, id: number, frame: wire.Subscribed): void {
    const room = this.rooms.get(frame.room);
    const asked = frame.cause === wire.SubscribedCause.UNSPECIFIED;
    // It may answer what was asked before the room was left, or asked for anew.
    if (!room || (asked && id !== room.pending)) return;
    // While an answer is outstanding only that counts, since it tells all (LC-RES-016).
    if (!asked && room.pending !== undefined) return;
    if (frame.cause === wire.SubscribedCause.DEGRADED) {
      // It says only whether the log can be reached: nothing moves, and nothing that was missed is less missed.
      if (room.stands(frame)) this.setRoom(room, { name: room.progress() });
      return;
    }
    if (asked) room.pending = undefined;
    try {
      room.subscribed(frame);
    } catch (error) {
      if (!(error instanceof Misbehaviour)) throw error;
      this.host.diagnostic(error);
      return room.resubscribe(now);
    }
    room.stats.subscriptions++;
    room.subscribeAt = undefined;
    for (const handle of room.tracker.handles) this.handles.set(handle, room);
    const { held } = this;
    this.held = [];
    this.heldBytes = 0;
    for (const { body, bytes } of held) this.delivered(now, body, bytes);
    if (!this.held.length) this.heldUntil = undefined;
    if (this.dropped.delete(frame.handle) || room.holeUnseen) {
      room.holeUnseen = false;
      room.resubscribe(now);
    }
    this.setRoom(room, { name: room.progress() });
    this.host.ready(room);
  }

  private unsubscribed(now: number, frame: wire.Unsubscribed): void {
    const room = this.rooms.get(frame.room);
    // Without a cause it answers what this session asked for itself.
    if (!room || frame.cause === wire.UnsubscribedCause.UNSPECIFIED) return;
    if (frame.cause === wire.UnsubscribedCause.REFUSED) return this.notSubscribed(now, room, LanecastError.of(frame.code));
    const cause = frame.cause === wire.UnsubscribedCause.REVOKED ? 'revoked' : 'server';
    const error = LanecastError.of(frame.code || Code.FORBIDDEN, `the subscription ended: ${cause}`, { room: room.name });
    this.end(room, { name: 'ended', cause, error });
  }

  private notSubscribed(now: number, room: RoomCore, error: LanecastError): void {
    room.pending = undefined;
    if (!error.retryable) return this.end(room, { name: 'ended', cause: 'refused', error });
    room.resubscribe(now, error.retryAfterMs);
    if (error.code === Code.UNAVAILABLE) this.setRoom(room, { name: 'degraded' });
  }

  /** Tells the node that nothing more of the room is wanted. */
  private leave(room: RoomCore): void {
    const asked = room.pending !== undefined || room.tracker.handle;
    if (this.state.name === 'connected' && asked) this.send(this.nextId(), { case: 'unsubscribe', value: { room: room.name } });
    this.forget(room);
  }

  private forget(room: RoomCore): void {
    for (const handle of room.tracker.handles) this.handles.delete(handle);
    room.disconnected();
  }

  private end(room: RoomCore, state: RoomState): void {
    this.forget(room);
    this.rooms.delete(room.name);
    this.setRoom(room, state);
  }

  private setRoom(room: RoomCore, state: RoomState): void {
    if (room.state.name === state.name) return;
    room.state = state;
    this.host.ready(room);
  }

  private delivered(now: number, body: Delivered, bytes: number): void {
    const { ordered } = this;
    const { handle } = body.value;
    const room = this.handles.get(handle);
    if (!room?.tracker.knows(handle)) {
      // Where the order is kept there is nothing to wait for: the handle is one that ended.
      if (!ordered) this.hold(now, body, bytes);
      return;
    }
    if (room.muted) {
      // It may also be what follows the answer that is awaited, and have overtaken it.
      if (room.pending !== undefined) room.holeUnseen = !ordered;
      return;
    }
    if (body.case === 'signal') {
      if (room.signals.take(now, this.clockOffsetMs, body.value)) this.host.ready(room);
      return;
    }
    if (room.full) {
      // The application is behind: leave, and come back from *received* when it caught up. Nothing is lost by that.
      room.pause();
      this.send(this.nextId(), { case: 'unsubscribe', value: { room: room.name } });
      return this.setRoom(room, { name: 'catching-up' });
    }
    const verdict = body.case === 'event' ? room.event(body.value, bytes, ordered) : room.gap(body.value, ordered);
    if (verdict === 'hole' && room.pending === undefined) room.resubscribe(now);
    // What follows the answer may have overtaken it, so the answer is not known to cure this.
    else if (verdict === 'hole') room.holeUnseen = !ordered;
    else if (verdict === 'deliver') this.host.ready(room);
    this.setRoom(room, { name: room.progress() });
  }

  private hold(now: number, body: Delivered, bytes: number): void {
    this.held.push({ body, bytes });
    this.heldBytes += bytes;
    this.heldUntil ??= now + HELD_MS_MAX;
    if (this.heldBytes > HELD_BYTES_MAX) this.dropHeld(now);
  }

  /** The handles did not become known in time: ask again for every room whose Subscribed is outstanding. */
  private dropHeld(now: number): void {
    for (const { body } of this.held) {
      const [oldest] = this.dropped;
      if (oldest !== undefined && this.dropped.size >= DROPPED_MAX) this.dropped.delete(oldest);
      this.dropped.add(body.value.handle);
    }
    this.held = [];
    this.heldBytes = 0;
    this.heldUntil = undefined;
    for (const room of this.rooms.values()) {
      if (room.pending === undefined) continue;
      room.pending = undefined;
      room.resubscribe(now);
    }
  }
}

function page(value: wire.HistoryPage): Page {
  const { room, next, head } = value;
  const events = value.events.flatMap((event) => {
    const lane = laneOf(event.lane);
    return lane ? [toItem(room, lane, event.epoch, event)] : [];
  });
  const gaps = value.gaps.flatMap(({ lane: number, epoch, from, to, cause, refillable }): GapItem[] => {
    const lane = laneOf(number);
    const range = { from, to: to || undefined, count: to ? to - from + 1 : undefined };
    return lane ? [{ kind: 'gap', room, lane, epoch, ...range, cause: causeOf(cause), refillable }] : [];
  });
  return { events, gaps, next, head };
}
