/**
 * The subscriptions of a client: what is asked of the node, by which handles its frames name the rooms, and what is done
 * with frames that come before their handle is known.
 */
import { Code, LanecastError } from '../errors.js';
import * as wire from '../gen/wire.js';
import type { Init } from '../wire/codec.js';
import type { Body } from '../wire/packet.js';
import type { Link, Part } from './part.js';
import type { Position } from './position.js';
import { RoomCore, type RoomOptions, type RoomState } from './room.js';
import { Misbehaviour } from './tracker.js';

/** Frames whose handle is not known yet are held up to this many bytes … */
const HELD_BYTES_MAX = 64 * 1024;
/** … and this long, where they may overtake the Subscribed that names it (LC-QUIC-010). */
const HELD_MS_MAX = 2000;
/** Handles of dropped frames that are remembered: more than the rooms that a node lets a connection have. */
const DROPPED_MAX = 256;

/** The frames that bear a handle. */
type Delivered = Extract<Body, { case: 'event' | 'gap' | 'signal' }>;

/** The rooms of a client, by name. */
export class Rooms extends Map<string, RoomCore> implements Part {
  #handles = new Map<number, RoomCore>();
  #held: { body: Delivered; bytes: number }[] = [];
  #heldBytes = 0;
  #heldUntil: number | undefined;
  /** Handles of which frames were dropped: nothing else need show that something is missing. */
  #dropped = new Set<number>();
  readonly #link: Link;
  /** Rooms of a connection, as the node said last: Hello holds no more, and what is left follows Welcome. */
  max: number | undefined;

  constructor(link: Link) {
    super();
    this.#link = link;
  }

  // Commands.

