/**
 * The receive queue of one room, between the session and the application.
 *
 * Items leave one by one: urgent before normal before bulk, FIFO inside a lane. An item is *taken* when the next one is
 * asked for, or by {@link Inbox.take}; only then does the position move (law 2). The change of an epoch is a barrier:
 * what came before it is taken before it, so that the position always has one epoch.
 */
import { LANES, type LaneName, type PerLane, perLane, type Position } from './position.js';
import type { EpochChange, GapCauseName, SeqGap } from './tracker.js';
import { SeqWindow } from './window.js';

/** An event as the application gets it. */
export interface EventItem {
  kind: 'event';
  room: string;
  lane: LaneName;
  /** The epoch in which seq and order count; 0: transient. */
  epoch: number;
  /** Number within room and lane; 0: transient. */
  seq: number;
  /** Number within the room across lanes, for sorting; 0: transient. */
  order: number;
  type: string;
  key: string;
  contentType: string;
  headers: Readonly<Record<string, string>>;
  from: { user: string; service: string; instance: string };
  /** Node's clock, ms since the Unix epoch. */
  timeMs: number;
  /** Node's clock, ms since the Unix epoch; 0: never. */
  expiresAtMs: number;
  /** A text payload. */
  text?: string;
  /** A binary payload. */
  data?: Uint8Array;
}

/** Something that will not be delivered. */
export interface GapItem {
  kind: 'gap';
  room: string;
  /** Undefined: transient events of lanes that the node did not tell apart. */
  lane: LaneName | undefined;
  /** The epoch in which the seqs count; 0: transients. */
  epoch: number;
  /** First missing seq; 0: transients. */
  from: number;
  /** Last missing seq; undefined: no upper end, or transients. */
  to: number | undefined;
  /** How many are missing; undefined: an unknown number. */
  count: number | undefined;
  cause: GapCauseName;
  /** Whether `history` may still have them. */
  refillable: boolean;
}

/** What a room hands to the application. */
export type Item = EventItem | GapItem;

/** A lane, and the first and last seq that taking an item adds to what was taken of it. */
type Mark = readonly [LaneName, number, number];

interface Entry {
  mark: Mark | undefined;
  /** Undefined: a gap that only the position hears of (cause filtered). */
  item: Item | undefined;
  cost: number;
}

/** A queue without the cost of `Array.shift` on long arrays. */
class Fifo<T> {
  #list: (T | undefined)[] = [];
  #head = 0;

  push(value: T): void {
    this.#list.push(value);
  }

  shift(): T | undefined {
    if (this.empty) return undefined;
    const value = this.#list[this.#head];
    this.#list[this.#head++] = undefined;
    if (this.empty || this.#head > 1024) {
      this.#list = this.#list.slice(this.#head);
      this.#head = 0;
    }
    return value;
  }

  get empty(): boolean {
    return this.#head === this.#list.length;
  }
}

/** What came between two changes of the epoch. */
class Segment {
  lanes: PerLane<Fifo<Entry>> = perLane(() => new Fifo());
  end: EpochChange | undefined;
  /** How many gaps of `end` were handed out. */
  told = 0;

  shift(): Entry | undefined {
    for (const lane of LANES) {
      const entry = this.lanes[lane].shift();
      if (entry) return entry;
    }
    return undefined;
  }

  get empty(): boolean {
    return LANES.every((lane) => this.lanes[lane].empty);
  }
}

/** The receive queue of a room. */
export class Inbox {
  #segments: Segment[] = [new Segment()];
  #epoch = 0;
  #taken = perLane(() => new SeqWindow(0));
  /** What the item that is with the application moves when it is taken. */
  #outstanding: Mark | undefined;
  /** Items waiting. */
  length = 0;
  /** Approximate bytes waiting. */
  bytes = 0;

  constructor(readonly room: string) {}

  /** Everything up to it was taken. Undefined before the first subscription. */
  get position(): Position | undefined {
    return this.#epoch ? { epoch: this.#epoch, ...perLane((lane) => this.#taken[lane].base) } : undefined;
  }

  /** Sets where the room begins, before anything came. */
  begin(at: Position): void {
    this.#epoch = at.epoch;
    this.#taken = perLane((lane) => new SeqWindow(at[lane]));
  }

  #push(lane: LaneName, mark: Mark | undefined, item: Item | undefined, cost: number): void {
    if (item) {
      this.length++;
      this.bytes += cost;
    }
    this.#open.lanes[lane].push({ mark, item, cost });
  }

  get #open(): Segment {
    return this.#segments[this.#segments.length - 1] as Segment;
  }

  /** Queues an event, durable or transient. */
  event(item: EventItem, bytes: number): void {
    this.#push(item.lane, item.seq ? [item.lane, item.seq, item.seq] : undefined, item, bytes + 64);
  }

  /** Queues a gap of transients; `count` 0 is an unknown number. */
  transientGap(lane: LaneName | undefined, count: number, cause: GapCauseName): void {
    const item: GapItem = {
      ...{ kind: 'gap', room: this.room, lane, epoch: 0, from: 0, to: undefined },
      ...{ count: count || undefined, cause, refillable: false },
    };
    this.#push(lane ?? 'normal', undefined, item, 64);
  }

  /** Queues a gap. One of cause filtered moves the position and is not shown. */
  gap(gap: SeqGap): void {
    const { lane, from, to, cause } = gap;
    this.#push(lane, [lane, from, to ?? from], cause === 'filtered' ? undefined : this.#item(gap), 64);
  }

  #item(gap: SeqGap): GapItem {
    const count = gap.to === undefined ? undefined : gap.to - gap.from + 1;
    return { kind: 'gap', room: this.room, ...gap, count };
  }

  /** Queues the change of the epoch. */
  changeEpoch(change: EpochChange): void {
    this.length += change.gaps.length;
    this.#open.end = change;
    this.#segments.push(new Segment());
  }

  /** Says that the item handed out last was handled: the position moves over it. */
  take(): void {
    if (this.#outstanding) {
      const [lane, from, to] = this.#outstanding;
      this.#taken[lane].insert(from, to);
    }
    this.#outstanding = undefined;
    this.#pass();
  }

  /** Passes changes of the epoch of which nothing is left to tell. */
  #pass(): void {
    for (;;) {
      const [front] = this.#segments;
      const change = front?.end;
      if (!front?.empty || !change || front.told < change.gaps.length) return;
      this.#segments.shift();
      this.#epoch = change.position.epoch;
      for (const lane of LANES) {
        const seq = change.position[lane];
        if (change.restarted[lane]) this.#taken[lane] = new SeqWindow(seq);
        else this.#taken[lane].cutBack(seq);
      }
    }
  }

  /** The next item, after taking the one before; undefined: nothing is waiting. */
  next(): Item | undefined {
    for (;;) {
      this.take();
      const front = this.#segments[0] as Segment;
      const entry = front.shift();
      if (!entry) {
        const gap = front.end?.gaps[front.told];
        if (!gap) return undefined;
        front.told++;
        this.length--;
        return this.#item(gap);
      }
      this.#outstanding = entry.mark;
      if (!entry.item) continue;
      this.length--;
      this.bytes -= entry.cost;
      return entry.item;
    }
  }
}
