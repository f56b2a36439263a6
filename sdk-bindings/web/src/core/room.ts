/**
 * One subscription, over connections: the tracker, the inbox, the live signals, and when to ask the node again.
 *
 * ```text
 *  subscribing ──Subscribed──▶ catching-up ──received = head──▶ live
 *       ▲                          ▲  │                          │
 *       │ connection lost          │  └──── degraded ◀───────────┤ the node cannot reach the log
 *       └──────────────────────────┴─── inbox full, hole ◀───────┘
 *  any ──Unsubscribed, refused for good, client closed──▶ ended
 * ```
 */
import { LanecastError } from '../errors.js';
import type { Event, FocusLevel, Gap, Start, Subscribe, Subscribed } from '../gen/wire.js';
import { MissedKnowledge } from '../gen/wire.js';
import type { Init } from '../wire/codec.js';
import { payload } from '../wire/packet.js';
import { type EventItem, Inbox } from './inbox.js';
import { laneOf, LANES, type LaneName, type Position } from './position.js';
import { LiveSignals } from './signals.js';
import { causeOf, Tracker, type Verdict } from './tracker.js';

/** Where the items of an inbox may pile up to; beyond it the room is left until the application caught up. */
export const INBOX_ITEMS_MAX = 10_000;
/** As {@link INBOX_ITEMS_MAX}, in bytes. */
export const INBOX_BYTES_MAX = 8 * 1024 * 1024;
/** A room is subscribed again at most this often. */
export const RESUBSCRIBE_MIN_MS = 1000;

/** State of a subscription. */
export type RoomState =
  | { name: 'subscribing' | 'live' | 'catching-up' | 'degraded' }
  | { name: 'ended'; cause: 'left' | 'revoked' | 'server' | 'refused' | 'closed'; error?: LanecastError };

/** What a subscription counted. */
export interface RoomStats {
  /** Events handed to the inbox. */
  events: number;
  /** Events and gaps dropped because they had come before. */
  duplicates: number;
  /** Gaps handed to the inbox. */
  gaps: number;
  /** Times that the room was subscribed. */
  subscriptions: number;
  /** Times that something was missing without a Gap. */
  holes: number;
  /** How many durable events the latest subscription was behind the head. */
  behind: number;
}

/** What to subscribe to. */
export interface RoomOptions {
  start: Init<Start> | undefined;
  signals: boolean;
  /** Whether the application reads events; else they only move the position. */
  events: boolean;
  /** Undefined: as the lane says. */
  focus?: FocusLevel | undefined;
}

/** One subscription. */
export class RoomCore {
  readonly inbox: Inbox;
  tracker: Tracker;
  readonly stats: RoomStats = { events: 0, duplicates: 0, gaps: 0, subscriptions: 0, holes: 0, behind: 0 };
  state: RoomState = { name: 'subscribing' };
  /** Id of the outstanding Subscribe; 0 for one inside Hello; undefined: none is outstanding. */
  pending: number | undefined;
  /** When to subscribe again; undefined: no need. */
  subscribeAt: number | undefined;
  /** When it was subscribed last. */
  subscribedAt = -Infinity;
  /** The inbox was full: nothing is asked for until the application caught up. */
  paused = false;
  /** Left, and not yet back: what is still under way is dropped, and read from the log later. */
  muted = false;
  /** Something of this subscription was dropped before its answer came, which streams let happen. */
  holeUnseen = false;
  #hole: { lane: LaneName; seq: number } | undefined;
  #head: Position | undefined;
  #degraded = false;
  /** A transient mark was known once, so that not knowing it any more is worth telling. */
  #marked = false;

  constructor(
    readonly name: string,
    public options: RoomOptions,
    at?: Position,
    readonly signals = new LiveSignals(name),
  ) {
    this.tracker = new Tracker(at);
    this.inbox = new Inbox(name);
    if (at) this.inbox.begin(at);
  }

  /** The Subscribe that asks for what is still missing. */
  request(): Init<Subscribe> {
    const { position, mark } = this.tracker;
    const start: Init<Start> | undefined = position ? { at: { case: 'position', value: position } } : this.options.start;
    return { room: this.name, start, transients: mark, signals: this.options.signals };
  }

  /** The connection is gone. */
  disconnected(): void {
    // Who does not read events has no use for those that it missed.
    if (this.options.events) this.tracker.disconnected();
    else this.tracker = new Tracker();
    this.pending = undefined;
    this.subscribeAt = undefined;
    this.#hole = undefined;
    this.holeUnseen = this.muted = false;
  }

  /** The inbox is full: the room is left until the application caught up. */
  pause(): void {
    this.paused = this.muted = true;
    this.pending = this.subscribeAt = undefined;
  }

