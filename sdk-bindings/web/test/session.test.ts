import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Item } from '../src/core/inbox.js';
import type { PublishInput, Receipt } from '../src/core/outbox.js';
import { type LaneName, positionText } from '../src/core/position.js';
import type { RoomCore } from '../src/core/room.js';
import type { Page } from '../src/core/history.js';
import { Code, LanecastError } from '../src/errors.js';
import * as wire from '../src/gen/wire.js';
import { WireError } from '../src/wire/codec.js';
import { record } from '../src/wire/packet.js';
import { text } from './support/node.js';
import { World } from './support/world.js';

const EVENTS = { start: undefined, signals: false, events: true };
const BEGINNING = { ...EVENTS, start: { at: { case: 'beginning' as const, value: {} } } };

const publish = (body: string, more: Partial<PublishInput> = {}): PublishInput => ({
  ...{ room: 'r', lane: 'normal', durable: true, ttlMs: 0, envelope: { type: 'msg', body: { case: 'text', value: body } } },
  ...more,
});

function drain(room: RoomCore): Item[] {
  const items: Item[] = [];
  for (let item = room.inbox.next(); item; item = room.inbox.next()) items.push(item);
  return items;
}

const short = (items: Item[]) =>
  items.map((item) => (item.kind === 'event' ? `${item.lane[0]}${item.seq}` : `gap ${item.lane} ${item.from}-${item.to} ${item.cause}`));

test('LC-HS-001: a client connects, subscribes inside Hello and reads from there', () => {
  const world = new World();
  world.node.append('r', 'normal', text('one'));
  const room = world.session.rooms.subscribe(world.now, 'r', BEGINNING);
  world.connected();
  assert.equal(world.peer?.hello?.subscriptions.length, 1);
  world.run(() => room.state.name === 'live');
  world.node.append('r', 'urgent', text('two'));
  world.pass(100);
  assert.deepEqual(short(drain(room)), ['u1', 'n1']);
  assert.deepEqual(world.states, ['connecting', 'connected']);
});

test('LC-LIFE-001, LC-LIFE-004: pings after silence, and gives up without a Pong', () => {
  const world = new World().connected();
  world.pass(26_000);
  assert.ok(world.session.roundTripMs >= 20 && world.session.roundTripMs < 30, `${world.session.roundTripMs}`);
  world.node.intercept = (_peer, _id, body) => (body.case === 'ping' ? 'ignore' : undefined);
  world.run(() => world.session.state.name === 'suspended', 40_000);
  world.node.intercept = () => undefined;
  world.run(() => world.session.state.name === 'connected');
});

test('LC-LIFE-005: answers the ping of a node', () => {
  const world = new World().connected();
  let answered = 0;
  world.node.intercept = (_peer, id, body) => {
    if (body.case !== 'pong') return undefined;
    answered = id * 1000 + body.value.stamp;
    return 'ignore';
  };
  if (world.peer) world.node.send(world.peer, 7, { case: 'ping', value: { stamp: 42 } });
  world.pass(100);
  assert.equal(answered, 7042);
});

test('LC-LIFE-023: waits with full jitter in the window of the node, which grows with each attempt', () => {
  const world = new World(3).connected();
  world.reachable = false;
  world.cut();
  const waits: number[] = [];
  for (let attempt = 0; attempt < 8; attempt++) {
    const { state } = world.session;
    assert.equal(state.name, 'suspended');
    if (state.name === 'suspended') waits.push(state.retryInMs);
    world.run(() => world.session.state.name === 'connecting');
    world.run(() => world.session.state.name === 'suspended');
  }
  waits.forEach((wait, attempt) => assert.ok(wait <= Math.min(2000, 100 * 2 ** attempt), `${attempt}: ${wait}`));
  assert.ok(Math.max(...waits) > 200, 'the window grows');
  world.reachable = true;
  world.run(() => world.session.state.name === 'connected');
});

