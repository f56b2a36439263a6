import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { type ClientOptions, Code, connect, type Item } from '../src/index.js';
import * as wire from '../src/gen/wire.js';
import { openWebTransport } from '../src/transport/webtransport.js';
import { record } from '../src/wire/packet.js';
import { text } from './support/node.js';
import { Server, until } from './support/server.js';
import { type FakeSession, FakeWebTransports, header } from './support/webtransport.js';

const { Lane, StreamKind } = wire;

/** A client over WebTransport in memory. */
async function world(context: TestContext, options: Partial<ClientOptions> = {}) {
  const server = await Server.start(context);
  const transports = new FakeWebTransports(server.node);
  server.document = { webtransport: { port: 8443, path: '/v1/connect' } };
  const client = await server.client(context, { transport: 'webtransport', WebTransport: transports.Session, ...options });
  const session = () => [...transports.sessions][0] as FakeSession;
  const append = (lane: 'urgent' | 'normal' | 'bulk', body: string) => {
    server.node.append('r', lane, text(body));
    transports.pump();
  };
  return { server, node: server.node, transports, client, session, append };
}

const event = (lane: number, seq: number) =>
  record({ body: { case: 'event', value: { handle: 1, lane, seq, envelope: text(`${seq}`) } } });

/** The texts of the next events of a subscription. */
async function read(items: AsyncIterable<Item>, count: number): Promise<string[]> {
  const texts: string[] = [];
  for await (const item of items) {
    texts.push(item.kind === 'event' ? (item.text ?? '') : `gap ${item.from}`);
    if (texts.length === count) return texts;
  }
  throw new Error('the subscription ended');
}

test('LC-WT-001, LC-WT-002: control first, then one long-lived stream for each lane, each with its header', async (context) => {
  const { client, session, transports } = await world(context);
  assert.equal(client.transport, 'webtransport');
  assert.equal(session().url, 'https://127.0.0.1:8443/v1/connect');
  const room = client.room('r');
  for (let each = 0; each < 20; each++) {
    await Promise.all((['urgent', 'normal', 'bulk'] as const).map((lane) => room.publish({ type: 'msg', lane, text: `${each}` })));
  }
  const streams = session().seen.map(({ kind, lane, end }) => [kind, lane, end]);
  assert.deepEqual(streams, [
    [StreamKind.CONTROL, Lane.CONTROL, 'open'],
    [StreamKind.LANE, Lane.URGENT, 'open'],
    [StreamKind.LANE, Lane.NORMAL, 'open'],
    [StreamKind.LANE, Lane.BULK, 'open'],
  ]);
  assert.equal(transports.made.length, 1);
});

test('LC-QUIC-001, LC-QUIC-003: events come on streams of their lanes, cut anywhere, urgent ones each on its own', async (context) => {
  const { client, append } = await world(context);
  const subscription = client.room('r').subscribe({ from: 'beginning' });
  const all = read(subscription, 9);
  for (let each = 1; each <= 3; each++) for (const lane of ['urgent', 'normal', 'bulk'] as const) append(lane, `${lane[0]}${each}`);
  const texts = await all;
  for (const lane of ['u', 'n', 'b']) assert.deepEqual(texts.filter((each) => each.startsWith(lane)), [`${lane}1`, `${lane}2`, `${lane}3`]);
});

test('history comes on lane bulk', async (context) => {
  const { client, append } = await world(context);
  append('normal', 'one');
  const page = await client.room('r').history();
  assert.deepEqual(page.events.map((each) => each.text), ['one']);
});

test('a lane that is blocked stops no other', async (context) => {
  const { client, transports } = await world(context);
  let unblock = () => {};
  transports.blocked.set(Lane.BULK, new Promise((done) => (unblock = done)));
  const room = client.room('r');
  const data = new Uint8Array(40_000);
  const bulk = Array.from({ length: 10 }, () => room.publish({ type: 'blob', lane: 'bulk', data }));
  await room.publish({ type: 'call', lane: 'urgent' });
  await room.publish({ type: 'msg' });
  assert.equal(client.waiting, 10);
  unblock();
  await Promise.all(bulk);
  assert.equal(client.waiting, 0);
});

