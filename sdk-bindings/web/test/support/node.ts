/**
 * A node for tests: one log per room, watermarks, subscriptions that pull from their places, strict lanes.
 *
 * It is small enough to be read and keeps nothing of a connection but what it must, so that cutting one is honest.
 */
import { Flow } from '../../src/core/flow.js';
import { LANES, laneNumber, laneOf, type LaneName, type PerLane, perLane } from '../../src/core/position.js';
import * as wire from '../../src/gen/wire.js';
import { decode, encode, type Init } from '../../src/wire/codec.js';
import { type Body, frames, record } from '../../src/wire/packet.js';

interface Stored {
  seq: number;
  order: number;
  instance: string;
  envelope: wire.Envelope | undefined;
}

interface Log {
  epoch: number;
  handle: number;
  order: number;
  lanes: PerLane<Stored[]>;
  /** The first seq that is still there. */
  first: PerLane<number>;
  /** Forks of the log: what the earlier epoch lost. */
  lost: Init<wire.Gap>[];
  /** Where the present epoch began. A log that goes back behind that takes the fork along, which this one cannot. */
  forkedAt: PerLane<number>;
}

/** A record on its way out. */
export interface Outgoing {
  lane: 'control' | 'signal' | LaneName;
  record: Uint8Array;
  /** Of a durable event or gap: its handle. */
  handle?: number;
}

/** One connection as the node sees it. */
export class Peer {
  hello: wire.Hello | undefined;
  instance = '';
  readonly rooms = new Map<string, { place: PerLane<number>; signals: boolean; handle: number }>();
  /** Ready to send, by lane; control and signal beside the durable lanes. */
  readonly out = { control: [] as Uint8Array[], lossy: [] as Outgoing[] };
  closed: number | undefined;
  /** Pieces of frames, by transfer. */
  readonly pieces = new Map<number, { frame: Uint8Array; length: number }>();
  /** Credit, by lane; counted on both sides where the node serves it. */
  readonly flows = new Map([wire.Lane.NORMAL, wire.Lane.BULK].map((lane) => [lane as number, new Flow(lane)]));
}

/** The node. */
export class FakeNode {
  readonly logs = new Map<string, Log>();
  readonly watermarks = new Map<string, number>();
  /** Seq and order of each stored publish. */
  readonly stored = new Map<string, { seq: number; order: number }>();
  readonly signals: wire.Signal[] = [];
  readonly peers = new Set<Peer>();
  handles = 0;
  connections = 0;
  welcome: Init<wire.Welcome> = {};
  /** Answers that differ from the usual ones. */
  intercept: (peer: Peer, id: number, body: Body) => Init<Body> | 'ignore' | undefined = () => undefined;

  constructor(private readonly clock: () => number) {}

  log(room: string): Log {
    let log = this.logs.get(room);
    if (!log) {
      log = { epoch: 1, handle: ++this.handles, order: 0, lanes: perLane(() => []), first: perLane(() => 1), lost: [], forkedAt: perLane(() => 0) };
      this.logs.set(room, log);
    }
    return log;
  }

  head(log: Log): wire.Position {
    return { epoch: log.epoch, ...perLane((lane) => log.first[lane] + log.lanes[lane].length - 1) };
  }

  /** Appends an event. */
  append(room: string, lane: LaneName, envelope?: wire.Envelope, instance = 'other'): Stored {
    const log = this.log(room);
    const stored = { seq: this.head(log)[lane] + 1, order: ++log.order, instance, envelope };
    log.lanes[lane].push(stored);
    return stored;
  }

  /** Trims a lane down to its last `keep` events. */
  trim(room: string, lane: LaneName, keep: number): void {
    const log = this.log(room);
    const gone = Math.max(0, log.lanes[lane].length - keep);
    log.lanes[lane].splice(0, gone);
    log.first[lane] += gone;
  }