test('LC-AUTH-022: a refused token is replaced, and the same one is not tried again', () => {
  const world = new World();
  world.token = () => (world.dials.at(-1)?.refused ? 'dev:good' : 'dev:bad');
  world.node.intercept = (peer, id, body) => {
    if (body.case !== 'hello' || body.value.token !== 'dev:bad') return undefined;
    world.node.refuse(peer, id, 4101, { closing: true });
    return 'ignore';
  };
  world.connected();
  assert.deepEqual(world.dials.map((dial) => dial.refused), [false, true]);

  const stubborn = new World();
  stubborn.token = 'dev:bad';
  stubborn.node.intercept = (peer, id, body) => {
    if (body.case === 'hello') stubborn.node.refuse(peer, id, 4100, { closing: true });
    return 'ignore';
  };
  stubborn.session.connect(stubborn.now);
  stubborn.run(() => stubborn.session.state.name === 'closed');
  assert.equal(stubborn.session.state.name === 'closed' && stubborn.session.state.cause.name, 'BAD_TOKEN');
  assert.equal(stubborn.node.connections, 0);
});

test('LC-LIFE-013, LC-ERR-003: codes of the stop range end the client, others do not', () => {
  for (const [code, name] of [[4206, 'REPLACED'], [4009, 'DISCONNECTED'], [4001, 'PROTOCOL'], [4050, 'CODE_4050']] as const) {
    const world = new World().connected();
    world.cut(code);
    assert.equal(world.session.state.name === 'closed' && world.session.state.cause.name, name);
  }
  for (const code of [1006, 1001, 4200, 4205, 4299, 4499]) {
    const world = new World().connected();
    world.cut(code);
    assert.equal(world.session.state.name, 'suspended', `${code}`);
  }
});

test('LC-LIFE-022: GoAway moves the client to another address after the stated time', () => {
  const world = new World().connected();
  const room = world.session.rooms.subscribe(world.now, 'r', EVENTS);
  world.run(() => room.state.name === 'live');
  if (world.peer) world.node.send(world.peer, 0, { case: 'goAway', value: { retryAfterMs: 700, address: 'b.example' } });
  world.pass(600);
  assert.equal(world.session.state.name, 'connected');
  world.run(() => world.dials.length === 2, 200);
  assert.equal(world.dials[1]?.address, 'b.example');
  world.run(() => room.state.name === 'live');
});

test('a token that is about to expire is refreshed where the node takes it', () => {
  const world = new World();
  let refreshed = '';
  world.node.welcome = { capabilities: [wire.Capability.REFRESH], tokenExpiresAtMs: world.now + 100_000 };
  world.node.intercept = (_peer, _id, body) => {
    if (body.case === 'refreshToken') refreshed = body.value.token;
    return undefined;
  };
  world.connected();
  world.pass(84_000);
  assert.equal(refreshed, '');
  world.pass(6100);
  assert.equal(refreshed, 'dev:newer');
});

test('LC-SUB-024: a log that is away for the node moves nothing, and the room is live again', () => {
  const world = new World();
  world.node.append('r', 'normal', text('one'));
  const room = world.session.rooms.subscribe(world.now, 'r', BEGINNING);
  world.connected();
  world.run(() => room.state.name === 'live');
  const { handle, mark, position } = room.tracker;
  for (const degraded of [true, false]) {
    // Beyond what the client has: the events may still be on their way.
    const at = { ...position, normal: 5 };
    const transients = { source: 9, normal: 3 };
    const cause = wire.SubscribedCause.DEGRADED;
    const value = { room: 'r', handle, position: at, head: at, transients, cause, degraded };
    if (world.peer) world.node.send(world.peer, 0, { case: 'subscribed', value });
    world.pass(100);
    assert.equal(room.state.name, degraded ? 'degraded' : 'live');
    assert.deepEqual([room.tracker.position, room.tracker.mark], [position, mark]);
  }
  world.node.append('r', 'normal', text('two'));
  world.pass(100);
  assert.deepEqual(short(drain(room)), ['n1', 'n2']);
});

