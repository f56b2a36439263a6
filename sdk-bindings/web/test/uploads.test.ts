// What a session sends: credit, times to live, limits, focus, fragments.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { TRANSFER_MS_MAX, TRANSFERS_MAX } from '../src/core/fragments.js';
import type { PublishInput, Receipt } from '../src/core/outbox.js';
import { Code, LanecastError } from '../src/errors.js';
import * as wire from '../src/gen/wire.js';
import { encode } from '../src/wire/codec.js';
import { record } from '../src/wire/packet.js';
import { World } from './support/world.js';

const { Capability, Lane } = wire;
const EVERYTHING = [Capability.HISTORY, Capability.SIGNALS, Capability.FOCUS, Capability.FRAGMENTS, Capability.CREDIT];
const EVENTS = { start: undefined, signals: false, events: true };

function world(capabilities: number[] = EVERYTHING): World {
  const made = new World();
  made.node.welcome = { capabilities };
  return made;
}

const publish = (bytes: number, more: Partial<PublishInput> = {}): PublishInput => ({
  ...{ room: 'r', lane: 'bulk', durable: true, ttlMs: 0 },
  envelope: { type: 'x', body: { case: 'data', value: new Uint8Array(bytes) } },
  ...more,
});

/** Publishes; the results come into the list that is returned. */
function send(at: World, ...inputs: PublishInput[]): (Receipt | LanecastError)[] {
  const results: (Receipt | LanecastError)[] = [];
  for (const input of inputs) at.session.publish(at.now, input, (result) => results.push(result));
  return results;
}

const names = (results: (Receipt | LanecastError)[]) => results.map((result) => (result instanceof LanecastError ? result.name : 'stored'));

test('LC-HS-020: a client names what it can use; with one queue neither credit nor fragments', () => {
  const made = world().connected();
  assert.deepEqual([...(made.peer?.hello?.capabilities ?? [])].sort(), [...EVERYTHING, Capability.REFRESH].sort());
});

test('LC-FLOW-010: several MB pass under credit, in fragments, and urgent publishes pass them', () => {
  const made = world().connected();
  const bulk = send(made, ...Array.from({ length: 40 }, () => publish(60_000)));
  made.pass(25);
  const { flows } = made.peer as NonNullable<World['peer']>;
  const sent = () => (made.session as unknown as { outbox: { length: number } }).outbox.length;
  assert.ok(sent() > 0);
  const urgent = send(made, publish(100, { lane: 'urgent' }));
  made.run(() => urgent.length === 1);
  assert.ok(bulk.length < 10, `${bulk.length} of 40 before the urgent one`);
  made.run(() => bulk.length === 40);
  assert.deepEqual(new Set(names([...bulk, ...urgent])), new Set(['stored']));
  assert.equal(flows.get(Lane.BULK)?.credit(Infinity)?.lane, Lane.BULK);
  assert.equal(made.node.log('r').lanes.bulk.length, 40);
  assert.equal(made.dials.length, 1);
});

test('LC-FLOW-010: without Credit 64 KiB of a lane leave, and the other lanes go on', () => {
  const made = world();
  made.connected();
  made.node.creditAt = () => Infinity;
  let bytes = 0;
  made.node.intercept = (_peer, _id, body) => {
    if (body.case === 'fragment') bytes += body.value.data.length;
    return undefined;
  };
  send(made, ...Array.from({ length: 20 }, () => publish(60_000)));
  made.pass(1000);
  assert.ok(bytes > 56 * 1024 && bytes <= 64 * 1024, `${bytes}`);
  const others = send(made, publish(10, { lane: 'urgent' }), publish(10, { lane: 'normal' }));
  made.pass(1000);
  assert.deepEqual(names(others), ['stored', 'stored']);
});

test('LC-FLOW-010: what comes is told, and a new connection counts anew', () => {
  const made = world().connected();
  const told: wire.Credit[] = [];
  made.node.intercept = (_peer, _id, body) => {
    if (body.case === 'credit') told.push(body.value);
    return undefined;
  };
  const room = made.session.rooms.subscribe(made.now, 'r', EVENTS);
  made.run(() => room.state.name === 'live');
  const fill = () => {
    for (let each = 0; each < 20; each++) made.node.append('r', 'bulk', { type: 'x', key: '', contentType: '', headers: {}, body: { case: 'data', value: new Uint8Array(1000) } });
  };
  fill();
  made.pass(200);
  const last = told.at(-1);
  assert.ok(last && last.lane === Lane.BULK && last.consumed > 20_000 && last.consumed < 22_000, JSON.stringify(told));
  made.node.append('r', 'normal');
  made.pass(1000);
  assert.ok(told.every(({ lane }) => lane === Lane.BULK), 'a lone event is not worth a Credit');
  made.cut();
  made.run(() => made.session.state.name === 'connected');
  told.length = 0;
  fill();
  made.pass(200);
  assert.ok((told.at(-1)?.consumed ?? 0) < 22_000, JSON.stringify(told));
});

