/**
 * Publishes on their way: numbered per room and lane, sent in order, kept until they are settled (law 3).
 *
 * A durable publish is settled by Published or by a refusal for good. What is not settled when the connection goes, or
 * is refused for now, is sent again with its number and in order (LC-PUB-027); `after` names the highest earlier number
 * that is still unsettled at the time of sending (LC-PUB-026).
 */
import { LanecastError } from '../errors.js';
import { Delivery, type Envelope, Envelope as EnvelopeTable, type Publish, type Published } from '../gen/wire.js';
import { encode, type Init } from '../wire/codec.js';
import { record } from '../wire/packet.js';
import { laneNumber, laneOf, LANES, type LaneName } from './position.js';

/** Bounds of the outbox; a publish beyond them is refused with OUTBOX_FULL. */
export interface OutboxLimits {
  items: number;
  bytes: number;
  /** How long a publish waits to be stored; then it is given up with EXPIRED. */
  ttlMs: number;
}

/** The defaults of {@link OutboxLimits}. */
export const OUTBOX_LIMITS: OutboxLimits = { items: 1000, bytes: 4 * 1024 * 1024, ttlMs: 12 * 3600 * 1000 };

/** Waits before a publish that was refused for now, without a time, is sent again; they double. */
const REPEAT_MIN_MS = 250;
const REPEAT_MAX_MS = 10_000;

/** What became of a publish. */
export interface Receipt {
  lane: LaneName;
  /** 0: transient. */
  epoch: number;
  /** 0: transient, or a duplicate whose numbers are no longer known. */
  seq: number;
  order: number;
  /** It was stored by an earlier attempt. With seq 0 this proves only that its number was used. */
  duplicate: boolean;
}

/** What to publish. */
export interface PublishInput {
  room: string;
  lane: LaneName;
  durable: boolean;
  ttlMs: number;
  envelope: Init<Envelope>;
}

/** What a Publish has beside its envelope: room, numbers, times. */
const HEAD_BYTES_MAX = 1024;

/** How much of a bound a lane may fill: the last quarter is kept from bulk, the last eighth for urgent. */
const share = (bound: number, lane: LaneName) => bound - Math.floor(bound / 8) * LANES.indexOf(lane);

const expired = (room: string) => LanecastError.local('EXPIRED', 'not stored', { room });

type Settle = (result: Receipt | LanecastError) => void;

interface Item {
  input: PublishInput;
  envelope: Uint8Array;
  /** 0: transient. */
  number: number;
  /** Id of the request that is on the wire; 0: not sent. */
  id: number;
  /** When it was queued. */
  since: number;
  /** It is not sent after that: its own time, or that of the outbox, is over (law 8). */
  expiresAt: number;
  settle: Settle;
}

interface Queue {
  lane: LaneName;
  durable: boolean;
  /** Unsettled, in order of number. */
  items: Item[];
  /** How many of the first ones are on the wire. */
  flying: number;
  /** The highest number given out. */
  numbers: number;
  /** Refusals for now since the last success. */
  refusals: number;
  /** Nothing is sent before. */
  pausedUntil: number;
}

/** The outbox of a client; it outlives connections. */
export class Outbox {
  #queues = new Map<string, Queue>();
  #flying = new Map<number, [Queue, Item]>();
  /** Id of what left last of each lane, which may still be leaving. */
  #last: Record<string, number> = {};
  #bytes = 0;
  #items = 0;
  /** Publishes that may wait for their answer at once. */
  inFlightMax = 256;
  /** Largest record that the node accepts. */
  recordBytesMax = 256 * 1024;
  readonly #limits: OutboxLimits;

  constructor(limits: OutboxLimits) {
    this.#limits = limits;
  }

  /** Publishes that are not settled. */
  get length(): number {
    return this.#items;
  }

