/**
 * WebTransport in memory: streams of bytes that come cut anywhere, datagrams, and a node behind it that reads headers and
 * checks lanes as one must.
 */
import type { LaneName } from '../../src/core/position.js';
import * as wire from '../../src/gen/wire.js';
import { decode, encode, type Init } from '../../src/wire/codec.js';
import { field } from '../../src/wire/packet.js';
import { RecordCutter } from '../../src/transport/records.js';
import type { WebTransportConstructor, WebTransportLike } from '../../src/transport/webtransport.js';
import type { FakeNode, Outgoing, Peer } from './node.js';

const { StreamKind, Lane } = wire;
const LANE = { urgent: Lane.URGENT, normal: Lane.NORMAL, bulk: Lane.BULK };

/** A stream header as a record. */
export const header = (kind: number, lane: number): Uint8Array => field(2, encode(wire.StreamHeader, { kind, lane } as Init<wire.StreamHeader>));

/** What the node saw of a stream that the client opened. */
export interface Seen {
  kind: number;
  lane: number;
  records: number;
  /** How it ended. */
  end: 'open' | 'closed' | 'reset';
}

/** A stream from the node. */
class Down {
  readonly readable: ReadableStream<Uint8Array>;
  private controller!: ReadableStreamDefaultController<Uint8Array>;
  cancelled = false;

  constructor() {
    this.readable = new ReadableStream({
      start: (controller) => void (this.controller = controller),
      cancel: () => void (this.cancelled = true),
    });
  }

  write(bytes: Uint8Array): void {
    if (!this.cancelled) this.controller.enqueue(bytes);
  }

  close(): void {
    if (!this.cancelled) this.controller.close();
  }

  reset(): void {
    if (!this.cancelled) this.controller.error(new Error('reset'));
  }
}

/** One session. */
export class FakeSession implements WebTransportLike {
  readonly ready: Promise<void>;
  readonly closed: Promise<{ closeCode?: number; reason?: string }>;
  readonly incomingUnidirectionalStreams: ReadableStream<ReadableStream<Uint8Array>>;
  readonly datagrams: WebTransportLike['datagrams'];
  readonly peer: Peer;
  /** Streams that the client opened, in order; the first is control. */
  readonly seen: Seen[] = [];
  datagramsSeen = 0;
  closedWith: { closeCode?: number } | undefined;
  readonly control = new Down();
  private readonly lanes = new Map<LaneName, Down>();
  private incoming!: ReadableStreamDefaultController<ReadableStream<Uint8Array>>;
  private datagramsIn!: ReadableStreamDefaultController<Uint8Array>;
  private end!: (info: { closeCode?: number; reason?: string }) => void;
  private breakOff!: (error: Error) => void;

  constructor(
    private readonly world: FakeWebTransports,
    readonly url: string,
    readonly options: ConstructorParameters<WebTransportConstructor>[1],
  ) {
    this.peer = world.node.connect();
    this.ready = world.open(this);
    this.ready.catch(() => {});
    this.closed = new Promise((end, fail) => {
      this.end = end;
      this.breakOff = fail;
    });
    this.closed.catch(() => {});
    this.incomingUnidirectionalStreams = new ReadableStream({ start: (controller) => void (this.incoming = controller) });
    this.datagrams = {
      maxDatagramSize: world.maxDatagramSize,
      readable: new ReadableStream({ start: (controller) => void (this.datagramsIn = controller) }),
      writable: new WritableStream({ write: (packet) => this.datagram(packet) }),
    };
  }

  async createBidirectionalStream() {
    this.control.write(header(StreamKind.CONTROL, Lane.CONTROL));
    this.pump();
    return { readable: this.control.readable, writable: this.sink() };
  }

  async createUnidirectionalStream() {
    return this.sink();
  }

  /** A stream of the client, whose bytes the node reads unless its lane is blocked. */
  private sink(): WritableStream<Uint8Array> {
    const seen: Seen = { kind: 0, lane: 0, records: 0, end: 'open' };
    this.seen.push(seen);
    const cutter = new RecordCutter(1 << 20);
    return new WritableStream({
      write: async (chunk) => {
        if (seen.lane) await this.world.blocked.get(seen.lane);
        for (const { field: number, body } of cutter.feed(chunk)) {
          if (number === 2) Object.assign(seen, decode(wire.StreamHeader, body), { records: 0 });
          else this.take(seen, body);
        }
        this.pump();
      },
      close: () => void (seen.end = 'closed'),
      // As in browsers, an abort does not wait for the write that is under way.
      start: (controller) => controller.signal.addEventListener('abort', () => (seen.end = 'reset')),
    });
  }