test('LC-SDK-002: a hole is never passed over: the room is subscribed again from received, at most once a second', () => {
  const world = new World().connected();
  const room = world.session.rooms.subscribe(world.now, 'r', EVENTS);
  world.run(() => room.state.name === 'live');
  for (let seq = 1; seq <= 5; seq++) world.node.append('r', 'normal', text(`${seq}`));
  const place = world.peer?.rooms.get('r')?.place;
  if (place) place.normal = 2;
  const asked: string[] = [];
  world.node.intercept = (_peer, _id, body) => {
    const at = body.case === 'subscribe' ? body.value.start?.at : undefined;
    if (at?.case === 'position') asked.push(positionText(at.value));
    return undefined;
  };
  world.pass(900);
  assert.deepEqual(asked, []);
  assert.equal(room.state.name, 'catching-up');
  world.pass(300);
  assert.deepEqual(asked, ['1-0-0-0']);
  assert.deepEqual(short(drain(room)), ['n1', 'n2', 'n3', 'n4', 'n5']);
  assert.equal(room.state.name, 'live');
  world.pass(5000);
  assert.equal(asked.length, 1);
});

test('a log trimmed past the position yields one gap, then the rest', () => {
  const world = new World().connected();
  const room = world.session.rooms.subscribe(world.now, 'r', EVENTS);
  world.run(() => room.state.name === 'live');
  world.cut();
  for (let seq = 1; seq <= 30; seq++) world.node.append('r', 'normal', text(`${seq}`));
  world.node.trim('r', 'normal', 3);
  world.run(() => room.state.name === 'live');
  const items = drain(room);
  assert.deepEqual(short(items), ['gap normal 1-27 trimmed', 'n28', 'n29', 'n30']);
  assert.equal(items[0]?.kind === 'gap' && items[0].count, 27);
  assert.equal(room.inbox.position?.normal, 30);
});

test('LC-SDK-006: a fork revokes what was delivered, live and on resume', () => {
  for (const away of [false, true]) {
    const world = new World().connected();
    const room = world.session.rooms.subscribe(world.now, 'r', EVENTS);
    world.run(() => room.state.name === 'live');
    for (let seq = 1; seq <= 5; seq++) world.node.append('r', 'normal', text(`${seq}`));
    world.pass(100);
    if (away) world.cut();
    world.node.fork('r', 'normal', 2);
    world.node.append('r', 'normal', text('again'));
    world.run(() => room.stats.gaps === 1 && room.state.name === 'live');
    world.pass(100);
    assert.deepEqual(short(drain(room)), ['n1', 'n2', 'n3', 'n4', 'n5', 'gap normal 4-5 rolled-back', 'n4']);
    assert.equal(room.inbox.position && positionText(room.inbox.position), '2-0-4-0');
  }
});

test('LC-RES-016: while a Subscribe is unanswered, one that comes unasked is ignored', () => {
  const world = new World().connected();
  const room = world.session.rooms.subscribe(world.now, 'r', EVENTS);
  world.run(() => room.state.name === 'live');
  for (let seq = 1; seq <= 5; seq++) world.node.append('r', 'normal', text(`${seq}`));
  world.pass(100);
  // Asking for signals too subscribes again; the log forks before the node hears of it.
  world.session.rooms.subscribe(world.now, 'r', { ...EVENTS, signals: true });
  world.node.fork('r', 'normal', 2);
  world.node.append('r', 'normal', text('again'));
  world.run(() => room.options.signals && room.pending === undefined && room.state.name === 'live');
  world.pass(100);
  assert.deepEqual(short(drain(room)), ['n1', 'n2', 'n3', 'n4', 'n5', 'gap normal 4-5 rolled-back', 'n4']);
});