  /** Takes Subscribed; throws `Misbehaviour`. */
  subscribed(frame: Subscribed): void {
    const before = this.tracker.position;
    const asked = frame.missedTransients;
    const change = this.tracker.subscribed(frame);
    const { position } = frame;
    if (!frame.cause) this.muted = false;
    if (!before) this.inbox.begin(position as Position);
    if (change) {
      this.#hole = undefined;
      this.inbox.changeEpoch(change);
      this.stats.gaps += change.gaps.length;
    }
    if (asked?.knowledge === MissedKnowledge.COUNT && asked.count) this.#missed(asked.count);
    else if (asked?.knowledge === MissedKnowledge.UNKNOWN || (this.#marked && !asked?.knowledge && !frame.cause)) this.#missed(0);
    this.#marked = this.tracker.mark !== undefined;
    this.#head = frame.head;
    this.#degraded = frame.degraded;
    this.stats.behind = frame.head ? LANES.reduce((sum, lane) => sum + this.#missing(lane), 0) : 0;
  }

  /** Takes a Subscribed with cause DEGRADED (LC-SUB-024); says whether it is about the present subscription. */
  stands(frame: Subscribed): boolean {
    const present = frame.handle === this.tracker.handle;
    if (present) this.#degraded = frame.degraded;
    return present;
  }

  #missed(count: number): void {
    this.stats.gaps++;
    this.inbox.transientGap(undefined, count, count ? 'dropped' : 'unknown');
  }

  #missing(lane: LaneName): number {
    return Math.max(0, (this.#head?.[lane] ?? 0) - (this.tracker.position?.[lane] ?? 0));
  }

  /** What the state is, given that the room is subscribed on a live connection. */
  progress(): 'live' | 'catching-up' | 'degraded' {
    if (this.#degraded) return 'degraded';
    if (this.#hole || this.paused || LANES.some((lane) => this.#missing(lane))) return 'catching-up';
    this.#head = undefined;
    return 'live';
  }

  /** Takes an event. `ordered`: the transport keeps the order of lane urgent; the other lanes have it always. */
  event(event: Event, bytes: number, ordered: boolean): Verdict {
    const lane = laneOf(event.lane);
    if (!lane) return 'revoked';
    const transient = event.seq === 0;
    if (transient) {
      this.tracker.transients(event.handle, lane, 1);
    } else {
      const verdict = this.tracker.range(event.handle, lane, event.seq, event.seq, ordered || lane !== 'urgent');
      if (verdict !== 'deliver') return this.#dropped(verdict, lane, event.seq);
      this.#healed();
    }
    this.stats.events++;
    const item = toItem(this.name, lane, this.tracker.epoch, event);
    if (this.options.events) this.inbox.event(item, bytes);
    return 'deliver';
  }

  /** Takes a gap, as {@link RoomCore.event}. */
  gap(frame: Gap, ordered: boolean): Verdict {
    const lane = laneOf(frame.lane);
    if (!lane) return 'revoked';
    if (!frame.from) {
      this.tracker.transients(frame.handle, lane, frame.count);
      this.stats.gaps++;
      if (this.options.events) this.inbox.transientGap(lane, frame.count, causeOf(frame.cause));
      return 'deliver';
    }
    const [verdict, news] = this.tracker.gap(frame, ordered || lane !== 'urgent');
    if (!news.length) return this.#dropped(verdict, lane, frame.to);
    this.#healed();
    for (const gap of news) {
      if (gap.cause !== 'filtered') this.stats.gaps++;
      if (this.options.events) this.inbox.gap(gap);
    }
    return verdict;
  }

  #dropped(verdict: Verdict, lane: LaneName, seq: number): Verdict {
    if (verdict === 'duplicate') this.stats.duplicates++;
    if (verdict === 'hole' && !this.#hole) {
      this.stats.holes++;
      this.#hole = { lane, seq };
    }
    return verdict;
  }

  /** Forgets the hole once what was behind it has come. */
  #healed(): void {
    const hole = this.#hole;
    if (hole && (this.tracker.position?.[hole.lane] ?? 0) >= hole.seq) {
      this.#hole = undefined;
      this.subscribeAt = undefined;
    }
  }

  /** Whether the inbox is full, so that nothing more may be taken in. */
  get full(): boolean {
    return this.inbox.length >= INBOX_ITEMS_MAX || this.inbox.bytes >= INBOX_BYTES_MAX;
  }

  /** Whether the application caught up far enough to go on. */
  get drained(): boolean {
    return this.inbox.length <= INBOX_ITEMS_MAX / 2 && this.inbox.bytes <= INBOX_BYTES_MAX / 2;
  }

  /** Asks for another Subscribe, at most one a second. */
  resubscribe(now: number, afterMs = 0): void {
    if (this.pending !== undefined || this.subscribeAt !== undefined || this.paused) return;
    this.subscribeAt = Math.max(now + afterMs, this.subscribedAt + RESUBSCRIBE_MIN_MS);
  }
}

/** An event of the wire as the application gets it. */
export function toItem(room: string, lane: LaneName, epoch: number, event: Event): EventItem {
  const { seq, order, timeMs, expiresAtMs } = event;
  const from = event.from ?? { user: '', service: '', instance: '' };
  const { type = '', key = '', contentType = '', headers = {}, body } = event.envelope ?? {};
  const numbers = { lane, epoch: seq ? epoch : 0, seq, order };
  const item: EventItem = { kind: 'event', room, ...numbers, type, key, contentType, headers, from, timeMs, expiresAtMs };
  return { ...item, ...payload(body) };
}
