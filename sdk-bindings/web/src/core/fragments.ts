/** Frames that come in pieces (LC-FRM-030, LC-FRM-031). */
import { Code } from '../errors.js';
import { Frame } from '../gen/wire.js';
import { decode, WireError } from '../wire/codec.js';
import { laneOf } from '../wire/packet.js';
import type { Link, Part } from './part.js';

/** Transfers of a lane that may be unfinished at once. */
export const TRANSFERS_MAX = 4;
/** A transfer is forgotten this long after its last piece. */
export const TRANSFER_MS_MAX = 30_000;

interface Transfer {
  lane: number;
  frame: Uint8Array;
  length: number;
  at: number;
}

const broken = (detail: string, code: number) => Object.assign(new WireError(detail), { code });

/** Puts the pieces together that a node sends. */
export class Fragments implements Part {
  readonly #transfers = new Map<number, Transfer>();
  /** The highest number of a transfer that began. */
  #last = 0;
  readonly #link: Link;

  constructor(link: Link) {
    this.#link = link;
  }

  disconnected(): void {
    this.#transfers.clear();
    this.#last = 0;
  }

  take(now: number, { body }: Frame): boolean {
    const transfers = this.#transfers;
    if (body?.case === 'fragmentAbort') return transfers.delete(body.value.transfer);
    if (body?.case !== 'fragment') return false;
    const { transfer: id, lane, total, data } = body.value;
    this.tick(now);
    if (total) {
      const unfinished = [...transfers.values()].filter((each) => each.lane === lane).length;
      if (total > this.#link.outbox.recordBytesMax) throw broken('LC-FRM-031: too large', Code.TOO_LARGE);
      if (unfinished >= TRANSFERS_MAX || transfers.has(id)) throw new WireError('LC-FRM-031: one transfer too many');
      this.#last = Math.max(this.#last, id);
      transfers.set(id, { lane, frame: new Uint8Array(total), length: 0, at: now });
    }
    const open = transfers.get(id);
    // It was forgotten, or never began.
    if (!open) throw broken('LC-FRM-030: no such transfer', id <= this.#last ? Code.IDLE_TIMEOUT : Code.PROTOCOL);
    const { frame, length } = open;
    if (length + data.length > frame.length || lane !== open.lane) throw new WireError('LC-FRM-030: not of this transfer');
    frame.set(data, length);
    open.length += data.length;
    open.at = now;
    if (open.length < frame.length) return true;
    transfers.delete(id);
    const whole = decode(Frame, frame);
    const misfit = whole.body && (whole.body.case.startsWith('fragment') || laneOf(whole.body) !== lane);
    if (misfit) throw new WireError('LC-FRM-030: another frame than its pieces said');
    this.#link.dispatch(now, whole, frame.length);
    return true;
  }

  tick(now: number): void {
    for (const [id, { at }] of this.#transfers) if (now - at >= TRANSFER_MS_MAX) this.#transfers.delete(id);
  }
}
