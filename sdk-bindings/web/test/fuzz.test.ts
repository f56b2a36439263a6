import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as wire from '../src/gen/wire.js';
import { record } from '../src/wire/packet.js';
import { text } from './support/node.js';
import { random, World } from './support/world.js';

const SEEDS = 300;
const PACKETS = 20;

test('no bytes of a node throw: whatever comes is handled, refused or ends the connection', () => {
  const position = { epoch: 1, urgent: 0, normal: 0, bulk: 0 };
  const gap = { handle: 1, lane: wire.Lane.NORMAL, epoch: 1, from: 1, to: 3, cause: wire.GapCause.TRIMMED };
  const packets = [
    record({ body: { case: 'event', value: { handle: 1, lane: 3, seq: 1, order: 1, from: { user: 'a' }, envelope: text('x') } } }),
    record({ body: { case: 'gap', value: gap } }),
    record({ body: { case: 'signal', value: { handle: 1, counter: 1, from: { user: 'a', instance: 'b' }, expiresAtMs: 5, envelope: text('s') } } }),
    record({ id: 2, body: { case: 'subscribed', value: { room: 'r', handle: 1, position, head: position, rolledBack: [{ ...gap, cause: 5 }], cause: 1 } } }),
    record({ body: { case: 'unsubscribed', value: { room: 'r', cause: 2, code: 4302 } } }),
    record({ id: 3, body: { case: 'published', value: { epoch: 1, lane: 3, seq: 1, order: 1 } } }),
    record({ id: 1, body: { case: 'welcome', value: { connectionId: 'c', limits: { recordBytes: 9 }, tokenExpiresAtMs: 7 } } }),
    record({ id: 4, body: { case: 'historyPage', value: { room: 'r', events: [{ lane: 3, seq: 1 }], gaps: [gap], head: position } } }),
    record({ body: { case: 'goAway', value: { retryAfterMs: 1, address: '://' } } }),
    record({ body: { case: 'credit', value: { lane: 3, consumed: 1, window: 9 } } }),
    record({ body: { case: 'fragment', value: { transfer: 1, lane: 4, total: 9, data: Uint8Array.of(8, 1, 2) } } }),
    record({ body: { case: 'fragmentAbort', value: { transfer: 1, lane: 4 } } }),
    record({ id: 3, body: { case: 'error', value: { code: 4401, detail: 'x', room: 'r', retryAfterMs: 1 } } }),
  ];
  for (let seed = 1; seed <= SEEDS; seed++) {
    const chance = random(seed);
    const below = (limit: number) => Math.floor(chance() * limit);
    const world = new World(seed).connected();
    const room = world.session.rooms.subscribe(world.now, 'r', { start: undefined, signals: true, events: true });
    world.session.publish(world.now, { room: 'r', lane: 'normal', durable: true, ttlMs: 0, envelope: text('x') }, () => {});
    world.histories.ask(world.now, 'r', {}, () => {});
    world.pass(5);
    for (let each = 0; each < PACKETS; each++) {
      const bytes = Uint8Array.from(packets[below(packets.length)] ?? []);
      for (let flips = below(4); flips > 0; flips--) bytes[below(bytes.length)] = below(256);
      world.session.received(world.now, bytes.subarray(0, below(5) ? bytes.length : below(bytes.length)));
      while (world.session.next(world.now, () => true));
      world.session.tick(world.now + below(50));
      while (room.inbox.next()) assert.ok(room.inbox.length >= 0);
    }
    assert.ok(['connecting', 'connected', 'suspended', 'closed'].includes(world.session.state.name), `seed ${seed}`);
  }
});
