/**
 * What a client knows of a room: which seqs arrived, in which epoch, under which handle.
 *
 * A {@link Tracker} decides for every Event and Gap whether it is new, a duplicate, or proof of a hole, and turns the
 * change of an epoch into the gaps that revoke what the log lost. It keeps *received*; *taken*, which the application
 * moves, is kept by the inbox.
 *
 * Where streams overtake one another *received* of lane urgent has a window above it, kept across reconnects (LC-QUIC-005,
 * LC-RES-005, LC-RES-015).
 */
import { type Gap, GapCause, type Subscribed, SubscribedCause, type TransientMark } from '../gen/wire.js';
import { LANES, laneOf, type LaneName, type PerLane, perLane, type Position } from './position.js';
import { SeqWindow } from './window.js';

/** Former handles of a room that still count, for epochs that follow one another faster than lanes drain. */
const FORMER_MAX = 4;

/**
 * What to do with a frame of a room: hand it on; drop it, since it came before; drop it, since it belongs to what was
 * rolled back; drop it and subscribe again, since something before it is missing; or wait for its handle.
 */
export type Verdict = 'deliver' | 'duplicate' | 'revoked' | 'hole' | 'unknown-handle';

/** Why something will not be delivered; a cause of a later version is `unknown`. */
export type GapCauseName = 'trimmed' | 'expired' | 'erased' | 'filtered' | 'rolled-back' | 'unknown' | 'dropped';

/** By their numbers. */
const CAUSES: readonly GapCauseName[] = ['unknown', 'trimmed', 'expired', 'erased', 'filtered', 'rolled-back', 'unknown', 'dropped'];

/** Durable seqs that will not come, or that are revoked. */
export interface SeqGap {
  lane: LaneName;
  epoch: number;
  from: number;
  /** Undefined: no upper end. */
  to: number | undefined;
  cause: GapCauseName;
  refillable: boolean;
}

/** The room's epoch changed: what that revokes, and where it leaves the position. */
export interface EpochChange {
  /** Rolled-back ranges, oldest epoch first. */
  gaps: SeqGap[];
  position: Position;
  /** Lanes whose numbers start anew at `position`, since the log does not know the former epoch. */
  restarted: PerLane<boolean>;
}

/** The node sent something that the protocol forbids. */
export class Misbehaviour extends Error {}

/** The name of a cause. */
export const causeOf = (cause: number): GapCauseName => CAUSES[cause] ?? 'unknown';

/** What a client knows of one room. */
export class Tracker {
  epoch = 0;
  /** 0 while there is no subscription on the present connection. */
  handle = 0;
  #received = perLane(() => new SeqWindow(0));
  #former: { handle: number; through: PerLane<number> }[] = [];
  /** Transient events, counted as the node counts them; undefined once some were lost in an unknown number. */
  mark: TransientMark | undefined;

  constructor(at?: Position) {
    if (at) this.#begin(at);
  }