  /** Loses the last `count` events of a lane: a new epoch opens. */
  fork(room: string, lane: LaneName, count: number): void {
    const log = this.log(room);
    const head = this.head(log)[lane];
    log.lanes[lane].splice(log.lanes[lane].length - count, count);
    const cause = wire.GapCause.ROLLED_BACK;
    log.lost.push({ lane: laneNumber(lane), epoch: log.epoch, from: head - count + 1, to: head, cause });
    log.epoch++;
    log.forkedAt = this.head(log);
    log.handle = ++this.handles;
    for (const peer of this.peers) {
      const sub = peer.rooms.get(room);
      if (sub) this.subscribe(peer, 0, { room, signals: sub.signals }, { epoch: log.epoch - 1, ...sub.place }, wire.SubscribedCause.EPOCH);
    }
  }

  /** Starts anew with an empty log. */
  restart(room: string): void {
    const former = this.log(room);
    const fresh: Log = { ...former, epoch: former.epoch + 1000, handle: ++this.handles, order: 0, lost: [] };
    fresh.lanes = perLane(() => []);
    fresh.first = perLane(() => 1);
    this.logs.set(room, fresh);
    this.watermarks.clear();
  }

  connect(): Peer {
    const peer = new Peer();
    this.peers.add(peer);
    return peer;
  }

  disconnect(peer: Peer): void {
    this.peers.delete(peer);
  }

  send(peer: Peer, id: number, body: Init<Body>): void {
    const frame = record({ id, body } as Init<wire.Frame>);
    if (body.case === 'historyPage') peer.out.lossy.push({ lane: 'bulk', record: frame });
    else peer.out.control.push(frame);
  }

  /** Refuses with an Error; a closing one is the last. */
  refuse(peer: Peer, id: number, code: number, more: Init<wire.Error> = {}): void {
    this.send(peer, id, { case: 'error', value: { code, detail: 'refused by the test', ...more } });
    if (more.closing) peer.closed = code;
  }

  receive(peer: Peer, packet: Uint8Array): void {
    for (const [frame, bytes] of frames(packet)) {
      if (!frame.body || peer.closed) continue;
      if (frame.body.case === 'publish' || frame.body.case === 'fragment') peer.flows.get(frame.body.value.lane)?.took(this.clock(), bytes);
      this.tellCredit(peer);
      this.frame(peer, frame);
    }
  }

  private frame(peer: Peer, { id, body }: wire.Frame): void {
    if (!body) return;
    const answer = this.intercept(peer, id, body);
    if (answer === 'ignore') return;
    if (answer) this.send(peer, id, answer);
    else this.handle(peer, id, body);
  }

  /** When Credit is due for a peer. */
  creditAt(peer: Peer): number {
    const served = (this.welcome.capabilities as number[] | undefined)?.includes(wire.Capability.CREDIT);
    return served ? Math.min(...[...peer.flows.values()].map(({ dueAt }) => dueAt)) : Infinity;
  }

  /** Tells the Credit that is due. */
  tellCredit(peer: Peer): void {
    if (this.creditAt(peer) === Infinity) return;
    for (const flow of peer.flows.values()) {
      const value = flow.credit(this.clock());
      if (value) this.send(peer, 0, { case: 'credit', value });
    }
  }

  private piece(peer: Peer, { transfer, total, data }: wire.Fragment): void {
    const open = peer.pieces.get(transfer) ?? { frame: new Uint8Array(total), length: 0 };
    peer.pieces.set(transfer, open);
    open.frame.set(data, open.length);
    open.length += data.length;
    if (open.length < open.frame.length) return;
    peer.pieces.delete(transfer);
    this.frame(peer, decode(wire.Frame, open.frame));
  }

  private handle(peer: Peer, id: number, body: Body): void {
    switch (body.case) {
      case 'hello':
        return this.hello(peer, id, body.value);
      case 'ping':
        return this.send(peer, id, { case: 'pong', value: { stamp: body.value.stamp, serverTimeMs: Math.floor(this.clock()) } });
      case 'subscribe':
        return this.subscribe(peer, id, body.value, body.value.start?.at?.case === 'position' ? body.value.start.at.value : undefined);
      case 'unsubscribe':
        peer.rooms.delete(body.value.room);
        return this.send(peer, id, { case: 'unsubscribed', value: { room: body.value.room } });
      case 'publish':
        return this.publish(peer, id, body.value);
      case 'signal':
        return this.signal(peer, body.value);
      case 'history':
        return this.history(peer, id, body.value);
      case 'focus':
        return this.send(peer, id, { case: 'done', value: {} });
      case 'fragment':
        return this.piece(peer, body.value);
      case 'refreshToken':
        return this.send(peer, id, { case: 'tokenRefreshed', value: { expiresAtMs: Math.floor(this.clock()) + 60_000 } });
    }
  }