test('LC-QUIC-009: a signal is a datagram, above 1,000 bytes or what fits a stream, which a newer one resets', async (context) => {
  const { client, session, node, transports } = await world(context);
  const room = client.room('r');
  room.signal({ type: 'cursor', key: 'a', text: 'small' });
  await until(() => node.signals.length === 1, 'the datagram');
  assert.equal(session().datagramsSeen, 1);
  room.signal({ type: 'cursor', key: 'a', text: 'x'.repeat(1200) });
  await until(() => node.signals.length === 2, 'the stream');
  const streams = () => session().seen.filter(({ kind }) => kind === StreamKind.SIGNAL);
  await until(() => streams()[0]?.end === 'closed', 'the end of the stream');
  assert.equal(streams()[0]?.records, 1);
  transports.blocked.set(Lane.SIGNAL, new Promise(() => {}));
  for (const letter of 'yz') {
    room.signal({ type: 'cursor', key: 'a', text: letter.repeat(1200) });
    await until(() => streams().length === (letter === 'y' ? 2 : 3), 'a stream');
  }
  await until(() => streams()[1]?.end === 'reset', 'the reset');
});

test('LC-QUIC-009: a signal that fits no datagram of the path goes on a stream', async (context) => {
  const { client, session, transports, node } = await world(context);
  transports.maxDatagramSize = 20;
  session().cut();
  await until(() => client.state.name === 'suspended', 'the loss');
  client.networkChanged();
  await until(() => client.state.name === 'connected', 'the next session');
  client.room('r').signal({ type: 'cursor', key: 'a', text: 'longer than that' });
  await until(() => node.signals.length === 1, 'the signal');
  assert.equal(session().datagramsSeen, 0);
});

test('LC-QUIC-001: a stream of an unknown kind or lane is not read further, and harms nothing', async (context) => {
  const { client, session, append } = await world(context);
  const streams = [session().raw(header(17, Lane.NORMAL)), session().raw(header(StreamKind.LANE, 9))];
  await until(() => streams.every((stream) => stream.cancelled), 'the end of the reading');
  const subscription = client.room('r').subscribe({ from: 'beginning' });
  append('normal', 'one');
  assert.deepEqual(await read(subscription, 1), ['one']);
});

test('LC-QUIC-001, LC-QUIC-003: a node that breaks the framing is left with PROTOCOL', async (context) => {
  const faults: [string, (session: FakeSession) => void][] = [
    ['a frame on a stream of another lane', (session) => session.stream(StreamKind.LANE, Lane.NORMAL, event(Lane.BULK, 1))],
    ['an event on control', (session) => session.control.write(event(Lane.NORMAL, 1))],
    ['an event in a datagram', (session) => session.stream(StreamKind.SIGNAL, Lane.SIGNAL, event(Lane.NORMAL, 1))],
    ['no header', (session) => session.raw(event(Lane.NORMAL, 1))],
    ['two headers', (session) => session.stream(StreamKind.LANE, Lane.NORMAL, header(StreamKind.LANE, Lane.NORMAL))],
    ['the header of control', (session) => session.stream(StreamKind.CONTROL, Lane.CONTROL)],
    ['kind and lane that do not fit', (session) => session.stream(StreamKind.MESSAGE, Lane.NORMAL)],
    ['two frames on a stream for one', (session) => session.stream(StreamKind.MESSAGE, Lane.URGENT, event(Lane.URGENT, 1), event(Lane.URGENT, 2))],
    ['a stream that ends within a record', (session) => session.stream(StreamKind.LANE, Lane.NORMAL, event(Lane.NORMAL, 1).subarray(0, 5))],
    ['a record without end', (session) => session.raw(Uint8Array.of(...header(StreamKind.LANE, Lane.NORMAL), 0x0a, 0xff, 0xff, 0xff, 0x7f))],
    ['a group', (session) => session.raw(Uint8Array.of(0x0b, 0x0c))],
  ];
  const { client, session } = await world(context);
  for (const [what, fault] of faults) {
    await until(() => client.state.name === 'connected', 'a connection');
    const present = session();
    fault(present);
    await until(() => present.closedWith !== undefined, what);
    assert.equal(present.closedWith?.closeCode, Code.PROTOCOL, what);
    client.networkChanged();
  }
});

