/**
 * WebTransport: a stream for each lane, and datagrams (areas QUIC and WT of the specification).
 *
 * ```text
 *  control   bidirectional, opened first, its header written at once   control, both ways
 *  lane      unidirectional, opened with its first record              urgent, normal, bulk: ordered, long-lived
 *  signal    a datagram, or a stream of its own above 1,000 bytes      signal
 *  incoming  unidirectional, by its header                             lanes, urgent messages one each, signals
 * ```
 *
 * Browsers give no priorities to streams, so the order of lanes is kept by handing over little: each stream takes one
 * write at a time, and a lane whose stream takes no more stops no other.
 */
import { URGENT_WINDOW } from '../core/window.js';
import { laneNumber, OUT_LANES, type OutLane } from '../core/position.js';
import type { Session } from '../core/session.js';
import { Frame, Lane, StreamHeader, StreamKind } from '../gen/wire.js';
import { decode, encode, WireError } from '../wire/codec.js';
import { field as packetField, frames, join, laneOf } from '../wire/packet.js';
import { RecordCutter } from './records.js';
import type { Run, Transport } from './transport.js';

/** What the client needs of a WebTransport session; the one of browsers fits. */
export interface WebTransportLike {
  readonly ready: Promise<unknown>;
  readonly closed: Promise<{ closeCode?: number; reason?: string }>;
  readonly incomingUnidirectionalStreams: ReadableStream<ReadableStream<Uint8Array>>;
  readonly datagrams: {
    readonly readable: ReadableStream<Uint8Array>;
    /** Older browsers have it, newer ones make one. */
    readonly writable?: WritableStream<Uint8Array>;
    createWritable?(): WritableStream<Uint8Array>;
    readonly maxDatagramSize: number;
    incomingHighWaterMark?: number;
  };
  createBidirectionalStream(): Promise<{ readable: ReadableStream<Uint8Array>; writable: WritableStream<Uint8Array> }>;
  createUnidirectionalStream(): Promise<WritableStream<Uint8Array>>;
  close(info?: { closeCode?: number; reason?: string }): void;
}

/** Makes a {@link WebTransportLike}. */
export type WebTransportConstructor = new (
  url: string,
  options?: { serverCertificateHashes?: { algorithm: string; value: Uint8Array<ArrayBuffer> }[] },
) => WebTransportLike;

/** Bytes that are handed to a stream at once. */
const WRITE_BYTES_MAX = 16 * 1024;
/** A signal whose record is longer goes on a stream of its own (LC-QUIC-009) … */
const DATAGRAM_BYTES_MAX = 1000;
/** … of which so many may be open. */
const SIGNAL_STREAMS_MAX = 4;
/** Datagrams that may come before they are read; the browser drops the rest. */
const DATAGRAMS_WAITING_MAX = 64;
/** Largest record taken from a node: its own limit is not known before Welcome, and at most this. */
const RECORD_BYTES_MAX = 16 * 1024 * 1024;

/** A stream whose next frame came too early waits for what is before it at most this long. */
const EARLY_MS_MAX = 2000;

type Writer = WritableStreamDefaultWriter<Uint8Array>;

/** Opens a session with its control stream; rejects if that fails, or `signal` aborts first. */
export async function openWebTransport(
  Constructor: WebTransportConstructor,
  url: string,
  hashes: readonly Uint8Array<ArrayBuffer>[],
  signal: AbortSignal,
): Promise<Transport> {
  const serverCertificateHashes = hashes.map((value) => ({ algorithm: 'sha-256', value }));
  const session = new Constructor(url, hashes.length ? { serverCertificateHashes } : {});
  session.closed.catch(() => {});
  const aborted = new Promise<never>((_, fail) => {
    const abort = () => fail(signal.reason);
    signal.addEventListener('abort', abort);
    if (signal.aborted) abort();
  });
  try {
    const open = session.ready.then(() => session.createBidirectionalStream());
    const { readable, writable } = await Promise.race([open, aborted]);
    const writer = writable.getWriter();
    // At once: the node hears of a stream by its first bytes (LC-WT-002).
    writer.write(header(StreamKind.CONTROL, Lane.CONTROL)).catch(() => {});
    return new Streams(session, readable, writer);
  } catch (error) {
    session.close();
    throw error;
  }
}

