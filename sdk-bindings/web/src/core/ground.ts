/**
 * The background: a client opens a connection there only while publishes wait, with backoff, and a bounded number of times in
 * a row (LC-SDK-023).
 */
import type { Part } from './part.js';
import type { Session } from './session.js';

/** Attempts in a row; a Welcome, a further publish and a hint begin anew. */
const ATTEMPTS_MAX = 8;

/** Lets a session connect, or not. */
export class Ground implements Part {
  /** Attempts that are left; Infinity: in the foreground. */
  #left = Infinity;
  /** It was time to connect, and there was no reason to. */
  #parked = false;
  /** Publishes that waited when it was last looked. */
  #waiting = 0;

  constructor(readonly session: Session) {
    session.mayDial = () => {
      this.#parked = !this.#may;
      if (!this.#parked) this.#left--;
      return !this.#parked;
    };
  }

  get #may(): boolean {
    return this.#left === Infinity || (this.#left > 0 && this.session.outbox.length > 0);
  }

  enter(): void {
    this.#left = ATTEMPTS_MAX;
    this.#waiting = this.session.outbox.length;
  }

  leave(): void {
    this.#left = Infinity;
  }

  /** There is a new reason to connect. */
  refill(): void {
    if (this.#left < Infinity) this.#left = ATTEMPTS_MAX;
  }

  welcomed(): void {
    this.refill();
  }

  /** Asked after every input, and so after every publish. */
  deadlines(): number[] {
    const { length } = this.session.outbox;
    if (length > this.#waiting) this.refill();
    this.#waiting = length;
    return this.#parked && this.#may ? [0] : [];
  }

  tick(now: number): void {
    if (this.#parked && this.#may) this.session.nudge(now);
  }

  take(): boolean {
    return false;
  }
}