test('cuts: each event once over sessions, and the publishes that were under way stored once', async (context) => {
  const { client, session, append, node } = await world(context);
  const subscription = client.room('r').subscribe({ from: 'beginning' });
  const seen: string[] = [];
  void (async () => {
    for await (const item of subscription) seen.push(item.kind === 'event' ? `${item.lane} ${item.seq}` : 'gap');
  })();
  const published: Promise<unknown>[] = [];
  for (let round = 0; round < 5; round++) {
    for (const lane of ['urgent', 'normal', 'bulk'] as const) {
      append(lane, 'x');
      published.push(client.room('r').publish({ type: 'own', lane, text: `${round}` }));
    }
    await new Promise((done) => setTimeout(done, 3));
    session()?.cut();
    await until(() => client.state.name === 'suspended', 'the loss');
    client.networkChanged();
    await until(() => client.state.name === 'connected', 'the resume');
  }
  await Promise.all(published);
  await until(() => seen.length >= 30, 'all events');
  assert.equal(new Set(seen).size, 30);
  assert.ok(!seen.includes('gap'));
  assert.deepEqual(node.head(node.log('r')), { epoch: 1, urgent: 10, normal: 10, bulk: 10 });
});

test('LC-WT-004: the code of the last Error with closing true counts, or that of the session', async (context) => {
  const { client, session, node } = await world(context);
  node.send(session().peer, 0, { case: 'error', value: { code: Code.REPLACED, closing: true } });
  session().pump();
  await until(() => client.state.name === 'closed', 'the end');
  assert.equal(client.state.name === 'closed' && client.state.cause.name, 'REPLACED');
  const other = await world(context);
  other.session().closeByNode(Code.DISCONNECTED);
  await until(() => other.client.state.name === 'closed', 'the end');
  assert.equal(other.client.state.name === 'closed' && other.client.state.cause.name, 'DISCONNECTED');
});

test('an end of control is the end of the connection', async (context) => {
  const { client, session } = await world(context);
  session().control.close();
  await until(() => client.state.name === 'suspended', 'the loss');
});

test('hashes of certificates go to the browser, and an aborted opening leaves nothing behind', async (context) => {
  const server = await Server.start(context);
  const transports = new FakeWebTransports(server.node);
  server.document = { webtransport: { port: 1, path: '/p', certificateHashes: [Buffer.alloc(32, 7).toString('base64')] } };
  const client = await connect({ url: server.url, token: 'dev:ann', transport: 'webtransport', WebTransport: transports.Session });
  client.close();
  assert.deepEqual(transports.made[0]?.options?.serverCertificateHashes, [{ algorithm: 'sha-256', value: new Uint8Array(32).fill(7) }]);
  transports.open = () => new Promise(() => {});
  const abort = new AbortController();
  const opening = openWebTransport(transports.Session, 'https://x/', [], abort.signal);
  abort.abort();
  await assert.rejects(opening, { name: 'AbortError' });
  assert.ok(transports.made[1]?.closedWith);
});

test('LC-RES-005: what overtakes beyond the window on its way through the browser waits for what it overtook', async (context) => {
  const { client, session, node } = await world(context);
  const subscription = client.room('r').subscribe();
  await until(() => subscription.state.name === 'live', 'the subscription');
  const ordered = session().raw(header(StreamKind.LANE, Lane.URGENT));
  for (let seq = 2; seq <= 100; seq++) ordered.write(event(Lane.URGENT, seq));
  // Two that wait do not keep each other, and the page, busy.
  for (const seq of [101, 102]) session().stream(StreamKind.MESSAGE, Lane.URGENT, event(Lane.URGENT, seq));
  await until(() => subscription.stats.events === 63, 'the window');
  await new Promise((done) => setTimeout(done, 20));
  session().stream(StreamKind.MESSAGE, Lane.URGENT, event(Lane.URGENT, 1));
  await until(() => subscription.stats.events === 102, 'all of them');
  assert.deepEqual([subscription.stats.holes, subscription.stats.subscriptions], [0, 1]);
  // What never comes is asked for.
  for (let seq = 1; seq <= 200; seq++) node.append('r', 'urgent', text(`${seq}`));
  const begun = performance.now();
  for (let seq = 180; seq <= 200; seq++) ordered.write(event(Lane.URGENT, seq));
  await until(() => subscription.stats.events === 200, 'all of them, by another Subscribe');
  assert.equal(subscription.stats.subscriptions, 2);
  assert.ok(performance.now() - begun < 4000, 'the wait is one for all that is behind');
});