function header(kind: StreamKind, lane: Lane): Uint8Array {
  return packetField(2, encode(StreamHeader, { kind, lane }));
}

/** What a stream carries. */
interface Purpose {
  lane: number;
  /** One frame, and then its end. */
  single: boolean;
}

/** What a header says; undefined: a kind or a lane of a later version (LC-QUIC-001). */
function purposeOf({ kind, lane }: StreamHeader, control: boolean): Purpose | undefined {
  if (control !== (kind === StreamKind.CONTROL)) throw new WireError('the header of control stands there and nowhere else');
  if (lane < Lane.CONTROL || lane > Lane.SIGNAL) return undefined;
  const ordered = lane === Lane.URGENT || lane === Lane.NORMAL || lane === Lane.BULK;
  const fits: Record<number, boolean> = {
    [StreamKind.CONTROL]: lane === Lane.CONTROL,
    [StreamKind.LANE]: ordered,
    [StreamKind.MESSAGE]: lane === Lane.URGENT,
    [StreamKind.TRANSFER]: lane === Lane.BULK,
    [StreamKind.SIGNAL]: lane === Lane.SIGNAL,
  };
  if (fits[kind] === false) throw new WireError('a stream header whose kind and lane do not fit');
  return fits[kind] ? { lane, single: kind === StreamKind.MESSAGE || kind === StreamKind.SIGNAL } : undefined;
}

class Streams implements Transport {
  readonly name = 'webtransport';
  readonly ordered = false;
  readonly #lanes = new Map<OutLane, Promise<Writer>>();
  /** Lanes whose stream has not taken what it was given last. */
  readonly #busy = new Set<OutLane>();
  readonly #datagrams: Writer;
  /** Open streams of large signals, by what a newer one supersedes. */
  readonly #signals = new Map<string, { writer?: Writer; superseded: boolean }>();
  /** Streams whose next frame came too early. */
  readonly #early = new Set<() => void>();
  #run: Run | undefined;
  readonly #session: WebTransportLike;
  readonly #control: ReadableStream<Uint8Array>;

  constructor(
    session: WebTransportLike,
    control: ReadableStream<Uint8Array>,
    writer: Writer,
  ) {
    this.#session = session;
    this.#control = control;
    this.#lanes.set('control', Promise.resolve(writer));
    const { datagrams } = session;
    if (datagrams.incomingHighWaterMark !== undefined) datagrams.incomingHighWaterMark = DATAGRAMS_WAITING_MAX;
    this.#datagrams = (datagrams.createWritable?.() ?? (datagrams.writable as WritableStream<Uint8Array>)).getWriter();
  }

  start(run: Run): void {
    this.#run = run;
    const session = this.#session;
    const lost = (closeCode = 0, reason = '') => this.#end((to, now) => to.lost(now, closeCode, reason));
    session.closed.then(
      ({ closeCode, reason }) => lost(closeCode, reason),
      (error) => lost(0, String(error)),
    );
    // Without control there is nothing that could be agreed.
    void this.#read(this.#control, true).then(() => lost(0, 'the control stream ended'));
    void each(session.incomingUnidirectionalStreams, (stream) => void this.#read(stream, false));
    void each(session.datagrams.readable, (packet) => this.#datagram(packet));
  }

  close(code: number): void {
    this.#run = undefined;
    try {
      this.#session.close({ closeCode: code, reason: '' });
    } catch {
      // It is closed.
    }
  }

  /** Whether the connection neither ended nor was ended. */
  get #live(): boolean {
    return this.#run !== undefined;
  }

  #end(input: Parameters<Run>[0]): void {
    const run = this.#run;
    this.#run = undefined;
    run?.(input);
  }

  // Out.