test('a node that restarted yields a rolled-back gap per lane with an open end, and delivery goes on', () => {
  const world = new World().connected();
  const room = world.session.rooms.subscribe(world.now, 'r', EVENTS);
  world.run(() => room.state.name === 'live');
  world.node.append('r', 'normal', text('old'));
  world.pass(100);
  world.cut();
  world.node.restart('r');
  world.node.append('r', 'normal', text('new'));
  world.run(() => room.state.name === 'live');
  const open = (lane: string, from: number) => `gap ${lane} ${from}-undefined rolled-back`;
  assert.deepEqual(short(drain(room)), ['n1', open('urgent', 1), open('normal', 2), open('bulk', 1), 'n1']);
  assert.equal(room.inbox.position && positionText(room.inbox.position), '1001-0-1-0');
});

test('LC-QUIC-010: frames whose handle is not known yet are held, then the room is asked for again', () => {
  const world = new World(1, 'streams').connected();
  world.node.append('r', 'normal', text('1'));
  let hold = true;
  const early = () =>
    record({ body: { case: 'event', value: { handle: 1, lane: wire.Lane.NORMAL, seq: 1, envelope: text('1') } } });
  const room = world.session.rooms.subscribe(world.now, 'r', BEGINNING);
  world.session.received(world.now, early());
  assert.equal(room.stats.events, 0);
  world.run(() => room.state.name === 'live');
  assert.deepEqual(short(drain(room)), ['n1']);
  assert.equal(room.stats.duplicates, 1, 'the node sent it too');

  let asked = 0;
  world.node.intercept = (_peer, _id, body) => {
    if (body.case === 'subscribe') asked++;
    return body.case === 'subscribe' && hold ? 'ignore' : undefined;
  };
  const other = world.session.rooms.subscribe(world.now, 's', BEGINNING);
  world.session.received(world.now, record({ body: { case: 'event', value: { handle: 99, lane: wire.Lane.NORMAL, seq: 1 } } }));
  world.pass(1900);
  assert.equal(asked, 1);
  hold = false;
  world.run(() => other.state.name === 'live', 3000);
  assert.equal(asked, 2);
});

test('LC-QUIC-010: a handle of which frames were dropped is asked for again once it is known', () => {
  const world = new World(1, 'streams').connected();
  const room = world.session.rooms.subscribe(world.now, 'r', BEGINNING);
  world.run(() => room.state.name === 'live');
  // More than is held, of an epoch whose Subscribed is still to come; after that nothing shows that something is missing.
  world.node.log('r').handle = world.node.handles + 1;
  const envelope = { type: 'x', body: { case: 'text' as const, value: 'x'.repeat(30_000) } };
  for (const seq of [1, 2, 3]) {
    world.session.received(world.now, record({ body: { case: 'event', value: { handle: 2, lane: wire.Lane.URGENT, seq, envelope } } }));
  }
  for (let seq = 1; seq <= 3; seq++) world.node.append('r', 'urgent', text(`${seq}`));
  const { peer } = world;
  assert.ok(peer);
  peer.rooms.clear();
  const position = { epoch: 1, urgent: 0, normal: 0, bulk: 0 };
  world.node.send(peer, 0, { case: 'subscribed', value: { room: 'r', handle: 2, position, cause: wire.SubscribedCause.EPOCH } });
  world.run(() => room.stats.events === 3, 5000);
  assert.deepEqual(short(drain(room)).sort(), ['u1', 'u2', 'u3']);
});

test('LC-SUB-009: where the order is kept, what has an unknown handle is of an ended subscription and ignored', () => {
  const world = new World().connected();
  const room = world.session.rooms.subscribe(world.now, 'r', BEGINNING);
  world.session.received(world.now, record({ body: { case: 'event', value: { handle: 1, lane: wire.Lane.NORMAL, seq: 1 } } }));
  world.run(() => room.state.name === 'live');
  assert.equal(room.stats.events, 0);
});

