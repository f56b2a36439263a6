/**
 * Lanes on one pipe: what leaves next, and in which pieces.
 *
 * ```text
 *  control   first
 *  urgent    second, while its bucket holds tokens: half of what leaves while others wait (LC-LANE-006)
 *  normal    4 ┐
 *  signal    2 ├ of 7 bytes each, among those that have something (LC-LANE-007)
 *  bulk      1 ┘
 * ```
 *
 * The bucket needs no clock: every byte that leaves while others wait earns half a token, and one of lane urgent costs one.
 * A record that is longer than a piece leaves in fragments, with other lanes' records between them (LC-FRM-030).
 */
import { laneNumber, OUT_LANES, type OutLane } from '../core/position.js';
import type { Session } from '../core/session.js';
import { bodyOf, record } from '../wire/packet.js';

/** What lane urgent may send ahead of others that wait. */
export const URGENT_BURST_BYTES = 64 * 1024;
/** Longer records are cut into fragments, of which none is longer. */
export const PIECE_BYTES_MAX = 4 * 1024;
/** What a piece has beside its data at most. */
const PIECE_HEAD_BYTES = 48;
/** What a lane may send in a turn, for each unit of its weight. */
const TURN_BYTES = 1024;

const WEIGHTS = { normal: 4, signal: 2, bulk: 1 } as const;
type Shared = keyof typeof WEIGHTS;
const SHARED = Object.keys(WEIGHTS) as Shared[];

/** What has records, and is told of those that left. */
export interface Source extends Pick<Session, 'cuts' | 'mayLeave' | 'ready' | 'take' | 'left'> {
  outbox: Pick<Session['outbox'], 'late'>;
}

/** The rest of a record that is being sent in fragments. */
interface Cut {
  transfer: number;
  frame: Uint8Array;
  at: number;
}

/** The order in which the lanes of one connection share a pipe. */
export class Lanes {
  #tokens = URGENT_BURST_BYTES;
  /** What each lane may still send in its turn; one that was given too much pays with later turns. */
  readonly #turns: Record<Shared, number> = { normal: 0, signal: 0, bulk: 0 };
  readonly #cuts: Partial<Record<OutLane, Cut>> = {};
  #transfers = 0;

  /** The next record, of a lane that `free` lets pass; undefined: there is none. */
  next(session: Source, now: number, free: (lane: OutLane) => boolean): Uint8Array | undefined {
    const most = session.cuts ? PIECE_BYTES_MAX : Infinity;
    const waits = (lane: OutLane) => (this.#cuts[lane] ? session.mayLeave(lane, most) : session.ready(now, lane, most));
    const ready = OUT_LANES.filter((lane) => free(lane) && waits(lane));
    const lane = this.#choose(ready);
    const next = lane && this.#take(session, now, lane);
    if (!next) return undefined;
    session.left(now, lane, next.length);
    if (lane in WEIGHTS) this.#turns[lane as Shared] -= next.length;
    if (ready.length > 1) this.#tokens = Math.min(URGENT_BURST_BYTES, this.#tokens + next.length / 2 - (lane === 'urgent' ? next.length : 0));
    return next;
  }

  #choose(ready: OutLane[]): OutLane | undefined {
    const [first] = ready;
    if (first === 'control' || (first === 'urgent' && (this.#tokens > 0 || ready.length === 1))) return first;
    const turns = this.#turns;
    const waiting = SHARED.filter((lane) => ready.includes(lane) || ((turns[lane] = 0), false));
    if (!waiting.length) return undefined;
    for (;;) {
      const lane = waiting.find((each) => turns[each] > 0);
      if (lane) return lane;
      for (const each of waiting) turns[each] += TURN_BYTES * WEIGHTS[each];
    }
  }

  /** The next record of a lane, or the next piece of one. */
  #take(session: Source, now: number, lane: OutLane): Uint8Array | undefined {
    let cut = this.#cuts[lane];
    if (!cut) {
      const whole = session.take(now, lane);
      if (!whole || whole.length <= PIECE_BYTES_MAX || lane === 'control' || !session.cuts) return whole;
      cut = this.#cuts[lane] = { transfer: ++this.#transfers, frame: bodyOf(whole), at: 0 };
    }
    const { transfer, frame, at } = cut;
    if (at && session.outbox.late(now, lane)) {
      delete this.#cuts[lane];
      return record({ body: { case: 'fragmentAbort', value: { transfer, lane: laneNumber(lane) } } });
    }
    cut.at += PIECE_BYTES_MAX - PIECE_HEAD_BYTES;
    if (cut.at >= frame.length) delete this.#cuts[lane];
    const value = { transfer, lane: laneNumber(lane), total: at ? 0 : frame.length, data: frame.subarray(at, cut.at) };
    return record({ body: { case: 'fragment', value } });
  }
}