  flush(session: Session, now: number): void {
    const batches = new Map<OutLane, Uint8Array[]>();
    const bytes = new Map<OutLane, number>();
    const free = (lane: OutLane) => (lane === 'signal' ? this.#signalsFree() : !this.#busy.has(lane) && (bytes.get(lane) ?? 0) < WRITE_BYTES_MAX);
    for (let next = session.next(now, free); next; next = session.next(now, free)) {
      const { lane, record } = next;
      if (lane === 'signal') {
        this.#signal(record);
        continue;
      }
      batches.set(lane, [...(batches.get(lane) ?? []), record]);
      bytes.set(lane, (bytes.get(lane) ?? 0) + record.length);
    }
    for (const lane of OUT_LANES) {
      const records = batches.get(lane);
      if (records) void this.#write(lane, join(records));
    }
  }

  async #write(lane: OutLane, bytes: Uint8Array): Promise<void> {
    this.#busy.add(lane);
    try {
      const writer = await this.#writer(lane);
      writer.write(bytes).catch(() => {});
      await writer.ready;
    } catch {
      // The stream is gone, and the connection with it: `closed` tells.
      return;
    }
    this.#busy.delete(lane);
    this.#run?.(() => {});
  }

  #writer(lane: OutLane): Promise<Writer> {
    let writer = this.#lanes.get(lane);
    if (!writer) {
      writer = this.#open(StreamKind.LANE, laneNumber(lane));
      this.#lanes.set(lane, writer);
    }
    return writer;
  }

  async #open(kind: StreamKind, lane: Lane): Promise<Writer> {
    const writer = (await this.#session.createUnidirectionalStream()).getWriter();
    writer.write(header(kind, lane)).catch(() => {});
    return writer;
  }

  #signalsFree(): boolean {
    return (this.#datagrams.desiredSize ?? 0) > 0 && this.#signals.size < SIGNAL_STREAMS_MAX;
  }

  #signal(record: Uint8Array): void {
    const { maxDatagramSize } = this.#session.datagrams;
    if (record.length > Math.min(DATAGRAM_BYTES_MAX, maxDatagramSize)) return void this.#largeSignal(record);
    this.#datagrams.write(record).catch(() => {});
    void this.#datagrams.ready.then(
      () => this.#run?.(() => {}),
      () => {},
    );
  }

  /** A signal on a stream, which is reset when a newer one of its key comes. */
  async #largeSignal(record: Uint8Array): Promise<void> {
    const [[frame]] = [...frames(record)] as [[Frame, number]];
    const { room, envelope } = (frame.body as Extract<Frame['body'], { case: 'signal' }>).value;
    const key = JSON.stringify([room, envelope?.type, envelope?.key]);
    const former = this.#signals.get(key);
    const mine: { writer?: Writer; superseded: boolean } = { superseded: false };
    this.#signals.set(key, mine);
    if (former) former.superseded = true;
    former?.writer?.abort().catch(() => {});
    try {
      mine.writer = await this.#open(StreamKind.SIGNAL, Lane.SIGNAL);
      if (mine.superseded) return void (await mine.writer.abort());
      mine.writer.write(record).catch(() => {});
      await mine.writer.close();
    } catch {
      // Superseded, or the connection is gone.
    } finally {
      if (this.#signals.get(key) === mine) this.#signals.delete(key);
      this.#run?.(() => {});
    }
  }

  // In.

  /** Reads a stream until it ends, breaks, or is of no use. */
  async #read(stream: ReadableStream<Uint8Array>, control: boolean): Promise<void> {
    const incoming = new Incoming(control);
    const ended = await each(stream, async (chunk) => {
      const come: [Frame, number][] = [];
      this.#guard(() => come.push(...incoming.feed(chunk)));
      await this.#take(incoming, come);
      return this.#live && !incoming.unknown;
    });
    if (ended) this.#guard(() => incoming.finish());
  }

  /**
   * Hands frames of one stream to the session, one after the other.
   *
   * What the browser has acknowledged to the node it has not yet shown to the page, least of all a stream that the page
   * has still to be given. So what the node held to the window (LC-QUIC-004) may overtake further on its last way; it then
   * waits here, where the session would have to drop it and ask for the room again.
   */
  async #take(incoming: Incoming, come: readonly [Frame, number][]): Promise<void> {
    let at = 0;
    while (this.#live && at < come.length) {
      const before = at;
      this.#guard((session, now) => {
        for (let next = come[at]; next && this.#live; next = come[++at]) {
          if (!isEarly(session, next[0])) incoming.patience = undefined;
          // Once it was in vain all goes on: behind it may be what mends the hole.
          else if (performance.now() < (incoming.patience ??= performance.now() + EARLY_MS_MAX)) return;
          session.handle(now, ...next);
        }
      });
      // Those that wait look again only if something moved: else two of them would wake each other without end.
      if (at > before) for (const go of [...this.#early]) go();
      if (this.#live && at < come.length) await this.#turn(incoming.patience ?? 0);
    }
  }

  /** Waits until something else was handed over, but not for ever. */
  #turn(until: number): Promise<void> {
    return new Promise((done) => {
      const go = () => {
        clearTimeout(timer);
        this.#early.delete(go);
        done();
      };
      const timer = setTimeout(go, Math.max(0, until - performance.now()) + 1);
      this.#early.add(go);
    });
  }

  #datagram(packet: Uint8Array): void {
    this.#guard((session, now) => {
      for (const [frame, bytes] of frames(packet)) if (this.#live) session.handle(now, checked(Lane.SIGNAL, frame), bytes);
    });
  }

  /** Runs an input in which the node may be found to break the framing. */
  #guard(input: Parameters<Run>[0]): void {
    this.#run?.((session, now) => {
      try {
        input(session, now);
      } catch (error) {
        if (!(error instanceof WireError)) throw error;
        session.malformed(now, error);
      }
    });
  }
}