  private hello(peer: Peer, id: number, hello: wire.Hello): void {
    peer.hello = hello;
    peer.instance = hello.instance;
    const value: Init<wire.Welcome> = {
      ...{ connectionId: `c${++this.connections}`, node: 'n1', user: hello.token.replace('dev:', '') },
      ...{ serverTimeMs: Math.floor(this.clock()), capabilities: [1, 2] },
      heartbeat: { pingAfterMs: 25_000, pongWithinMs: 10_000 },
      limits: { recordBytes: 256 * 1024, publishesInFlight: 256, signalsPerSecond: 10 },
      reconnect: { minMs: 100, maxMs: 2000 },
      ...this.welcome,
    };
    this.send(peer, id, { case: 'welcome', value });
    for (const each of hello.subscriptions) {
      const at = each.start?.at?.case === 'position' ? each.start.at.value : undefined;
      this.subscribe(peer, 0, each, at);
    }
  }

  private subscribe(peer: Peer, id: number, frame: Init<wire.Subscribe>, asked?: wire.Position, cause = 0): void {
    const room = frame.room ?? '';
    const log = this.log(room);
    const head = this.head(log);
    let position: wire.Position = asked ?? head;
    let rolledBack: Init<wire.Gap>[] = [];
    const at = frame.start as wire.Start | undefined;
    if (at?.at?.case === 'beginning') position = { epoch: log.epoch, ...perLane((lane) => log.first[lane] - 1) };
    if (asked && asked.epoch < log.epoch) {
      if (log.epoch - asked.epoch < 500) {
        // What was lost concerns whoever was beyond the fork, or had more on the way.
        rolledBack = log.lost.filter((gap) => (gap.epoch as number) >= asked.epoch);
        const forks = (lane: LaneName) => rolledBack.flatMap((gap) => (gap.lane === laneNumber(lane) ? [(gap.from as number) - 1] : []));
        position = { epoch: log.epoch, ...perLane((lane) => Math.min(asked[lane], ...forks(lane))) };
      } else {
        rolledBack = LANES.map((lane) => ({
          ...{ lane: laneNumber(lane), epoch: asked.epoch, from: asked[lane] + 1, to: 0 },
          cause: wire.GapCause.ROLLED_BACK,
        }));
        position = { epoch: log.epoch, ...perLane((lane) => log.first[lane] - 1) };
      }
    }
    peer.rooms.set(room, { place: perLane((lane) => position[lane]), signals: frame.signals === true, handle: log.handle });
    const value: Init<wire.Subscribed> = { room, handle: log.handle, position, head, rolledBack, cause };
    this.send(peer, id, { case: 'subscribed', value });
  }

  private publish(peer: Peer, id: number, frame: wire.Publish): void {
    const lane = laneOf(frame.lane) ?? 'normal';
    if (frame.delivery === wire.Delivery.TRANSIENT) {
      for (const other of this.peers) {
        const sub = other.rooms.get(frame.room);
        if (!sub) continue;
        const value = { handle: sub.handle, lane: frame.lane, from: { instance: peer.instance }, envelope: frame.envelope };
        other.out.lossy.push({ lane, record: record({ body: { case: 'event', value } } as Init<wire.Frame>) });
      }
      return this.send(peer, id, { case: 'published', value: { lane: frame.lane } });
    }
    const key = `${peer.instance} ${frame.room} ${lane}`;
    const mark = this.watermarks.get(key) ?? 0;
    const epoch = this.log(frame.room).epoch;
    if (frame.number <= mark) {
      const known = this.stored.get(`${key} ${frame.number}`);
      return this.send(peer, id, { case: 'published', value: { epoch, lane: frame.lane, duplicate: true, ...known } });
    }
    if (frame.after > mark) return this.refuse(peer, id, 4402);
    const { seq, order } = this.append(frame.room, lane, frame.envelope, peer.instance);
    this.watermarks.set(key, frame.number);
    this.stored.set(`${key} ${frame.number}`, { seq, order });
    this.send(peer, id, { case: 'published', value: { epoch, lane: frame.lane, seq, order } });
  }

