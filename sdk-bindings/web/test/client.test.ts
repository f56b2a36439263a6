import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Client, type Item, json, LanecastError } from '../src/index.js';
import { NodeWebSocket, Server } from './support/server.js';

const said = (item: Item) => (item.kind === 'event' ? item.text : `gap ${item.from}-${item.to}`);

test('publishes, reads, loses its connection and misses nothing', async (context) => {
  const server = await Server.start(context);
  const client = await server.client(context);
  const room = client.room('demo');
  const seen: (string | undefined)[] = [];
  const subscription = room.subscribe({ from: 'beginning' });
  const receipt = await room.publish({ type: 'msg', text: 'one' });
  assert.deepEqual(receipt, { lane: 'normal', epoch: 1, seq: 1, order: 1, duplicate: false });
  for await (const item of subscription) {
    seen.push(said(item));
    if (seen.length === 1) {
      server.cut();
      server.append('demo', 'two');
      void room.publish({ type: 'msg', text: 'three' });
    }
    if (seen.length === 3) break;
  }
  assert.deepEqual(seen, ['one', 'two', 'three']);
  assert.equal(subscription.state.name, 'ended');
  assert.equal(subscription.position?.normal, 2, 'the item at which the loop broke is not taken');
  assert.equal(server.node.connections, 2);
});

test('an iteration ends by its signal, also while it waits', async (context) => {
  const server = await Server.start(context);
  const client = await server.client(context);
  const abort = new AbortController();
  const room = client.room('demo');
  const subscription = room.subscribe({ signal: abort.signal });
  setTimeout(() => abort.abort(), 20);
  for await (const item of subscription) assert.fail(said(item));
  assert.equal(subscription.state.name, 'ended');
  // The room can be subscribed again.
  room.subscribe().close();
});

test('two subscriptions of one room are a mistake that is told', async (context) => {
  const server = await Server.start(context);
  const client = await server.client(context);
  client.room('demo').subscribe();
  assert.throws(() => client.room('demo').subscribe(), { name: 'USAGE' });
});

test('a room that the node refuses ends its iteration with the error', async (context) => {
  const server = await Server.start(context);
  server.node.intercept = (peer, id, body) => {
    if (body.case !== 'subscribe') return undefined;
    server.node.refuse(peer, id, 4302, { room: 'demo' });
    return 'ignore';
  };
  const client = await server.client(context);
  const read = async () => {
    for await (const item of client.room('demo').subscribe()) assert.fail(said(item));
  };
  await assert.rejects(read, { name: 'FORBIDDEN', code: 4302, retryable: false, action: 'stop' });
});

test('values instead of payloads', async (context) => {
  const server = await Server.start(context);
  const client = await server.client(context);
  const chat = client.room('demo').typed(json<{ body: string }>('chat'));
  const subscription = chat.subscribe({ from: 'beginning' });
  server.append('demo', 'of another type');
  await chat.publish({ body: 'hello' }, { lane: 'normal' });
  for await (const item of subscription) {
    assert.ok(item.kind === 'event');
    assert.deepEqual(item.value, { body: 'hello' });
    break;
  }
});

test('signals reach who reads signals only, and events afterwards', async (context) => {
  const server = await Server.start(context);
  const [ann, ben] = [await server.client(context), await server.client(context, { token: 'dev:ben' })];
  const signals = ann.room('demo').signals();
  const first = signals.next();
  while (![...server.sockets.values()].some((peer) => peer.rooms.get('demo')?.signals)) await new Promise((done) => setTimeout(done, 2));
  ben.room('demo').signal({ type: 'typing', key: 'ben' });
  const { value } = await first;
  assert.deepEqual([value.type, value.state, value.from.user], ['typing', 'live', 'ben']);
  const subscription = ann.room('demo').subscribe({ from: 'beginning' });
  server.append('demo', 'hello');
  for await (const item of subscription) {
    assert.equal(said(item), 'hello');
    break;
  }
  ben.room('demo').signal({ type: 'typing', key: 'ben', clear: true });
  assert.equal((await signals.next()).value.state, 'cleared');
  await signals.return?.();
});

test('the token provider is asked before every connection, and again when the node refuses', async (context) => {
  const server = await Server.start(context);
  const asked: boolean[] = [];
  server.node.intercept = (peer, id, body) => {
    if (body.case !== 'hello' || body.value.token !== 'old') return undefined;
    server.node.refuse(peer, id, 4101, { closing: true });
    return 'ignore';
  };
  await server.client(context, {
    token: async ({ refused }) => {
      asked.push(refused);
      return refused ? 'dev:new' : 'old';
    },
  });
  assert.deepEqual(asked, [false, true]);
});

test('connect rejects when the node refuses for good, and when it is aborted', async (context) => {
  const server = await Server.start(context);
  server.node.intercept = (peer, id, body) => {
    if (body.case === 'hello') server.node.refuse(peer, id, 4006, { closing: true });
    return 'ignore';
  };
  await assert.rejects(server.client(context), (error) => error instanceof LanecastError && error.name === 'VERSION');
  const nowhere = new Client({ url: 'ws://127.0.0.1:1/', token: 'x', WebSocket: NodeWebSocket });
  const signal = AbortSignal.timeout(30);
  await assert.rejects(nowhere.connect({ signal }), { name: 'TimeoutError' });
  nowhere.close();
});

test('what becomes due while it is sent is not forgotten', { timeout: 10_000 }, async (context) => {
  const server = await Server.start(context);
  const client = await server.client(context);
  let asked = 0;
  server.node.intercept = (peer, id, body) => {
    if (body.case !== 'publish' || asked++) return undefined;
    server.node.refuse(peer, id, 4400, { retryAfterMs: 20 });
    return 'ignore';
  };
  // With 15 ms from look to look the wait ends after the client saw that nothing is to be sent yet.
  const looked = performance.now();
  let looks = 0;
  const clock = performance.now.bind(performance);
  context.mock.method(performance, 'now', () => Math.max(looked, clock()) + 15 * looks++);
  const receipt = await client.room('demo').publish({ type: 'msg', text: 'again' });
  assert.deepEqual([receipt.seq, asked], [1, 2]);
});

test('history', async (context) => {
  const server = await Server.start(context);
  const client = await server.client(context);
  for (let each = 1; each <= 5; each++) server.append('demo', `${each}`);
  const page = await client.room('demo').history({ limit: 2 });
  assert.deepEqual(page.events.map((event) => event.text), ['5', '4']);
  const rest = await client.room('demo').history(page.next ? { cursor: page.next } : {});
  assert.deepEqual(rest.events.map((event) => event.text), ['3', '2', '1']);
  assert.equal(rest.next, undefined);
});