/** One stream from the node: its header, then frames of its lane. */
class Incoming {
  /** Its header is of a later version: it is not read further. */
  unknown = false;
  /** Until when its next frame waits, which came too early. */
  patience: number | undefined;
  readonly #cutter = new RecordCutter(RECORD_BYTES_MAX);
  #purpose: Purpose | undefined;
  #count = 0;
  readonly #control: boolean;

  constructor(control: boolean) {
    this.#control = control;
  }

  /** The frames that are whole with these bytes, and how long each was; throws {@link WireError}. */
  *feed(chunk: Uint8Array): Generator<[Frame, number]> {
    for (const { field, body, bytes } of this.#cutter.feed(chunk)) {
      const purpose = this.#purpose;
      if (this.unknown) return;
      if (!purpose) {
        if (field !== 2) throw new WireError('a stream without a header');
        this.#purpose = purposeOf(decode(StreamHeader, body), this.#control);
        this.unknown = !this.#purpose;
      } else if (field === 1) {
        if (this.#count++ && purpose.single) throw new WireError('a second frame on a stream for one');
        yield [checked(purpose.lane, decode(Frame, body)), bytes];
      } else if (field === 2) {
        throw new WireError('a second header on a stream');
      }
    }
  }

  /** The stream ended; throws {@link WireError} if it did so too early. */
  finish(): void {
    if (!this.unknown && (!this.#purpose || this.#cutter.torn)) throw new WireError('a stream that ends within a record');
  }
}

/** The frame, if it came on a stream of its lane (LC-QUIC-003). One of a later version may stand anywhere. */
function checked(lane: number, frame: Frame): Frame {
  if (frame.body && laneOf(frame.body) !== lane) throw new WireError('a frame on a stream of another lane');
  return frame;
}

/** Whether a frame of lane urgent is beyond the window of its room, so that something before it is still to come. */
function isEarly(session: Session, { body }: Frame): boolean {
  if ((body?.case !== 'event' && body?.case !== 'gap') || body.value.lane !== Lane.URGENT) return false;
  const { handle } = body.value;
  const [first, last] = body.case === 'event' ? [body.value.seq, body.value.seq] : [body.value.from, body.value.to];
  for (const { tracker } of session.rooms.values()) {
    if (tracker.handle !== handle) continue;
    const received = tracker.position?.urgent ?? 0;
    return first > received + 1 && last > received + URGENT_WINDOW;
  }
  return false;
}

/** Calls `take` with each item of a stream; false from it stops the reading. Says whether the stream ended by itself. */
async function each<T>(stream: ReadableStream<T>, take: (item: T) => Promise<boolean> | void): Promise<boolean> {
  const reader = stream.getReader();
  for (;;) {
    // A stream that is reset, or whose connection is gone, breaks; `closed` tells of the latter.
    const next = await reader.read().catch(() => undefined);
    if (!next || next.done) return next !== undefined;
    if ((await take(next.value)) === false) {
      reader.cancel().catch(() => {});
      return false;
    }
  }
}