  /** Takes a publish; `settle` is called exactly once, also when it is refused here. */
  push(now: number, input: PublishInput, settle: Settle): void {
    const { room, lane, durable, ttlMs } = input;
    const envelope = encode(EnvelopeTable, input.envelope);
    const { items, bytes } = this.#limits;
    if (this.#items >= share(items, lane) || this.#bytes + envelope.length > share(bytes, lane)) {
      return settle(LanecastError.local('OUTBOX_FULL', 'too many wait', { room }));
    }
    const key = `${lane} ${durable} ${room}`;
    let queue = this.#queues.get(key);
    if (!queue) this.#queues.set(key, (queue = { lane, durable, items: [], flying: 0, numbers: 0, refusals: 0, pausedUntil: 0 }));
    const number = durable ? ++queue.numbers : 0;
    const expiresAt = now + Math.min(ttlMs || Infinity, this.#limits.ttlMs);
    queue.items.push({ input, envelope, number, id: 0, since: now, expiresAt, settle });
    this.#items++;
    this.#bytes += envelope.length;
  }

  /** About how long the record is that may be sent now; 0: there is none. */
  ready(now: number, lane: LaneName): number {
    const due = this.#due(now, lane);
    return due ? due[2].envelope.length + HEAD_BYTES_MAX : 0;
  }

  #due(now: number, lane: LaneName): [string, Queue, Item] | undefined {
    if (this.#flying.size >= share(this.inFlightMax, lane)) return undefined;
    for (const [key, queue] of this.#queues) {
      const item = queue.items[queue.flying];
      if (queue.lane !== lane || !item || now < queue.pausedUntil) continue;
      // One on the wire behind it would be refused, since it names this one in `after`: let the answers come first.
      if (item.id || queue.items.some((each, at) => at > queue.flying && each.id)) continue;
      if (item.expiresAt > now && item.envelope.length + HEAD_BYTES_MAX <= this.recordBytesMax) return [key, queue, item];
      const { room } = item.input;
      const late = item.expiresAt <= now;
      this.#remove(queue, item, late ? expired(room) : LanecastError.of(4306, 'larger than a record may be', { room }));
      return this.#due(now, lane);
    }
    return undefined;
  }

  /** The next record of a lane, if one may be sent now. Rooms take turns. `offset` is node's clock minus that of `now`. */
  next(now: number, lane: LaneName, nextId: () => number, offset: number): Uint8Array | undefined {
    const due = this.#due(now, lane);
    if (!due) return undefined;
    const [key, queue, item] = due;
    item.id = nextId();
    const { room, durable, ttlMs } = item.input;
    const value: Init<Publish> = {
      room,
      lane: laneNumber(lane),
      delivery: durable ? Delivery.DURABLE : Delivery.TRANSIENT,
      number: item.number,
      after: queue.items[queue.flying - 1]?.number ?? 0,
      // What it waited here it does not live at the node.
      ttlMs: ttlMs && Math.ceil(item.since + ttlMs - now),
      envelope: item.envelope as Init<Envelope> | Uint8Array,
      askedAtMs: Math.max(0, Math.floor(item.since + offset)),
    };
    queue.flying++;
    this.#flying.set((this.#last[lane] = item.id), [queue, item]);
    // Behind the others: rooms take turns.
    this.#queues.delete(key);
    this.#queues.set(key, queue);
    return record({ id: item.id, body: { case: 'publish', value } });
  }

  /** Whether the time of what was taken last of a lane is over before all of it left; then it ends here (law 8). */
  late(now: number, lane: string): boolean {
    const found = this.#flying.get(this.#last[lane] ?? 0);
    if (!found || found[1].expiresAt > now) return false;
    this.#remove(...found, expired(found[1].input.room));
    return true;
  }

  /** Takes Published; false: the id is not of a publish. */
  published(id: number, frame: Published): boolean {
    const found = this.#flying.get(id);
    if (!found) return false;
    const [queue, item] = found;
    const { epoch, seq, order, duplicate } = frame;
    queue.refusals = 0;
    this.#remove(queue, item, { lane: laneOf(frame.lane) ?? queue.lane, epoch, seq, order, duplicate });
    return true;
  }

  /** Takes an Error; false: the id is not of a publish. */
  refused(now: number, id: number, error: LanecastError): boolean {
    const found = this.#flying.get(id);
    if (!found) return false;
    const [queue, item] = found;
    if (!error.retryable || !queue.durable) {
      this.#remove(queue, item, error);
      return true;
    }
    this.#flying.delete(id);
    item.id = 0;
    // What is behind it on the wire comes back too; `next` waits for that.
    queue.flying = Math.min(queue.flying, queue.items.indexOf(item));
    if (error.name === 'OUT_OF_ORDER' && queue.flying > 0) return true;
    const wait = error.retryAfterMs || Math.min(REPEAT_MAX_MS, REPEAT_MIN_MS * 2 ** queue.refusals++);
    queue.pausedUntil = Math.max(queue.pausedUntil, now + wait);
    return true;
  }

  #remove(queue: Queue, item: Item, result: Receipt | LanecastError): void {
    const at = queue.items.indexOf(item);
    queue.items.splice(at, 1);
    if (at < queue.flying) queue.flying--;
    this.#flying.delete(item.id);
    this.#items--;
    this.#bytes -= item.envelope.length;
    item.settle(result);
  }

  /** The connection is gone: durable publishes wait for the next one, transient ones end here. */
  disconnected(): void {
    this.#flying.clear();
    for (const queue of this.#queues.values()) {
      queue.flying = 0;
      queue.pausedUntil = 0;
      for (const item of [...queue.items]) {
        const sent = item.id !== 0;
        item.id = 0;
        if (queue.durable) continue;
        const detail = sent ? 'no answer' : 'transients do not wait';
        this.#remove(queue, item, LanecastError.local(sent ? 'CONNECTION_LOST' : 'OFFLINE', detail));
      }
    }
  }

  /** Gives up what waited too long. */
  expire(now: number): void {
    for (const queue of this.#queues.values()) {
      // The answer to what is on the wire says more than a clock could.
      for (const item of queue.items.filter(({ id, expiresAt }) => !id && expiresAt <= now)) {
        this.#remove(queue, item, expired(item.input.room));
      }
    }
  }

  /** When something is to be given up or sent again. */
  deadline(now: number): number {
    let next = Infinity;
    for (const queue of this.#queues.values()) {
      for (const { id, expiresAt } of queue.items) if (!id) next = Math.min(next, expiresAt);
      if (queue.items[queue.flying] && queue.pausedUntil > now) next = Math.min(next, queue.pausedUntil);
    }
    return next;
  }

  /** Refuses everything: the client is closed. */
  clear(error: LanecastError): void {
    for (const queue of this.#queues.values()) for (const item of [...queue.items]) this.#remove(queue, item, error);
  }
}