  #begin(at: Position): void {
    this.epoch = at.epoch;
    this.#received = perLane((lane) => new SeqWindow(at[lane]));
  }

  /** The position to resume from: *received*. Undefined before the first subscription. */
  get position(): Position | undefined {
    return this.epoch ? { epoch: this.epoch, ...perLane((lane) => this.#received[lane].base) } : undefined;
  }

  /** Whether frames under this handle are, or still count as, this room's. */
  knows(handle: number): boolean {
    return handle !== 0 && (handle === this.handle || this.#former.some((each) => each.handle === handle));
  }

  /** All handles that count. */
  get handles(): number[] {
    return [this.handle, ...this.#former.map((each) => each.handle)];
  }

  /** The connection is gone, and its handles with it. */
  disconnected(): void {
    this.handle = 0;
    this.#former = [];
  }

  /**
   * Takes a Subscribed, asked or not (LC-RES-010, LC-RES-014). Throws {@link Misbehaviour}, and changes nothing, if it
   * would skip seqs in silence or is not well formed.
   */
  subscribed(frame: Subscribed): EpochChange | undefined {
    const { position, handle } = frame;
    if (!position?.epoch || !handle) throw new Misbehaviour('LC-SUB-001: no position or no handle');
    const gaps = frame.rolledBack.map(rolledBack);
    let change: EpochChange | undefined;
    if (!this.epoch) {
      this.#begin(position);
    } else if (this.epoch === position.epoch && !gaps.length) {
      // On an unasked frame of the same epoch seqs may still be in flight; they count as before.
      const skips = LANES.some((lane) => position[lane] > this.#received[lane].base);
      if (skips && frame.cause === SubscribedCause.UNSPECIFIED) {
        throw new Misbehaviour('LC-SUB-010: begins beyond the position that was asked for');
      }
    } else {
      change = this.#changeEpoch(position, gaps);
    }
    this.epoch = position.epoch;
    this.handle = handle;
    this.mark = frame.transients;
    return change;
  }

  #changeEpoch(position: Position, gaps: SeqGap[]): EpochChange {
    const restarted = perLane(() => false);
    for (const gap of gaps) {
      if (gap.to !== undefined) continue;
      // What was on its way under the former handle cannot be told from the seqs of the new epoch.
      gap.from = Math.min(gap.from, this.#received[gap.lane].base + 1);
      restarted[gap.lane] = true;
    }
    const through = perLane((lane) => (restarted[lane] ? 0 : position[lane]));
    const kept = { ...position };
    for (const lane of LANES) {
      if (restarted[lane]) this.#received[lane] = new SeqWindow(position[lane]);
      else this.#received[lane].cutBack((kept[lane] = this.#survives(lane, position[lane], gaps)));
      for (const former of this.#former) former.through[lane] = Math.min(former.through[lane], through[lane]);
    }
    if (this.handle) {
      if (this.#former.length === FORMER_MAX) this.#former.shift();
      this.#former.push({ handle: this.handle, through });
    }
    return { gaps, position: kept, restarted };
  }

  /**
   * Up to where a lane's seqs survive a fork after which the node begins at `position`.
   *
   * Urgent seqs that overtook others lie above the position that was asked for, so the node does not know of them. A gap
   * of this epoch says where the fork was: what lies before it survives, and would be delivered twice if it were
   * forgotten. Without one nothing proves that they survive: they are revoked, and come again if they do.
   */
  #survives(lane: LaneName, position: number, gaps: SeqGap[]): number {
    const { epoch } = this;
    const forks = gaps.flatMap((gap) => (gap.lane === lane && gap.epoch === epoch ? [gap.from - 1] : []));
    if (forks.length) return Math.max(position, Math.min(...forks));
    const to = this.#received[lane].highest;
    if (to > position) gaps.push({ lane, epoch, from: position + 1, to, cause: 'rolled-back', refillable: false });
    return position;
  }

  /** Up to where frames under a handle count: all, or up to where its epoch was left; undefined: it is not known. */
  #countsThrough(handle: number, lane: LaneName): number | undefined {
    if (handle && handle === this.handle) return Infinity;
    return this.#former.find((each) => each.handle === handle)?.through[lane];
  }

  /**
   * Takes the place of `from..=to`. A gap may reach over a fork: up to there it counts. `ordered` says that the transport
   * keeps the order of the lane.
   */
  range(handle: number, lane: LaneName, from: number, to: number, ordered = true): Verdict {
    const through = this.#countsThrough(handle, lane);
    if (through === undefined) return 'unknown-handle';
    if (from > through) return 'revoked';
    const window = this.#received[lane];
    const last = Math.min(to, through);
    if (last <= window.base || (from === last && window.has(last))) return 'duplicate';
    return (!ordered || from <= window.base + 1) && window.insert(from, last) ? 'deliver' : 'hole';
  }

  /** Takes the range of a durable gap; with `deliver` also what of it is news: not what overtook it. */
  gap(gap: Gap, ordered = true): [Verdict, SeqGap[]] {
    const lane = laneOf(gap.lane);
    if (!lane || gap.to < gap.from) return ['hole', []];
    const { epoch } = this;
    const { handle, refillable } = gap;
    const cause = causeOf(gap.cause);
    const missing = this.#received[lane].missing(gap.from, Math.min(gap.to, this.#countsThrough(handle, lane) ?? 0));
    const verdict = this.range(handle, lane, gap.from, gap.to, ordered);
    if (verdict !== 'deliver') return [verdict, []];
    return [verdict, missing.map(([from, to]) => ({ lane, epoch, from, to, cause, refillable }))];
  }

  /** Counts transient events; `count` 0 is an unknown number (LC-RES-021). */
  transients(handle: number, lane: LaneName, count: number): void {
    // What comes under a former handle was counted before the present subscription began.
    if (handle !== this.handle) return;
    if (!count) this.mark = undefined;
    else if (this.mark) this.mark[lane] += count;
  }
}

function rolledBack(gap: Gap): SeqGap {
  const lane = laneOf(gap.lane);
  const { epoch, from, to } = gap;
  if (!lane || gap.cause !== GapCause.ROLLED_BACK || !from || (to && to < from)) {
    throw new Misbehaviour('LC-RES-010: a gap in Subscribed is not a rolled-back range');
  }
  return { lane, epoch, from, to: to || undefined, cause: 'rolled-back', refillable: false };
}