test('LC-FLOW-010: impossible Credit closes with PROTOCOL; a node without the capability is not counted', () => {
  const made = world().connected();
  const { peer } = made;
  assert.ok(peer);
  made.node.send(peer, 0, { case: 'credit', value: { lane: Lane.NORMAL, consumed: 1, window: 9 } });
  made.run(() => made.session.state.name !== 'connected');
  assert.deepEqual(made.hangUps, [Code.PROTOCOL]);
  const without = world([]).connected();
  const results = send(without, ...Array.from({ length: 20 }, () => publish(60_000)));
  without.run(() => results.length === 20);
  assert.deepEqual(new Set(names(results)), new Set(['stored']));
});

test('publishes in flight leave room for higher lanes', () => {
  const made = world([]).connected();
  const seen: number[] = [];
  made.node.intercept = (_peer, _id, body) => {
    if (body.case === 'publish') seen.push(body.value.lane);
    return 'ignore';
  };
  for (const lane of ['bulk', 'normal', 'urgent'] as const) {
    send(made, ...Array.from({ length: 256 }, () => publish(1, { lane })));
    made.pass(100);
  }
  const count = (lane: number) => seen.filter((each) => each === lane).length;
  assert.deepEqual([Lane.BULK, Lane.NORMAL, Lane.URGENT].map(count), [192, 32, 32]);
});

test('a time to live counts from the publish, and what is late is not sent', () => {
  const made = world();
  const lives: number[] = [];
  const asked: number[] = [];
  const begun = made.now;
  made.node.intercept = (_peer, _id, body) => {
    if (body.case === 'publish') {
      lives.push(body.value.ttlMs);
      asked.push(body.value.askedAtMs);
    }
    return undefined;
  };
  const results = send(made, publish(1, { ttlMs: 1000 }), publish(1, { ttlMs: 100 }), publish(1));
  made.pass(300);
  assert.deepEqual(names(results), ['EXPIRED']);
  made.connected();
  made.run(() => results.length === 3);
  assert.deepEqual(names(results), ['EXPIRED', 'stored', 'stored']);
  assert.equal(lives[1], 0);
  for (const at of asked) assert.ok(Math.abs(at - begun) <= 20, `${at - begun} ms from when it was asked for`);
  assert.ok(Number(lives[0]) <= 700 && Number(lives[0]) > 600, `${lives[0]}`);
});

test('a publish whose time is over between its pieces is given up, and those behind it are stored', () => {
  const made = world().connected();
  made.node.creditAt = () => Infinity;
  // More than may be under way without Credit.
  const results = send(made, publish(60_000), publish(30_000, { ttlMs: 500 }), publish(10), publish(10));
  made.pass(1000);
  assert.deepEqual(names(results), ['stored']);
  delete (made.node as Partial<World['node']>).creditAt;
  made.run(() => results.length === 4);
  assert.deepEqual(names(results), ['stored', 'EXPIRED', 'stored', 'stored']);
  assert.equal(made.node.log('r').lanes.bulk.length, 3);
});

test('a publish whose answer is under way is not given up by its time to live', () => {
  const made = world().connected();
  made.delayMs = 400;
  const results = send(made, publish(1, { ttlMs: 500 }));
  made.run(() => results.length === 1);
  assert.deepEqual(names(results), ['stored']);
});

test('LC-FLOW-007: limits that change hold at once', () => {
  const made = world().connected();
  const { peer } = made;
  assert.ok(peer);
  made.node.send(peer, 0, { case: 'limits', value: { recordBytes: 4096, publishesInFlight: 2, signalsPerSecond: 3 } });
  made.pass(50);
  let seen = 0;
  made.node.intercept = (_peer, _id, body) => {
    if (body.case === 'publish') seen++;
    return 'ignore';
  };
  const results = send(made, publish(5000), publish(1, { lane: 'urgent' }), publish(1, { lane: 'urgent' }), publish(1, { lane: 'urgent' }));
  made.pass(500);
  assert.deepEqual(names(results), ['MESSAGE_TOO_LARGE']);
  assert.equal(seen, 2);
  assert.equal(made.session.signals.rate, 3);
});