  /** Subscribes to a room, or adds to what is asked of it. */
  subscribe(now: number, name: string, options: RoomOptions, at?: Position): RoomCore {
    let room = this.get(name);
    if (room && options.events && !room.options.events) {
      // It was followed for its signals only: begin where the application wants.
      this.#forget(room);
      const signals = options.signals || room.options.signals;
      this.set(name, (room = new RoomCore(name, { ...options, signals }, at, room.signals)));
    } else if (room) {
      if (!options.signals || room.options.signals) return room;
      room.options.signals = true;
    } else {
      this.set(name, (room = new RoomCore(name, options, at)));
    }
    if (this.#link.connected) this.#ask(now, room);
    return room;
  }

  /** Leaves a room. */
  leave(room: RoomCore): void {
    if (this.get(room.name) !== room) return;
    const asked = room.pending !== undefined || room.tracker.handle;
    if (this.#link.connected && asked) this.#link.send({ case: 'unsubscribe', value: { room: room.name } });
    this.#end(room, { name: 'ended', cause: 'left' });
  }

  /** The application read from a room that was left because its inbox was full. */
  drained(now: number, room: RoomCore): void {
    if (!room.paused || !room.drained) return;
    room.paused = false;
    if (this.#link.connected) room.resubscribe(now);
  }

  /** Raises or lowers a room among those of this client; it is told again on every connection (LC-FLOW-020). */
  focus(room: RoomCore, level: wire.FocusLevel): void {
    room.options.focus = level;
    if (room.pending === undefined && room.tracker.handle) this.#tellFocus(room);
  }

  #tellFocus({ name, options: { focus } }: RoomCore): void {
    if (focus && this.#link.serves(wire.Capability.FOCUS)) this.#link.send({ case: 'focus', value: { room: name, level: focus } });
  }

  close(error: LanecastError): void {
    for (const room of [...this.values()]) this.#end(room, { name: 'ended', cause: 'closed', error });
  }

  // The connection.

  /** What Hello asks for. */
  requests(now: number): Init<wire.Subscribe>[] {
    const wanted = [...this.values()].filter((room) => !room.paused).slice(0, this.max);
    return wanted.map((room) => {
      room.pending = 0;
      room.subscribedAt = now;
      return room.request();
    });
  }

  /** Asks for what came up since Hello. */
  welcomed(now: number): void {
    for (const room of this.values()) if (room.pending === undefined && !room.paused) this.#ask(now, room);
  }

  disconnected(): void {
    this.#handles.clear();
    this.#release();
    this.#dropped.clear();
    for (const room of this.values()) {
      room.disconnected();
      this.#setState(room, { name: room.paused ? 'catching-up' : 'subscribing' });
    }
  }

  tick(now: number): void {
    if (this.#heldUntil && this.#heldUntil <= now) this.#dropHeld(now);
    for (const room of this.values()) {
      room.signals.expire(now);
      if (this.#link.connected && room.subscribeAt && room.subscribeAt <= now) this.#ask(now, room);
    }
  }

  deadlines(): (number | undefined)[] {
    return [this.#heldUntil, ...[...this.values()].flatMap((room) => [room.subscribeAt, room.signals.deadline()])];
  }

  #ask(now: number, room: RoomCore): void {
    room.subscribeAt = undefined;
    room.subscribedAt = now;
    room.pending = this.#link.send({ case: 'subscribe', value: room.request() });
  }

  // Frames.

  take(now: number, { id, body }: wire.Frame, bytes: number): boolean {
    switch (body?.case) {
      case 'event':
      case 'gap':
      case 'signal':
        this.#delivered(now, body, bytes);
        return true;
      case 'subscribed':
        this.#subscribed(now, id, body.value);
        return true;
      case 'unsubscribed':
        this.#unsubscribed(now, body.value);
        return true;
    }
    return false;
  }

  #subscribed(now: number, id: number, frame: wire.Subscribed): void {
    const room = this.get(frame.room);
    const asked = frame.cause === wire.SubscribedCause.UNSPECIFIED;
    // It may answer what was asked before the room was left, or asked for anew.
    if (!room || (asked && id !== room.pending)) return;
    // While an answer is outstanding only that counts, since it tells all (LC-RES-016).
    if (!asked && room.pending !== undefined) return;
    if (frame.cause === wire.SubscribedCause.DEGRADED) {
      // It says only whether the log can be reached: nothing moves, and nothing that was missed is less missed.
      if (room.stands(frame)) this.#setState(room, { name: room.progress() });
      return;
    }
    if (asked) room.pending = undefined;
    try {
      room.subscribed(frame);
    } catch (error) {
      if (!(error instanceof Misbehaviour)) throw error;
      this.#link.host.diagnostic(error);
      return room.resubscribe(now);
    }
    if (asked) this.#tellFocus(room);
    room.stats.subscriptions++;
    room.subscribeAt = undefined;
    for (const handle of room.tracker.handles) this.#handles.set(handle, room);
    const heldUntil = this.#heldUntil;
    for (const { body, bytes } of this.#release()) this.#delivered(now, body, bytes);
    // What still waits does not wait longer for that.
    if (this.#held.length) this.#heldUntil = heldUntil;
    if (this.#dropped.delete(frame.handle) || room.holeUnseen) {
      room.holeUnseen = false;
      room.resubscribe(now);
    }
    this.#setState(room, { name: room.progress() });
    this.#link.host.ready(room);
  }

  #unsubscribed(now: number, frame: wire.Unsubscribed): void {
    const room = this.get(frame.room);
    // Without a cause it answers what this session asked for itself.
    if (!room || frame.cause === wire.UnsubscribedCause.UNSPECIFIED) return;
    if (frame.cause === wire.UnsubscribedCause.REFUSED) return this.#notSubscribed(now, room, LanecastError.of(frame.code));
    const cause = frame.cause === wire.UnsubscribedCause.REVOKED ? 'revoked' : 'server';
    const error = LanecastError.of(frame.code || Code.FORBIDDEN, `the subscription ended: ${cause}`, { room: room.name });
    this.#end(room, { name: 'ended', cause, error });
  }

  refused(now: number, id: number, error: LanecastError): boolean {
    const room = [...this.values()].find((each) => each.pending === id);
    if (room) this.#notSubscribed(now, room, error);
    return room !== undefined;
  }

  #notSubscribed(now: number, room: RoomCore, error: LanecastError): void {
    room.pending = undefined;
    if (!error.retryable) return this.#end(room, { name: 'ended', cause: 'refused', error });
    room.resubscribe(now, error.retryAfterMs);
    if (error.code === Code.UNAVAILABLE) this.#setState(room, { name: 'degraded' });
  }

  #forget(room: RoomCore): void {
    for (const handle of room.tracker.handles) this.#handles.delete(handle);
    room.disconnected();
  }

  #end(room: RoomCore, state: RoomState): void {
    this.#forget(room);
    this.delete(room.name);
    this.#setState(room, state);
  }

  #setState(room: RoomCore, state: RoomState): void {
    if (room.state.name === state.name) return;
    room.state = state;
    this.#link.host.ready(room);
  }

  #delivered(now: number, body: Delivered, bytes: number): void {
    const { ordered } = this.#link;
    const { handle } = body.value;
    const room = this.#handles.get(handle);
    if (!room?.tracker.knows(handle)) {
      // Where the order is kept there is nothing to wait for: the handle is one that ended.
      if (!ordered) this.#hold(now, body, bytes);
      return;
    }
    if (room.muted) {
      // It may also be what follows the answer that is awaited, and have overtaken it.
      if (room.pending !== undefined) room.holeUnseen = !ordered;
      return;
    }
    if (body.case === 'signal') {
      if (room.signals.take(now, this.#link.clockOffsetMs, body.value)) this.#link.host.ready(room);
      return;
    }
    if (room.full) {
      // The application is behind: leave, and come back from *received* when it caught up. Nothing is lost by that.
      room.pause();
      this.#link.send({ case: 'unsubscribe', value: { room: room.name } });
      return this.#setState(room, { name: 'catching-up' });
    }
    const verdict = body.case === 'event' ? room.event(body.value, bytes, ordered) : room.gap(body.value, ordered);
    if (verdict === 'hole' && room.pending === undefined) room.resubscribe(now);
    // What follows the answer may have overtaken it, so the answer is not known to cure this.
    else if (verdict === 'hole') room.holeUnseen = !ordered;
    else if (verdict === 'deliver') this.#link.host.ready(room);
    this.#setState(room, { name: room.progress() });
  }

  #hold(now: number, body: Delivered, bytes: number): void {
    this.#held.push({ body, bytes });
    this.#heldBytes += bytes;
    this.#heldUntil ??= now + HELD_MS_MAX;
    if (this.#heldBytes > HELD_BYTES_MAX) this.#dropHeld(now);
  }

  /** What was held, which is held no more. */
  #release(): { body: Delivered; bytes: number }[] {
    const held = this.#held;
    this.#held = [];
    this.#heldBytes = 0;
    this.#heldUntil = undefined;
    return held;
  }

  /** The handles did not become known in time: ask again for every room whose Subscribed is outstanding. */
  #dropHeld(now: number): void {
    for (const { body } of this.#release()) {
      const [oldest] = this.#dropped;
      if (oldest !== undefined && this.#dropped.size >= DROPPED_MAX) this.#dropped.delete(oldest);
      this.#dropped.add(body.value.handle);
    }
    for (const room of this.values()) {
      if (room.pending === undefined) continue;
      room.pending = undefined;
      room.resubscribe(now);
    }
  }
}