test('LC-QUIC-012: after a hint that the network changed, no answer within 2 s is a lost connection', () => {
  const world = new World().connected();
  world.node.intercept = (_peer, _id, body) => (body.case === 'ping' ? 'ignore' : undefined);
  world.session.nudge(world.now);
  world.pass(1990);
  assert.equal(world.session.state.name, 'connected');
  world.run(() => world.session.state.name !== 'connected', 20);
});

test('LC-SDK-022: a connection that does not answer a hint is replaced at once, whatever answers earlier pings', () => {
  const world = new World().connected();
  world.node.intercept = (_peer, _id, body) => (body.case === 'ping' ? 'ignore' : undefined);
  world.ground.leave();
  world.session.nudge(world.now);
  const value = { stamp: world.now - 5000, serverTimeMs: world.now };
  world.session.received(world.now, record({ body: { case: 'pong', value } }));
  world.pass(1990);
  assert.equal(world.session.state.name, 'connected');
  world.states.length = 0;
  world.pass(20);
  assert.deepEqual(world.states.slice(0, 2), ['suspended', 'connecting']);
});

test('LC-SDK-023: in the background only publishes that wait connect, and the foreground does at once', () => {
  const world = new World().connected();
  const state = () => world.session.state.name;
  world.ground.enter();
  world.pass(60_000);
  assert.equal(state(), 'connected');
  world.cut();
  world.pass(3_600_000);
  assert.equal(state(), 'suspended');
  let receipt: Receipt | LanecastError | undefined;
  world.session.publish(world.now, publish('waits'), (result) => (receipt = result));
  world.run(() => receipt !== undefined);
  assert.ok(!(receipt instanceof LanecastError));
  world.cut();
  world.pass(3_600_000);
  assert.equal(state(), 'suspended');
  world.ground.leave();
  world.session.nudge(world.now);
  assert.equal(state(), 'connecting');
  world.run(() => state() === 'connected');
});

test('LC-SDK-023: attempts in the background are bounded, and begin anew with a publish', () => {
  const world = new World().connected();
  world.reachable = false;
  world.ground.enter();
  world.cut();
  for (const attempts of [8, 16]) {
    world.session.publish(world.now, publish('waits'), () => undefined);
    world.pass(600_000);
    assert.equal(world.states.filter((state) => state === 'connecting').length, 1 + attempts);
  }
});

test('a node that breaks the framing is left with PROTOCOL', () => {
  const world = new World(1, 'streams').connected();
  world.session.malformed(world.now, new WireError('a frame on a stream of another lane'));
  assert.deepEqual(world.hangUps, [Code.PROTOCOL]);
  world.run(() => world.session.state.name === 'connected');
});

test('LC-AUTH-020: a refused refresh leaves the connection, and another token is asked for', () => {
  const world = new World();
  world.node.welcome = { capabilities: [wire.Capability.REFRESH], tokenExpiresAtMs: world.now + 100_000 };
  const offered: string[] = [];
  world.node.intercept = (peer, id, body) => {
    if (body.case !== 'refreshToken') return undefined;
    offered.push(body.value.token);
    if (body.value.token !== 'bad') return undefined;
    world.node.refuse(peer, id, Code.BAD_TOKEN);
    return 'ignore';
  };
  const asked: boolean[] = [];
  world.fresh = (refused) => {
    asked.push(refused);
    // A provider may fail, and may give what was refused once more: neither is sent.
    return ['bad', undefined, 'bad', 'good'][asked.length - 1];
  };
  world.connected();
  world.run(() => offered.length === 2, 100_000);
  assert.deepEqual(offered, ['bad', 'good']);
  assert.deepEqual(asked, [false, true, true, true]);
  assert.equal(world.dials.length, 1);
  world.pass(1000);
  assert.equal(world.session.state.name, 'connected');
});

