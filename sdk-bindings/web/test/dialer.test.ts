import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { parse } from '../src/transport/describe.js';
import { Dialer, endpoint, race } from '../src/transport/dialer.js';
import type { Transport, TransportName } from '../src/transport/transport.js';
import { NodeWebSocket, Server, until } from './support/server.js';
import { FakeWebTransports } from './support/webtransport.js';

const never = new AbortController().signal;

/** A way that opens or fails after so many ms, and what became of it. */
function way(name: TransportName, ms: number, fails = false) {
  const fate = { begun: false, aborted: false, closed: false };
  const transport: Transport = { name, ordered: true, start() {}, flush() {}, close: () => void (fate.closed = true) };
  const open = (signal: AbortSignal) => {
    fate.begun = true;
    signal.addEventListener('abort', () => (fate.aborted = true));
    return new Promise<Transport>((done, fail) => setTimeout(() => (fails ? fail(new Error(name)) : done(transport)), ms));
  };
  return { open, fate };
}

test('the first way wins within its head start, and the second is not tried', async () => {
  const [first, second] = [way('webtransport', 5), way('websocket', 0)];
  assert.equal((await race(first.open, second.open, 50, never)).name, 'webtransport');
  await new Promise((done) => setTimeout(done, 70));
  assert.equal(second.fate.begun, false);
});

test('a first way that fails ends the head start, and one that hangs loses and is aborted', async () => {
  const failing = way('webtransport', 1, true);
  const begun = performance.now();
  assert.equal((await race(failing.open, way('websocket', 1).open, 5000, never)).name, 'websocket');
  assert.ok(performance.now() - begun < 1000);
  const hanging = way('webtransport', 60);
  assert.equal((await race(hanging.open, way('websocket', 1).open, 20, never)).name, 'websocket');
  assert.ok(hanging.fate.aborted);
  await until(() => hanging.fate.closed, 'the end of what opened too late');
});

test('if both fail the error of the second tells, and an abort ends both', async () => {
  await assert.rejects(race(way('webtransport', 1, true).open, way('websocket', 1, true).open, 5, never), /websocket/);
  const abort = new AbortController();
  const listening = (signal: AbortSignal) => new Promise<Transport>((_, fail) => signal.addEventListener('abort', () => fail(signal.reason)));
  const racing = race(listening, way('websocket', 1).open, 1000, abort.signal);
  abort.abort();
  await assert.rejects(racing, { name: 'AbortError' });
});

/** A node with both transports, and a client in `auto`. */
async function world(context: TestContext) {
  const server = await Server.start(context);
  const transports = new FakeWebTransports(server.node);
  server.document = { websocket: '/v1/connect', webtransport: { port: 8443, path: '/v1/connect' } };
  const options = { WebTransport: transports.Session };
  return { server, transports, options };
}

test('auto takes WebTransport where the node has it', async (context) => {
  const { server, options } = await world(context);
  const client = await server.client(context, options);
  assert.equal(client.transport, 'webtransport');
  assert.equal(server.sockets.size, 0);
});

test('auto takes WebSocket where the node has no WebTransport, has no document, or names one that is not usable', async (context) => {
  const { server, transports, options } = await world(context);
  for (const document of [{ websocket: '/v1/connect' }, undefined, { webtransport: { port: 0, path: '/' } }, { webtransport: 7 }]) {
    server.document = document;
    const client = await server.client(context, options);
    assert.equal(client.transport, 'websocket');
  }
  assert.equal(transports.made.length, 0);
});

test('where UDP is blocked auto is connected by WebSocket within a second, remembers it, and forgets it', async (context) => {
  const { server, transports, options } = await world(context);
  transports.open = () => new Promise(() => {});
  const begun = performance.now();
  const client = await server.client(context, options);
  const took = performance.now() - begun;
  assert.ok(took < 1000, `${took} ms`);
  assert.equal(client.transport, 'websocket');
  const again = async () => {
    server.cut();
    await until(() => client.state.name !== 'connected', 'the loss');
    await until(() => client.state.name === 'connected', 'the next connection');
  };
  await again();
  assert.equal(transports.made.length, 1, 'not tried again');
  transports.open = async (session) => void transports.sessions.add(session);
  client.networkChanged();
  await again();
  assert.equal(client.transport, 'webtransport');
});

test('a session on which no Welcome comes is avoided, and after a failure of WebSocket tried again', async (context) => {
  const { server, transports, options } = await world(context);
  let drops = 1;
  server.node.intercept = (_peer, _id, body) => {
    if (body.case !== 'hello' || drops-- <= 0) return undefined;
    for (const session of transports.sessions) queueMicrotask(() => session.cut());
    return 'ignore';
  };
  const client = await server.client(context, options);
  assert.equal(client.transport, 'websocket');
  assert.equal(transports.made.length, 1);
  server.path = '/elsewhere';
  server.cut();
  await until(() => client.transport === 'webtransport', 'WebTransport');
});

test('the path of the WebSocket is the one of the address, or else the one of the document', async (context) => {
  const { server } = await world(context);
  server.path = '/other';
  server.document = { websocket: '/other' };
  assert.equal((await server.client(context)).transport, 'websocket');
  server.document = undefined;
  const client = await server.client(context, { url: server.url.replace('http', 'ws') + 'other' });
  assert.equal(client.transport, 'websocket');
  assert.equal(server.asked, 1, 'who has no use for the document does not read it');
});

test('what of the document is not as it should be is as if it were not there', () => {
  const hash = Buffer.alloc(32, 1).toString('base64');
  const good = { port: 8443, path: '/v1/connect', certificateHashes: [hash] };
  assert.deepEqual(parse({ webtransport: good }).webtransport?.hashes, [new Uint8Array(32).fill(1)]);
  assert.deepEqual(parse({ webtransport: { ...good, certificateHashes: undefined } }).webtransport?.hashes, []);
  const bad = [{ port: 65_536 }, { port: '1' }, { port: 1.5 }, { path: 'x' }, { path: '//evil/' }, { certificateHashes: ['?'] }, { certificateHashes: 1 }];
  for (const fields of bad) assert.equal(parse({ webtransport: { ...good, ...fields } }).webtransport, undefined, JSON.stringify(fields));
  assert.equal(parse({ websocket: '//evil/' }).websocket, undefined);
  for (const document of [null, 1, 'x', []]) assert.deepEqual(parse(document), { websocket: undefined, webtransport: undefined });
});

test('an address that a node sends does not take a token off TLS', () => {
  assert.equal(endpoint('https://a.example/v1/connect', ''), 'wss://a.example/v1/connect');
  assert.equal(endpoint('https://a.example/v1/connect', 'b.example'), 'wss://b.example/v1/connect');
  assert.equal(endpoint('https://a.example/v1/connect', 'ws://b.example/'), 'wss://a.example/v1/connect');
  assert.equal(endpoint('http://a.example/', 'wss://b.example/x'), 'wss://b.example/x');
  assert.throws(() => endpoint('::', ''), { name: 'USAGE' });
});

test('a certificate by its hash is taken from a node on this machine only', async () => {
  const transports = new FakeWebTransports(undefined as never);
  const dialer = new Dialer({ url: 'http://node.example/', transport: 'webtransport', WebTransport: transports.Session, WebSocket: NodeWebSocket });
  const { fetch } = globalThis;
  globalThis.fetch = async () =>
    Response.json({ webtransport: { port: 1, path: '/', certificateHashes: [Buffer.alloc(32).toString('base64')] } });
  try {
    await assert.rejects(dialer.dial('', never), /for development/);
  } finally {
    globalThis.fetch = fetch;
  }
});