  private take(seen: Seen, body: Uint8Array): void {
    if (!seen.kind) throw new Error('LC-QUIC-001: a frame before the header');
    seen.records++;
    const frame = decode(wire.Frame, body);
    const lane = frame.body?.case === 'publish' ? frame.body.value.lane : frame.body?.case === 'signal' ? Lane.SIGNAL : Lane.CONTROL;
    if (lane !== seen.lane) throw new Error(`LC-QUIC-003: ${frame.body?.case} on lane ${seen.lane}`);
    this.world.node.receive(this.peer, field(1, body));
  }

  private datagram(packet: Uint8Array): void {
    this.datagramsSeen++;
    this.world.node.receive(this.peer, packet);
    this.world.pump();
  }

  /** Sends what the node has for this session. */
  pump(): void {
    if (this.closedWith) return;
    for (const next of this.world.node.ready(this.peer)) this.send(next);
    if (this.peer.closed !== undefined) this.closeByNode(this.peer.closed);
  }

  private send({ lane, record, handle }: Outgoing): void {
    if (lane === 'signal') return this.datagramsIn.enqueue(record);
    if (lane === 'control') return this.scatter(this.control, record);
    if (lane === 'urgent' && handle) return this.stream(StreamKind.MESSAGE, Lane.URGENT, record);
    let down = this.lanes.get(lane);
    if (!down) this.lanes.set(lane, (down = this.opened(StreamKind.LANE, LANE[lane])));
    this.scatter(down, record);
  }

  private opened(kind: number, lane: number): Down {
    const down = new Down();
    this.scatter(down, header(kind, lane));
    this.incoming.enqueue(down.readable);
    return down;
  }

  /** Opens a stream with one record and ends it. */
  stream(kind: number, lane: number, ...records: Uint8Array[]): void {
    const down = this.opened(kind, lane);
    for (const record of records) this.scatter(down, record);
    down.close();
  }

  /** Opens a stream of any bytes, which stays open. */
  raw(bytes: Uint8Array): Down {
    const down = new Down();
    down.write(bytes);
    this.incoming.enqueue(down.readable);
    return down;
  }

  /** In pieces, as networks do it. */
  private scatter(down: Down, bytes: Uint8Array): void {
    const cut = Math.floor(bytes.length / 3);
    for (const piece of [bytes.subarray(0, cut), bytes.subarray(cut, cut + 1), bytes.subarray(cut + 1)]) down.write(piece);
  }

  close(info: { closeCode?: number } = {}): void {
    if (this.closedWith) return;
    this.closedWith = info;
    this.gone();
    this.end(info);
  }

  /** The node closes the session. */
  closeByNode(closeCode: number): void {
    if (this.closedWith) return;
    this.closedWith = { closeCode };
    this.gone();
    this.end({ closeCode, reason: '' });
  }

  /** The network is gone. */
  cut(): void {
    if (this.closedWith) return;
    this.closedWith = {};
    this.gone();
    this.breakOff(new Error('connection lost'));
  }

  private gone(): void {
    this.world.node.disconnect(this.peer);
    this.world.sessions.delete(this);
    for (const down of [this.control, ...this.lanes.values()]) down.reset();
  }
}

/** Makes sessions to a node. */
export class FakeWebTransports {
  readonly sessions = new Set<FakeSession>();
  /** All that were made. */
  readonly made: FakeSession[] = [];
  maxDatagramSize = 1200;
  /** By lane: what the node waits for before it reads on. */
  readonly blocked = new Map<number, Promise<void>>();
  /** Opens a session, or does not. */
  open: (session: FakeSession) => Promise<void> = async (session) => void this.sessions.add(session);

  constructor(readonly node: FakeNode) {}

  pump(): void {
    for (const session of this.sessions) session.pump();
  }

  get Session(): WebTransportConstructor {
    const world = this;
    return class extends FakeSession {
      constructor(url: string, options?: ConstructorParameters<WebTransportConstructor>[1]) {
        super(world, url, options);
        world.made.push(this);
      }
    };
  }
}
