/**
 * A client's session and a fake node on a virtual clock, joined by a link that can be cut. Everything random comes from
 * a seed, so a failing run can be repeated.
 */
import { Fragments } from '../../src/core/fragments.js';
import { Ground } from '../../src/core/ground.js';
import { Histories } from '../../src/core/history.js';
import { type ClientState, Session } from '../../src/core/session.js';
import type { RoomCore } from '../../src/core/room.js';
import { Packer } from '../../src/transport/websocket.js';
import { type Kind, Way } from './link.js';
import { FakeNode, type Outgoing, type Peer } from './node.js';

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
  readonly histories: Histories;
  readonly ground: Ground;
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
  private packer = new Packer();
  private up = new Way((limit) => this.below(limit));
  private down = new Way((limit) => this.below(limit));
  /** What the token provider gives for a refresh; undefined: it fails. */
  fresh: (refused: boolean) => string | undefined = () => 'dev:newer';
  private queue: Happening[] = [];
  private link = 0;
  private readonly random: () => number;

  constructor(
    seed = 1,
    private readonly kind: Kind = 'pipe',
  ) {
    this.random = random(seed);
    this.session = new Session(
      { instance: 'me', client: {}, random: this.random },
      {
        dial: (target) => this.dial(target),
        hangUp: (code) => {
          this.hangUps.push(code);
          this.drop();
        },
        refresh: (refused) => this.after(1, () => this.refreshed(refused)),
        changed: (state) => this.states.push(state.name),
        ready: (room) => this.ready.push(room),
        diagnostic: (error) => this.diagnostics.push(error),
      },
    );
    this.session.add(new Fragments(this.session));
    this.ground = this.session.add(new Ground(this.session));
    this.histories = this.session.add(new Histories(this.session));
  }

  private refreshed(refused: boolean): void {
    const token = this.fresh(refused);
    if (token === undefined) this.session.notRefreshed(this.now);
    else this.session.refresh(this.now, token);
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
      this.packer = new Packer();
      this.up = new Way((limit) => this.below(limit));
      this.down = new Way((limit) => this.below(limit));
      this.session.opened(this.now, typeof this.token === 'string' ? this.token : this.token(), this.kind === 'pipe');
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
    this.node.tellCredit(peer);
    const up = (at: number, packet: Uint8Array) =>
      this.after(at - this.now, () => link === this.link && this.node.receive(peer, packet));
    const down = (at: number, packet: Uint8Array) =>
      this.after(at - this.now, () => link === this.link && this.session.received(this.now, packet));
    if (this.kind === 'streams') {
      for (let next = this.session.next(this.now, () => true); next; next = this.session.next(this.now, () => true)) {
        const { lane, record } = next;
        if (lane === 'signal') for (const at of this.up.datagram(this.now)) up(at, record);
        else up(this.up.ordered(this.now, lane), record);
      }
      for (const next of this.node.ready(peer)) for (const at of this.arrivals(next)) down(at, next.record);
    } else {
      const message = () => this.packer.take(this.session, this.now, 0);
      for (let packet = message(); packet; packet = message()) up(this.now + this.delayMs, packet);
      const packet = () => this.node.take(peer, this.packetBytes);
      for (let next = packet(); next; next = packet()) down(this.now + this.delayMs, next);
    }
    if (peer.closed) {
      const code = peer.closed;
      this.after(this.delayMs + 1, () => link === this.link && this.cut(code));
    }
  }

  private arrivals({ lane, handle }: Outgoing): number[] {
    if (lane === 'signal') return this.down.datagram(this.now);
    if (lane === 'urgent' && handle) return [this.down.message(this.now, handle)];
    return [this.down.ordered(this.now, lane)];
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
      const credit = this.peer ? this.node.creditAt(this.peer) : Infinity;
      const deadline = this.session.deadline(this.now);
      const at = Math.max(this.now, Math.min(next?.at ?? Infinity, deadline, credit));
      if (at > end) throw new Error(`not done after ${limitMs} ms; state ${JSON.stringify(this.session.state)}`);
      idle = at === this.now ? idle + 1 : 0;
      if (idle > 100_000) throw new Error(`time stands still; deadline ${deadline - this.now}, next ${next && next.at - this.now}`);
      this.now = at;
      if (credit <= at) continue;
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
