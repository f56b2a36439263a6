/**
 * Pages of history. A request is asked again on the next connection, and given up after a while. Loaded when the first page
 * is asked for.
 */
import { Code, LanecastError } from '../errors.js';
import { Capability, type Cursor, type Frame, type History, type HistoryPage } from '../gen/wire.js';
import type { Init } from '../wire/codec.js';
import type { EventItem, GapItem } from './inbox.js';
import type { Link, Part } from './part.js';
import { laneOf, type Position } from './position.js';
import { toItem } from './room.js';
import { causeOf } from './tracker.js';

/** A request is given up after this long. */
const REQUEST_MS_MAX = 30_000;
/** Requests that may wait at once. */
const REQUESTS_MAX = 64;

/** A page of history. */
export interface Page {
  events: EventItem[];
  gaps: GapItem[];
  /** Where to read on; undefined: there is nothing further in this direction. */
  next: Cursor | undefined;
  /** Subscribe from here after the last page of a snapshot. */
  head: Position | undefined;
}

/** What is asked for, without the room. */
export type Query = Omit<Init<History>, 'room'>;

interface Request {
  value: Init<History>;
  until: number;
  settle: (answer: Page | LanecastError) => void;
}

/** Requests that wait for their answers, by their ids. */
export class Histories implements Part {
  #waiting = new Map<number, Request>();
  readonly #link: Link;

  constructor(link: Link) {
    this.#link = link;
  }

  /** Asks for a page; `settle` is called once. */
  ask(now: number, room: string, query: Query, settle: Request['settle']): void {
    const { closed } = this.#link;
    if (closed) return settle(closed);
    if (!this.#link.serves(Capability.HISTORY)) return settle(LanecastError.of(Code.UNIMPLEMENTED, '', { room }));
    if (this.#waiting.size >= REQUESTS_MAX) {
      return settle(LanecastError.local('OUTBOX_FULL', 'too many requests wait for their answers', { room }));
    }
    this.#send({ value: { ...query, room }, until: now + REQUEST_MS_MAX, settle });
  }

  #send(request: Request): void {
    this.#waiting.set(this.#link.send({ case: 'history', value: request.value }), request);
  }

  welcomed(): void {
    const waiting = this.#waiting;
    this.#waiting = new Map();
    for (const request of waiting.values()) this.#send(request);
  }

  take(_now: number, { id, body }: Frame): boolean {
    return body?.case === 'historyPage' && this.#settle(id, page(body.value));
  }

  refused(_now: number, id: number, error: LanecastError): boolean {
    return this.#settle(id, error);
  }

  #settle(id: number, answer: Page | LanecastError): boolean {
    const request = this.#waiting.get(id);
    this.#waiting.delete(id);
    request?.settle(answer);
    return request !== undefined;
  }

  tick(now: number): void {
    for (const [id, { until }] of this.#waiting) if (until <= now) this.#settle(id, LanecastError.local('TIMEOUT', 'no answer in time'));
  }

  deadlines(): number[] {
    return [...this.#waiting.values()].map(({ until }) => until);
  }

  close(error: LanecastError): void {
    for (const id of this.#waiting.keys()) this.#settle(id, error);
  }
}

function page({ room, events, gaps, next, head }: HistoryPage): Page {
  const items = events.flatMap((event) => {
    const lane = laneOf(event.lane);
    return lane ? [toItem(room, lane, event.epoch, event)] : [];
  });
  const missing = gaps.flatMap(({ lane: number, epoch, from, to, cause, refillable }): GapItem[] => {
    const lane = laneOf(number);
    const range = { from, to: to || undefined, count: to ? to - from + 1 : undefined };
    return lane ? [{ kind: 'gap', room, lane, epoch, ...range, cause: causeOf(cause), refillable }] : [];
  });
  return { events: items, gaps: missing, next, head };
}
