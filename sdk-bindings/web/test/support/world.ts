/**
 * A client's session and a fake node on a virtual clock, joined by a link that can be cut. Everything random comes from
 * a seed, so a failing run can be repeated.
 */
import { type ClientState, Session } from '../../src/core/session.js';
import type { RoomCore } from '../../src/core/room.js';
import { FakeNode, type Peer } from './node.js';

/** mulberry32. */
export function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

interface Happening {
  at: number;
  run: () => void;
}

/** One client and one node. */
export class World {
  now = 1_000_000;
  readonly node = new FakeNode(() => this.now);
  readonly session: Session;
  readonly states: ClientState['name'][] = [];
  readonly ready: RoomCore[] = [];
  readonly diagnostics: Error[] = [];
  readonly dials: { address: string; refused: boolean }[] = [];
  readonly hangUps: number[] = [];
  token: string | (() => string) = 'dev:ann';
  /** One way, ms. */
  delayMs = 10;
  /** Bytes in a packet from the node. */
  packetBytes = 2000;
  reachable = true;
  peer: Peer | undefined;
  private queue: Happening[] = [];
  private link = 0;
  private readonly random: () => number;

  constructor(seed = 1) {
    this.random = random(seed);
    this.session = new Session(
      { instance: 'me', client: {}, random: this.random },
      {
        dial: (target) => this.dial(target),
        hangUp: (code) => {
          this.hangUps.push(code);
          this.drop();
        },
        refresh: () => this.after(1, () => this.session.refresh('dev:newer')),
        changed: (state) => this.states.push(state.name),
        ready: (room) => this.ready.push(room),
        diagnostic: (error) => this.diagnostics.push(error),
      },
    );
  }

  /** A whole number from 0 to below `limit`. */
  below(limit: number): number {
    return Math.floor(this.random() * limit);
  }

  after(ms: number, run: () => void): void {
    this.queue.push({ at: this.now + ms, run });
  }

  private dial(target: { address: string; refused: boolean }): void {
    this.dials.push(target);
    const link = ++this.link;
    this.after(this.delayMs, () => {
      if (link !== this.link) return;
      if (!this.reachable) {
        this.link++;
        return this.session.lost(this.now, 1006);
      }
      this.peer = this.node.connect();
      this.session.opened(this.now, typeof this.token === 'string' ? this.token : this.token());
    });
  }

  private drop(): void {
    this.link++;
    if (this.peer) this.node.disconnect(this.peer);
    this.peer = undefined;
  }

  /** Cuts the link: what is on its way in either direction is lost. */
  cut(code = 1006): void {
    if (!this.peer) return;
    this.drop();
    this.session.lost(this.now, code);
  }

  /** Moves what is ready in both directions. */
  private pump(): void {
    const { peer, link } = this;
    if (!peer) return;
    for (let message = this.session.take(this.now, 4096); message; message = this.session.take(this.now, 4096)) {
      const packet = message;
      this.after(this.delayMs, () => {
        if (link === this.link) this.node.receive(peer, packet);
      });
    }
    for (let message = this.node.take(peer, this.packetBytes); message; message = this.node.take(peer, this.packetBytes)) {
      const packet = message;
      this.after(this.delayMs, () => {
        if (link === this.link) this.session.received(this.now, packet);
      });
    }
    if (peer.closed) {
      const code = peer.closed;
      this.after(this.delayMs + 1, () => link === this.link && this.cut(code));
    }
  }

  /** Runs until `done` says so, or fails after so many virtual ms. */
  run(done: () => boolean, limitMs = 120_000): void {
    const end = this.now + limitMs;
    let idle = 0;
    for (;;) {
      this.pump();
      if (done()) return;
      this.queue.sort((one, other) => one.at - other.at);
      const next = this.queue[0];
      const deadline = this.session.deadline(this.now) ?? Infinity;
      const at = Math.max(this.now, Math.min(next?.at ?? Infinity, deadline));
      if (at > end) throw new Error(`not done after ${limitMs} ms; state ${JSON.stringify(this.session.state)}`);
      idle = at === this.now ? idle + 1 : 0;
      if (idle > 100_000) throw new Error(`time stands still; deadline ${deadline - this.now}, next ${next && next.at - this.now}`);
      this.now = at;
      if (next && next.at <= deadline) {
        this.queue.shift();
        next.run();
      } else {
        this.session.tick(this.now);
      }
    }
  }

  /** Lets time pass. */
  pass(ms: number): void {
    let over = false;
    this.after(ms, () => (over = true));
    this.run(() => over, ms + 1);
  }

  /** Connects and waits for Welcome. */
  connected(): this {
    this.session.connect(this.now);
    this.run(() => this.session.state.name === 'connected');
    return this;
  }
}
