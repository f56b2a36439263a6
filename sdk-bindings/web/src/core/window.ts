/** Sets of seqs in which urgent ones may have overtaken others (LC-RES-005). */

/** How far above its lowest missing seq a client accepts urgent seqs. */
export const URGENT_WINDOW = 64;

/** A set of seqs: all up to `base`, and any of the 64 above it. */
export class SeqWindow {
  #above = new Set<number>();

  constructor(public base: number) {}

  has(seq: number): boolean {
    return seq <= this.base || this.#above.has(seq);
  }

  /** The highest seq in the set. */
  get highest(): number {
    return Math.max(this.base, ...this.#above);
  }

  /** Adds `from..=to`; false, and nothing is changed, if that leaves a hole beyond the window. */
  insert(from: number, to: number): boolean {
    if (from > this.base + 1) {
      if (to > this.base + URGENT_WINDOW) return false;
      for (let seq = from; seq <= to; seq++) this.#above.add(seq);
    } else if (to > this.base) {
      this.base = to;
      for (const seq of this.#above) if (seq <= to) this.#above.delete(seq);
      while (this.#above.delete(this.base + 1)) this.base++;
    }
    return true;
  }

  /** The parts of `from..=to` that are not in the set. */
  missing(from: number, to: number): [number, number][] {
    const parts: [number, number][] = [];
    let start = Math.max(from, this.base + 1);
    for (const seq of [...this.#above].sort((one, other) => one - other)) {
      if (seq < start || seq > to) continue;
      if (start < seq) parts.push([start, seq - 1]);
      start = seq + 1;
    }
    if (start <= to) parts.push([start, to]);
    return parts;
  }

  /** Removes everything above `seq`. */
  cutBack(seq: number): void {
    this.base = Math.min(this.base, seq);
    for (const each of this.#above) if (each > seq) this.#above.delete(each);
  }
}