  private signal(peer: Peer, frame: wire.Signal): void {
    this.signals.push(frame);
    for (const other of this.peers) {
      const sub = other.rooms.get(frame.room);
      if (!sub?.signals) continue;
      const expiresAtMs = Math.floor(this.clock()) + (frame.ttlMs || 10_000);
      const value = { ...frame, room: '', handle: sub.handle, expiresAtMs, from: { user: peer.hello?.token.replace('dev:', ''), instance: peer.instance } };
      other.out.lossy.push({ lane: 'signal', record: record({ body: { case: 'signal', value } } as Init<wire.Frame>) });
    }
  }

  private history(peer: Peer, id: number, frame: wire.History): void {
    const log = this.log(frame.room);
    const all = LANES.flatMap((lane) => log.lanes[lane].map((stored) => ({ lane, stored })));
    all.sort((one, other) => other.stored.order - one.stored.order);
    const rest = all.filter(({ stored }) => !frame.cursor || stored.order < frame.cursor.order);
    const page = rest.slice(0, frame.limit || 200);
    const last = page.at(-1)?.stored.order;
    const events = page.map(({ lane, stored }) => ({
      ...{ lane: laneNumber(lane), epoch: log.epoch, seq: stored.seq, order: stored.order, envelope: stored.envelope },
    }));
    const next = rest.length > page.length && last ? { epoch: log.epoch, order: last } : undefined;
    this.send(peer, id, { case: 'historyPage', value: { room: frame.room, events, next, head: this.head(log) } as Init<wire.HistoryPage> });
  }

  /** The next packet for a peer: control first, then the lanes, as many records as fit in `bytes`. */
  take(peer: Peer, bytes: number): Uint8Array | undefined {
    const records: Uint8Array[] = [];
    let size = 0;
    for (const { record } of this.ready(peer)) {
      records.push(record);
      size += record.length;
      if (size >= bytes) break;
    }
    return records.length ? Buffer.concat(records) : undefined;
  }

  /** What is ready for a peer, record by record. */
  *ready(peer: Peer): Generator<Outgoing> {
    const { control, lossy } = peer.out;
    for (let record = control.shift(); record; record = control.shift()) yield { lane: 'control', record };
    for (const lane of LANES) {
      if (lane === 'bulk') for (let next = lossy.shift(); next; next = lossy.shift()) yield next;
      for (const [room, sub] of peer.rooms) yield* this.durable(sub, this.log(room), lane);
    }
  }

  private *durable(sub: { place: PerLane<number>; handle: number }, log: Log, lane: LaneName): Generator<Outgoing> {
    const { handle } = sub;
    const outgoing = (body: Init<Body>): Outgoing => ({ lane, handle, record: record({ body } as Init<wire.Frame>) });
    const wireLane = laneNumber(lane);
    if (log.first[lane] > sub.place[lane] + 1) {
      const value = { handle, lane: wireLane, epoch: log.epoch, from: sub.place[lane] + 1, to: log.first[lane] - 1 };
      sub.place[lane] = log.first[lane] - 1;
      yield outgoing({ case: 'gap', value: { ...value, cause: wire.GapCause.TRIMMED } });
    }
    for (;;) {
      const stored = log.lanes[lane][sub.place[lane] + 1 - log.first[lane]];
      if (!stored) return;
      sub.place[lane]++;
      const { seq, order, instance, envelope } = stored;
      yield outgoing({ case: 'event', value: { handle, lane: wireLane, seq, order, from: { instance }, envelope } });
    }
  }
}

/** An envelope with a text. */
export const text = (value: string): wire.Envelope =>
  decode(wire.Envelope, encode(wire.Envelope, { type: 'msg', body: { case: 'text', value } }));