test('LC-AUTH-021: a token of another user is not offered twice, and the connection goes on', () => {
  const world = new World();
  world.node.welcome = { capabilities: [wire.Capability.REFRESH], tokenExpiresAtMs: world.now + 100_000 };
  let offered = 0;
  world.node.intercept = (peer, id, body) => {
    if (body.case !== 'refreshToken') return undefined;
    offered++;
    world.node.refuse(peer, id, Code.USER_MISMATCH);
    return 'ignore';
  };
  world.connected();
  world.pass(99_000);
  assert.equal(offered, 1);
  assert.equal(world.session.state.name, 'connected');
  assert.equal(world.diagnostics.length, 1);
});

test('a token that hardly lives is not refreshed in a loop', () => {
  const world = new World();
  world.node.welcome = { capabilities: [wire.Capability.REFRESH], tokenExpiresAtMs: world.now + 100 };
  let offered = 0;
  world.node.intercept = (_peer, _id, body) => {
    if (body.case !== 'refreshToken') return undefined;
    offered++;
    return { case: 'tokenRefreshed', value: { expiresAtMs: Math.floor(world.now) } };
  };
  world.connected();
  world.pass(5000);
  assert.ok(offered > 0 && offered <= 5, `${offered}`);
});

test('on streams a room that was paused comes back and misses nothing', () => {
  for (let seed = 1; seed <= 10; seed++) {
    const world = new World(seed, 'streams').connected();
    const room = world.session.rooms.subscribe(world.now, 'r', EVENTS);
    world.run(() => room.state.name === 'live');
    for (let seq = 1; seq <= 12_000; seq++) world.node.append('r', seq % 100 ? 'bulk' : 'urgent');
    world.run(() => room.paused);
    const items = drain(room);
    world.session.rooms.drained(world.now, room);
    world.node.append('r', 'urgent');
    world.run(() => {
      items.push(...drain(room));
      world.session.rooms.drained(world.now, room);
      return items.length === 12_001;
    });
    assert.equal(new Set(items.map((item) => `${item.lane} ${item.kind === 'event' && item.seq}`)).size, 12_001);
  }
});

test('a slow application pauses the room and misses nothing', () => {
  const world = new World().connected();
  world.packetBytes = 100_000;
  const room = world.session.rooms.subscribe(world.now, 'r', EVENTS);
  world.run(() => room.state.name === 'live');
  for (let seq = 1; seq <= 12_000; seq++) world.node.append('r', 'bulk');
  world.run(() => room.paused);
  world.pass(5000);
  assert.equal(room.inbox.length, 10_000);
  const seen: Item[] = [];
  world.run(() => {
    seen.push(...drain(room));
    world.session.rooms.drained(world.now, room);
    return seen.length === 12_000;
  });
  seen.forEach((item, index) => assert.equal(item.kind === 'event' && item.seq, index + 1));
});

test('LC-PUB-026, LC-PUB-027: a refusal settles one number, what came after is sent again in order', () => {
  const world = new World().connected();
  let refuse = true;
  world.node.intercept = (peer, id, body) => {
    if (body.case !== 'publish' || body.value.number !== 1 || !refuse) return undefined;
    refuse = false;
    world.node.refuse(peer, id, 4306);
    return 'ignore';
  };
  const results: (Receipt | LanecastError)[] = [];
  for (const body of ['a', 'b', 'c']) world.session.publish(world.now, publish(body), (result) => results.push(result));
  world.run(() => results.length === 3);
  assert.deepEqual(results.map((result) => (result instanceof LanecastError ? result.name : result.seq)), ['MESSAGE_TOO_LARGE', 1, 2]);
  assert.equal(world.node.log('r').lanes.normal.map(({ envelope }) => envelope?.body?.value).join(''), 'bc');
});

test('LC-PUB-027: a refusal for now keeps the publish and its order', () => {
  const world = new World().connected();
  let refusals = 3;
  world.node.intercept = (peer, id, body) => {
    if (body.case !== 'publish' || body.value.number !== 2 || refusals-- <= 0) return undefined;
    world.node.refuse(peer, id, 4401, { retryAfterMs: 300 });
    return 'ignore';
  };
  const results: (Receipt | LanecastError)[] = [];
  for (const body of ['a', 'b', 'c', 'd']) world.session.publish(world.now, publish(body), (result) => results.push(result));
  world.run(() => results.length === 4);
  assert.equal(world.node.log('r').lanes.normal.map(({ envelope }) => envelope?.body?.value).join(''), 'abcd');
});