test('LC-FLOW-020: focus is told once the room is subscribed, and again on every connection', () => {
  const made = world().connected();
  const told: [string, number][] = [];
  made.node.intercept = (_peer, _id, body) => {
    if (body.case === 'focus') told.push([body.value.room, body.value.level]);
    return undefined;
  };
  const room = made.session.rooms.subscribe(made.now, 'r', EVENTS);
  made.session.rooms.focus(room, wire.FocusLevel.BACKGROUND);
  made.run(() => room.state.name === 'live');
  made.pass(50);
  assert.deepEqual(told, [['r', wire.FocusLevel.BACKGROUND]]);
  made.session.rooms.focus(room, wire.FocusLevel.FOREGROUND);
  made.pass(50);
  made.cut();
  made.run(() => room.state.name === 'live');
  made.pass(50);
  assert.deepEqual(told.slice(1), [['r', wire.FocusLevel.FOREGROUND], ['r', wire.FocusLevel.FOREGROUND]]);
  const without = world([]).connected();
  const other = without.session.rooms.subscribe(without.now, 'r', EVENTS);
  without.node.intercept = (_peer, _id, body) => (body.case === 'focus' ? assert.fail() : undefined);
  without.session.rooms.focus(other, wire.FocusLevel.BACKGROUND);
  without.run(() => other.state.name === 'live');
});

/** An event's frame, and its bytes as fragments of a transfer. */
function pieces(transfer: number, seq: number, lane: number, size = 10_000, total?: number, on = lane) {
  const frame = encode(wire.Frame, { body: { case: 'event', value: { handle: 1, lane, seq, envelope: { body: { case: 'data', value: new Uint8Array(size) } } } } });
  const list: Uint8Array[] = [];
  for (let at = 0; at < frame.length; at += 4000) {
    const value = { transfer, lane: on, total: at ? 0 : (total ?? frame.length), data: frame.subarray(at, at + 4000) };
    list.push(record({ body: { case: 'fragment', value } }));
  }
  return list;
}

/** A client that follows a room, and what hands it packets. */
function follower() {
  const made = world().connected();
  const room = made.session.rooms.subscribe(made.now, 'r', EVENTS);
  made.run(() => room.state.name === 'live');
  return { made, room, take: (packet?: Uint8Array) => packet && made.session.received(made.now, packet) };
}

test('LC-FRM-030: frames of a node in fragments, with others between them', () => {
  const { made, room, take } = follower();
  const [normal, bulk] = [pieces(1, 1, Lane.NORMAL), pieces(2, 1, Lane.BULK)];
  for (let at = 0; at < normal.length; at++) for (const list of [normal, bulk]) take(list[at]);
  assert.equal(room.stats.events, 2);
  assert.equal(made.session.state.name, 'connected');
});

test('LC-FRM-031: too large, too many, too late, and given up', () => {
  for (const [what, code, break_] of [
    ['a total above the limit', Code.TOO_LARGE, (take: (packet?: Uint8Array) => void) => take(pieces(1, 1, Lane.BULK, 100, 300_000)[0])],
    ['a piece of nothing', Code.PROTOCOL, (take) => take(pieces(1, 1, Lane.BULK)[1])],
    ['another lane than the frame names', Code.PROTOCOL, (take) => pieces(1, 1, Lane.NORMAL, 10_000, undefined, Lane.BULK).forEach(take)],
    ['more than the total', Code.PROTOCOL, (take) => pieces(1, 1, Lane.BULK, 10_000, 5000).forEach(take)],
    ['a fifth transfer', Code.PROTOCOL, (take) => Array.from({ length: TRANSFERS_MAX + 1 }, (_, at) => take(pieces(at + 1, 1, Lane.BULK)[0]))],
    ['a number twice', Code.PROTOCOL, (take) => [1, 1].forEach((number) => take(pieces(number, 1, Lane.BULK)[0]))],
  ] as [string, number, (take: (packet?: Uint8Array) => void) => void][]) {
    const { made, take } = follower();
    break_(take);
    assert.deepEqual(made.hangUps, [code], what);
  }
  const { made, room, take } = follower();
  const [first, second] = [pieces(1, 1, Lane.BULK), pieces(2, 1, Lane.BULK)];
  take(first[0]);
  take(record({ body: { case: 'fragmentAbort', value: { transfer: 1, lane: Lane.BULK } } }));
  take(second[0]);
  made.pass(TRANSFER_MS_MAX - 1);
  take(second[1]);
  made.pass(TRANSFER_MS_MAX);
  for (let number = 3; number < 3 + TRANSFERS_MAX; number++) take(pieces(number, 1, Lane.BULK)[0]);
  assert.equal(made.session.state.name, 'connected', 'what was given up, or waited too long, counts no more');
  take(second[2]);
  assert.equal(room.stats.events, 0);
  assert.deepEqual(made.hangUps, [Code.IDLE_TIMEOUT]);
});
