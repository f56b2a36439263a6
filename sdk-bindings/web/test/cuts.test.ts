import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Item } from '../src/core/inbox.js';
import type { Receipt } from '../src/core/outbox.js';
import { LANES, perLane } from '../src/core/position.js';
import { LanecastError } from '../src/errors.js';
import { text } from './support/node.js';
import { World } from './support/world.js';

const SEEDS = 20;
const CUTS = 20;
const FOREIGN = 2000;
const OWN = 200;

// Law 1 and law 3: LC-SDK-001, LC-SDK-005, LC-PUB-027.
for (let seed = 1; seed <= SEEDS; seed++) {
  test(`seed ${seed}: ${CUTS} cuts, each event once and in order per lane, each publish stored once`, () => {
    const world = new World(seed);
    // Half of what others publish is there before, so that cuts fall into replays.
    const foreign = () => world.node.append('r', LANES[world.below(3)] ?? 'normal', text('foreign'));
    for (let each = 0; each < FOREIGN / 2; each++) foreign();
    const start = { at: { case: 'beginning' as const, value: {} } };
    const room = world.session.subscribe(world.now, 'r', { start, signals: false, events: true });
    const receipts: (Receipt | LanecastError)[] = [];
    for (let each = 0; each < OWN; each++) {
      world.after(each * 20, () => {
        const envelope = { type: 'own', body: { case: 'text' as const, value: `${each}` } };
        const input = { room: 'r', lane: LANES[each % 3] ?? 'normal', durable: true, ttlMs: 0, envelope };
        world.session.publish(world.now, input, (result) => receipts.push(result));
      });
    }
    for (let each = 0; each < FOREIGN / 2; each++) world.after(world.below(4000), foreign);
    let cuts = 0;
    const cutLater = () =>
      world.after(20 + world.below(400), () => {
        if (world.peer) {
          world.cut();
          cuts++;
        }
        if (cuts < CUTS) cutLater();
      });
    cutLater();
    world.connected();
    const items: Item[] = [];
    world.run(() => {
      // The application reads a little at a time, and not always.
      for (let item = world.below(3) ? room.inbox.next() : undefined; item; item = room.inbox.next()) items.push(item);
      return cuts === CUTS && items.length === FOREIGN + OWN && receipts.length === OWN && room.state.name === 'live';
    });

    const next = perLane(() => 1);
    for (const item of items) {
      assert.equal(item.kind, 'event');
      if (item.kind === 'event') assert.equal(item.seq, next[item.lane]++, `${item.lane} in order`);
    }
    for (const result of receipts) assert.ok(!(result instanceof LanecastError));
    const own = items.flatMap((item) => (item.kind === 'event' && item.type === 'own' ? [item] : []));
    for (const lane of LANES) {
      const numbers = own.filter((item) => item.lane === lane).map((item) => Number(item.text));
      assert.deepEqual(numbers, [...numbers].sort((one, other) => one - other));
    }
    assert.equal(new Set(own.map((item) => item.text)).size, OWN);
  });
}

test('seeded trims and cuts: delivered plus gaps is published, for each lane', () => {
  for (let seed = 1; seed <= 100; seed++) {
    const world = new World(seed);
    const room = world.session.subscribe(world.now, 'r', { start: undefined, signals: false, events: true });
    world.connected();
    world.run(() => room.state.name === 'live');
    let cuts = 0;
    for (let each = 0; each < 300; each++) {
      world.after(world.below(3000), () => {
        const lane = LANES[world.below(3)] ?? 'normal';
        world.node.append('r', lane, text('x'));
        if (!world.below(10)) world.node.trim('r', lane, world.below(4));
        if (!world.below(30) && world.peer) {
          world.cut();
          cuts++;
        }
      });
    }
    world.pass(3000);
    world.run(() => room.state.name === 'live');
    world.pass(100);
    const sums = perLane(() => 0);
    for (let item = room.inbox.next(); item; item = room.inbox.next()) {
      assert.notEqual(item.kind === 'gap' && item.cause, 'unknown');
      if (item.lane) sums[item.lane] += item.kind === 'gap' ? (item.count ?? 0) : 1;
    }
    const head = world.node.head(world.node.log('r'));
    assert.deepEqual(sums, perLane((lane) => head[lane]), `seed ${seed}, ${cuts} cuts`);
    assert.deepEqual(room.inbox.position, head);
  }
});
