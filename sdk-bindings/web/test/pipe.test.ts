// The WebSocket binding: what is handed to a socket that drains slowly, and when.
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import type { PublishInput } from '../src/core/outbox.js';
import { Session } from '../src/core/session.js';
import * as wire from '../src/gen/wire.js';
import { openWebSocket, type SocketLike, UNSENT_BYTES_MAX } from '../src/transport/websocket.js';
import type { Transport } from '../src/transport/transport.js';
import { PIECE_BYTES_MAX } from '../src/transport/lanes.js';
import { frames, record } from '../src/wire/packet.js';

/** A socket whose bytes leave when the test says so. */
class FakeSocket implements SocketLike {
  binaryType = '';
  bufferedAmount = 0;
  onopen: ((event: never) => void) | null = null;
  onmessage: ((event: never) => void) | null = null;
  onclose: ((event: never) => void) | null = null;
  onerror: ((event: never) => void) | null = null;
  closed: number | undefined;
  most = 0;
  readonly sent: { lane: number; kind: string; bytes: number; ahead: number }[] = [];
  static made: FakeSocket | undefined;

  constructor() {
    FakeSocket.made = this;
    queueMicrotask(() => this.onopen?.(undefined as never));
  }

  send(data: Uint8Array): void {
    for (const [{ body }, bytes] of frames(data)) {
      const value = body?.value as { lane?: number } | undefined;
      this.sent.push({ lane: value?.lane ?? wire.Lane.CONTROL, kind: body?.case ?? '', bytes, ahead: this.bufferedAmount });
      this.bufferedAmount += bytes;
    }
    this.most = Math.max(this.most, this.bufferedAmount);
  }

  close(code?: number): void {
    this.closed = code;
  }

  /** So many bytes leave. */
  drain(bytes: number): void {
    this.bufferedAmount = Math.max(0, this.bufferedAmount - bytes);
  }

  bytes(lane: number): number {
    return this.sent.filter((each) => each.lane === lane).reduce((sum, { bytes }) => sum + bytes, 0);
  }
}

const publish = (lane: PublishInput['lane'], bytes: number): PublishInput => ({
  ...{ room: 'r', lane, durable: true, ttlMs: 0 },
  envelope: { type: 'x', body: { case: 'data', value: new Uint8Array(bytes) } },
});

/** A connected session over a fake socket, on virtual time. */
async function connected(context: TestContext, oneQueue = false) {
  context.mock.timers.enable({ apis: ['setTimeout'] });
  let now = 1000;
  let transport: Transport | undefined;
  const flush = () => transport?.flush(session, now);
  const host = { dial() {}, hangUp() {}, refresh() {}, changed() {}, ready() {}, diagnostic() {} };
  const session = new Session({ instance: 'me', client: {}, random: () => 0, oneQueue }, host);
  session.connect(now);
  transport = await openWebSocket(FakeSocket as never, 'ws://x/', new AbortController().signal);
  const socket = FakeSocket.made as FakeSocket;
  transport.start((input) => {
    input(session, now);
    flush();
  });
  session.opened(now, 'dev:me');
  flush();
  const hear = (packet: Uint8Array) => socket.onmessage?.({ data: packet.slice().buffer } as never);
  hear(record({ id: 1, body: { case: 'welcome', value: { connectionId: 'c', capabilities: [wire.Capability.FRAGMENTS, wire.Capability.CREDIT] } } }));
  socket.drain(Infinity);
  const send = (lane: PublishInput['lane'], bytes: number, count = 1) => {
    for (let each = 0; each < count; each++) session.publish(now, publish(lane, bytes), () => {});
    flush();
  };
  /** Lets time pass, in which the socket drains so many bytes per ms and the node tells what came. */
  const pass = (ms: number, rate: number, credit = true) => {
    for (let each = 0; each < ms; each++) {
      now++;
      socket.drain(rate);
      if (credit && now % 10 === 0) {
        const left = socket.bytes(wire.Lane.BULK) - socket.bufferedAmount;
        if (left > 0) hear(record({ body: { case: 'credit', value: { lane: wire.Lane.BULK, consumed: left, window: 1 << 20 } } }));
      }
      context.mock.timers.tick(1);
    }
  };
  return { socket, send, pass, session };
}

test('a socket is handed little more than it sends, and all of it in time', async (context) => {
  const { socket, send, pass } = await connected(context);
  send('bulk', 60_000, 20);
  assert.ok(socket.bufferedAmount > 0);
  pass(5000, 400);
  assert.ok(socket.bytes(wire.Lane.BULK) > 1_200_000, `${socket.bytes(wire.Lane.BULK)}`);
  assert.ok(socket.most < UNSENT_BYTES_MAX + PIECE_BYTES_MAX, `${socket.most}`);
  assert.equal(socket.bufferedAmount, 0);
});

test('an urgent publish waits behind no more than the socket holds, also if that takes nothing', async (context) => {
  const { socket, send, pass } = await connected(context);
  send('bulk', 60_000, 20);
  pass(50, 0);
  send('urgent', 200);
  const urgent = socket.sent.at(-1);
  assert.equal(urgent?.lane, wire.Lane.URGENT);
  assert.ok(urgent.ahead < UNSENT_BYTES_MAX + PIECE_BYTES_MAX, `${urgent.ahead}`);
});

test('a socket that takes nothing is not filled by urgent publishes either', async (context) => {
  const { socket, send } = await connected(context);
  send('urgent', 1000, 200);
  assert.ok(socket.most < 3 * UNSENT_BYTES_MAX, `${socket.most}`);
});

test('a lane without credit waits without being looked at, and goes on when credit comes', async (context) => {
  const { socket, send, pass } = await connected(context);
  send('bulk', 60_000, 20);
  pass(1000, 1000, false);
  const { length } = socket.sent;
  const bytes = socket.bytes(wire.Lane.BULK);
  assert.ok(bytes <= 64 * 1024 && bytes > 56 * 1024, `${bytes}`);
  pass(20, 1000);
  assert.ok(socket.sent.length > length);
});

test('one queue, to compare with: everything is handed over at once, in one piece each', async (context) => {
  const { socket, send } = await connected(context, true);
  send('bulk', 60_000, 20);
  send('urgent', 200);
  const urgent = socket.sent.at(-1);
  assert.ok(urgent?.lane === wire.Lane.URGENT && urgent.ahead > 1_200_000, `${urgent?.ahead}`);
  assert.ok(socket.sent.every(({ kind }) => kind !== 'fragment'));
});