test('LC-SDK-010, LC-SDK-011: the outbox is bounded, and gives up what waited too long', () => {
  const world = new World();
  const results: (Receipt | LanecastError)[] = [];
  const fill = (lane: LaneName, room: string) => {
    const before = results.length;
    for (let each = 0; results.length === before; each++) {
      assert.ok(each <= 1000);
      world.session.publish(world.now, publish('x', { lane, room }), (result) => results.push(result));
    }
  };
  // Bulk leaves a quarter to the others, normal an eighth to urgent.
  const counts = (['bulk', 'normal', 'urgent'] as const).map((lane) => {
    fill(lane, lane);
    return world.session.outbox.length;
  });
  assert.deepEqual(counts, [750, 875, 1000]);
  assert.deepEqual(results.map((result) => result instanceof LanecastError && result.name), ['OUTBOX_FULL', 'OUTBOX_FULL', 'OUTBOX_FULL']);
  world.session.tick(world.now + 12 * 3600 * 1000);
  assert.equal(results.length, 1003);
  assert.equal(results.at(-1) instanceof LanecastError && (results.at(-1) as LanecastError).name, 'EXPIRED');
});

test('no more publishes are on the wire than the node allows', () => {
  const world = new World();
  world.node.welcome = { limits: { recordBytes: 65536, publishesInFlight: 3, signalsPerSecond: 1 } };
  world.connected();
  const seen: number[] = [];
  world.node.intercept = (_peer, _id, body) => {
    if (body.case === 'publish') seen.push(body.value.number);
    return 'ignore';
  };
  for (let each = 0; each < 10; each++) world.session.publish(world.now, publish('x'), () => {});
  world.pass(1000);
  assert.deepEqual(seen, [1, 2, 3]);
});

test('LC-SDK-012: transient publishes are answered, and refused without a connection', () => {
  const world = new World();
  const results: (Receipt | LanecastError)[] = [];
  world.session.publish(world.now, publish('x', { durable: false }), (result) => results.push(result));
  world.connected();
  world.session.publish(world.now, publish('y', { durable: false }), (result) => results.push(result));
  world.run(() => results.length === 2);
  assert.equal(results[0] instanceof LanecastError && results[0].name, 'OFFLINE');
  assert.equal(results[1] instanceof LanecastError || results[1]?.seq, 0);
});

test('LC-SIG-011: signals are conflated and paced before they are sent, the newest one counts at the receiver', () => {
  const world = new World().connected();
  const room = world.session.rooms.subscribe(world.now, 'r', { ...EVENTS, signals: true });
  world.run(() => room.state.name === 'live');
  const reader = room.signals.reader(() => {});
  for (let x = 1; x <= 200; x++) {
    world.after(x * 5, () => {
      const envelope = { type: 'cursor', key: 'me', body: { case: 'text' as const, value: `${x}` } };
      world.session.signal(world.now, { room: 'r', ttlMs: 3000, envelope });
    });
  }
  world.pass(1300);
  assert.ok(world.node.signals.length <= 16, `${world.node.signals.length} sent in 1.3 s at 10/s with a burst of 5`);
  const counters = world.node.signals.map((signal) => signal.counter);
  assert.deepEqual(counters, counters.map((_, index) => index + 1));
  const seen = reader.next();
  assert.equal(seen?.text, '200');
  assert.equal(reader.next(), undefined, 'a slow reader gets the newest only');
  const [old] = world.node.signals;
  if (old) world.session.received(world.now, record({ body: { case: 'signal', value: { ...old, room: '', handle: 1, from: { user: 'ann', instance: 'me' } } } }));
  assert.equal(reader.next(), undefined, 'an older one is dropped');
  world.pass(3100);
  assert.equal(reader.next()?.state, 'expired');
});

