/**
 * Credit of one lane, normal or bulk, both ways (LC-FLOW-010): how much of it may be under way.
 *
 * What a browser was handed waits in its own buffers, the kernel's, a proxy's, the link's, and nothing there can be
 * overtaken. The node's Credit says what arrived. From it the sender learns how fast the path is and how short a way
 * there and back can be, and keeps no more under way than such a path holds.
 *
 * ```text
 *  consumed          sent
 *  ───┴── under way ──┴── may still be sent ──┐
 *     └── limit = rate × (least loop + 25 ms + time between two Credits), within the window of the node
 * ```
 */
import type { Credit } from '../gen/wire.js';
import type { Init } from '../wire/codec.js';

/** What the node may have under way to this client. */
export const WINDOW_BYTES = 1024 * 1024;
/** Credit is due this long after the first byte that it tells of … */
export const CREDIT_MS = 50;
/** … and for so many bytes sooner, if the last one is this long ago: a sender lets go for the time between two. */
const WORTH_BYTES = 16 * 1024;
const APART_MS = 10;
/**
 * What may stay untold, so that a lone message is not answered by a Credit; with no more than that under way a record of
 * any length may leave.
 */
export const UNTOLD_BYTES = 4 * 1024;
/** What may be under way before the first Credit … */
export const FIRST_BYTES = 64 * 1024;
/** … and at least afterwards. */
export const LEAST_BYTES = 16 * 1024;
/**
 * What the way there and back may take beyond its least, in queues, and beside that for the time between two Credits. With
 * less the rate that is measured would be the one that the limit allows, and both would go down.
 */
const QUEUE_MS = 25;
/** What was measured counts this long, then twice as long as the best of what came before. */
const AGE_MS = 10_000;

/** The best of a stretch of time: highest rate in bytes per ms, least loop in ms. */
interface Best {
  rate: number;
  loop: number;
}

const NOTHING: Best = { rate: 0, loop: Infinity };

/** One lane of one connection. */
export class Flow {
  #sent = 0;
  #consumed = 0;
  #limit = FIRST_BYTES;
  #window = FIRST_BYTES;
  /** A record on its way: when it left, what was sent with it, what had been consumed by then. */
  #mark: [number, number, number] | undefined;
  #former = NOTHING;
  #best = NOTHING;
  #since = 0;

  #taken = 0;
  #told = 0;
  #toldAt = 0;
  /** When the first byte came that is not told. */
  #untoldSince = 0;

  /** `lane` is the number of the lane. */
  readonly #lane: number;

  constructor(lane: number) {
    this.#lane = lane;
  }

  // Out.

  get #underWay(): number {
    return this.#sent - this.#consumed;
  }

  /** Whether a record may leave now. It may lead beyond the limit, but not beyond the window of the node. */
  mayLeave(bytes: number): boolean {
    const underWay = this.#underWay;
    return underWay <= UNTOLD_BYTES || (underWay < this.#limit && underWay + bytes <= this.#window);
  }

  /** A record left. */
  left(now: number, bytes: number): void {
    // A mark from before a rest would measure the rest.
    if (this.#underWay <= UNTOLD_BYTES) this.#mark = undefined;
    this.#sent += bytes;
    this.#mark ??= [now, this.#sent, this.#consumed];
  }

  /** Takes Credit; false: it cannot be true. */
  credited(now: number, { consumed, window }: Credit): boolean {
    if (consumed < this.#consumed || consumed > this.#sent) return false;
    this.#consumed = consumed;
    this.#window = window;
    const [at, sent, before] = this.#mark ?? [0, Infinity, 0];
    if (consumed < sent) return true;
    this.#mark = undefined;
    const loop = Math.max(1, now - at);
    this.#best = { rate: Math.max(this.#best.rate, (consumed - before) / loop), loop: Math.min(this.#best.loop, loop) };
    const [rate, least] = [Math.max(this.#best.rate, this.#former.rate), Math.min(this.#best.loop, this.#former.loop)];
    const apartMs = Math.min(CREDIT_MS, Math.max(APART_MS, WORTH_BYTES / rate));
    this.#limit = Math.max(LEAST_BYTES, rate * (least + QUEUE_MS + apartMs));
    if (now - this.#since > AGE_MS) {
      // The path may be another by now: the next loop is measured with little under way, so that no queue is part of it.
      this.#former = this.#best;
      this.#best = NOTHING;
      this.#since = now;
      this.#limit = Math.max(LEAST_BYTES, (rate * least) / 2);
    }
    return true;
  }

  // In.

  /** A record came and was taken in. */
  took(now: number, bytes: number): void {
    if (this.#taken === this.#told) this.#untoldSince = now;
    this.#taken += bytes;
  }

  /** When Credit is due; Infinity: there is nothing to tell. */
  get dueAt(): number {
    const untold = this.#taken - this.#told;
    if (untold < UNTOLD_BYTES) return Infinity;
    const late = this.#untoldSince + CREDIT_MS;
    return untold < WORTH_BYTES ? late : untold < WINDOW_BYTES / 4 ? Math.min(late, this.#toldAt + APART_MS) : 0;
  }

  /** The Credit that is due. */
  credit(now: number): Init<Credit> | undefined {
    if (this.dueAt > now) return undefined;
    this.#toldAt = now;
    this.#told = this.#taken;
    return { lane: this.#lane, consumed: this.#taken, window: WINDOW_BYTES };
  }
}