test('a cleared signal says so, and a late reader does not see it', () => {
  const world = new World().connected();
  const room = world.session.rooms.subscribe(world.now, 'r', { ...EVENTS, signals: true });
  world.run(() => room.state.name === 'live');
  const reader = room.signals.reader(() => {});
  const envelope = { type: 'typing', key: 'me' };
  world.session.signal(world.now, { room: 'r', envelope });
  world.pass(200);
  assert.equal(reader.next()?.state, 'live');
  world.session.signal(world.now, { room: 'r', clear: true, envelope });
  world.pass(200);
  assert.equal(reader.next()?.state, 'cleared');
  assert.equal(room.signals.reader(() => {}).next(), undefined);
});

test('history pages are asked for again after a lost connection, and merged by order', () => {
  const world = new World().connected();
  for (let each = 0; each < 5; each++) world.node.append('r', each % 2 ? 'urgent' : 'normal', text(`${each}`));
  const pages: (Page | LanecastError)[] = [];
  world.histories.ask(world.now, 'r', { limit: 3 }, (page) => pages.push(page));
  world.cut();
  world.run(() => pages.length === 1);
  const [page] = pages;
  assert.ok(page && !(page instanceof LanecastError));
  assert.deepEqual(page.events.map((event) => event.text), ['4', '3', '2']);
  world.histories.ask(world.now, 'r', { limit: 3, cursor: page.next }, (next) => pages.push(next));
  world.run(() => pages.length === 2);
  assert.deepEqual(!(pages[1] instanceof LanecastError) && pages[1]?.events.map((event) => event.text), ['1', '0']);
});

test('a refused subscription ends the room with the error, one refused for now is asked for again', () => {
  const world = new World().connected();
  let codes = [4401, 4302];
  world.node.intercept = (peer, id, body) => {
    if (body.case !== 'subscribe') return undefined;
    world.node.refuse(peer, id, codes.shift() ?? 4302, { room: 'r', retryAfterMs: 50 });
    return 'ignore';
  };
  const room = world.session.rooms.subscribe(world.now, 'r', EVENTS);
  world.run(() => room.state.name === 'degraded');
  world.run(() => room.state.name === 'ended');
  assert.equal(room.state.name === 'ended' && room.state.error?.name, 'FORBIDDEN');
});

test('leaving a room makes the node stop, and what is in flight is ignored', () => {
  const world = new World().connected();
  const room = world.session.rooms.subscribe(world.now, 'r', EVENTS);
  world.run(() => room.state.name === 'live');
  world.node.append('r', 'normal', text('late'));
  world.session.rooms.leave(room);
  assert.equal(room.state.name, 'ended');
  const again = world.session.rooms.subscribe(world.now, 'r', EVENTS);
  world.run(() => again.state.name === 'live');
  assert.equal(room.stats.events, 0);
  world.pass(3000);
  world.node.append('r', 'normal', text('new'));
  world.pass(100);
  assert.equal(drain(again).filter((item) => item.kind === 'event' && item.text === 'new').length, 1);
});

test('bytes that are no packet end the connection, not the client', () => {
  const world = new World().connected();
  world.session.received(world.now, Uint8Array.of(10, 200));
  assert.equal(world.session.state.name, 'suspended');
  world.run(() => world.session.state.name === 'connected');
});

test('closing refuses everything that is not settled', () => {
  const world = new World().connected();
  const results: unknown[] = [];
  const room = world.session.rooms.subscribe(world.now, 'r', EVENTS);
  world.session.publish(world.now, publish('x'), (result) => results.push(result));
  world.histories.ask(world.now, 'r', {}, (result) => results.push(result));
  world.session.close();
  assert.deepEqual(results.map((result) => result instanceof LanecastError && result.name), ['CLOSED', 'CLOSED']);
  assert.equal(room.state.name, 'ended');
  assert.equal(world.session.deadline(world.now), Infinity);
});
