import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Item } from '../src/core/inbox.js';
import type { Receipt } from '../src/core/outbox.js';
import { LANES, perLane } from '../src/core/position.js';
import { LanecastError } from '../src/errors.js';
import type { Kind } from './support/link.js';
import { text } from './support/node.js';
import { World } from './support/world.js';

const SEEDS = 20;
const CUTS = 20;
const FOREIGN = 2000;
const OWN = 200;

const KINDS: readonly Kind[] = ['pipe', 'streams'];

// Law 1 and law 3: LC-SDK-001, LC-SDK-005, LC-PUB-027, on streams LC-RES-005, LC-QUIC-005 and LC-QUIC-010.
for (const [kind, seed] of KINDS.flatMap((kind) => Array.from({ length: SEEDS }, (_, at) => [kind, at + 1] as const))) {
  test(`${kind}, seed ${seed}: ${CUTS} cuts, each event once and in order per lane, each publish stored once`, () => {
    const world = new World(seed, kind);
    // Half of what others publish is there before, so that cuts fall into replays.
    const foreign = () => world.node.append('r', LANES[world.below(3)] ?? 'normal', text('foreign'));
    for (let each = 0; each < FOREIGN / 2; each++) foreign();
    const start = { at: { case: 'beginning' as const, value: {} } };
    const room = world.session.rooms.subscribe(world.now, 'r', { start, signals: false, events: true });
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

    const seqs = perLane((lane) => items.filter((item) => item.lane === lane).map((item) => item.kind === 'event' && item.seq));
    for (const lane of LANES) {
      const all = seqs[lane].map((_, at) => at + 1);
      // Urgent events are handed over as they arrive.
      if (kind === 'streams' && lane === 'urgent') seqs[lane].sort((one, other) => Number(one) - Number(other));
      assert.deepEqual(seqs[lane], all, `${lane}: each once, and in order`);
    }
    for (const result of receipts) assert.ok(!(result instanceof LanecastError));
    const own = items.flatMap((item) => (item.kind === 'event' && item.type === 'own' ? [item] : []));
    for (const lane of LANES) {
      const numbers = own.filter((item) => item.lane === lane).map((item) => Number(item.text));
      if (kind === 'streams' && lane === 'urgent') continue;
      assert.deepEqual(numbers, [...numbers].sort((one, other) => one - other));
    }
    assert.equal(new Set(own.map((item) => item.text)).size, OWN);
  });
}

test('seeded trims and cuts: delivered plus gaps is published, for each lane', () => {
  for (let seed = 1; seed <= 200; seed++) {
    const world = new World(seed, KINDS[seed % 2]);
    const room = world.session.rooms.subscribe(world.now, 'r', { start: undefined, signals: false, events: true });
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
    // What was sent last is still on its way.
    world.pass(2000);
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

test('seeded forks and cuts: what was not revoked is what the log has, each once', () => {
  for (let seed = 1; seed <= 200; seed++) {
    const world = new World(seed, KINDS[seed % 2]);
    const room = world.session.rooms.subscribe(world.now, 'r', { start: undefined, signals: false, events: true });
    world.connected();
    world.run(() => room.state.name === 'live');
    for (let each = 0; each < 200; each++) {
      world.after(world.below(4000), () => {
        const lane = LANES[world.below(3)] ?? 'normal';
        world.node.append('r', lane, text('x'));
        const log = world.node.log('r');
        const lost = Math.min(1 + world.below(3), world.node.head(log)[lane] - log.forkedAt[lane]);
        if (!world.below(25) && lost) world.node.fork('r', lane, lost);
        if (!world.below(40) && world.peer) world.cut();
      });
    }
    const held = perLane(() => new Set<number>());
    const read = () => {
      for (let item = room.inbox.next(); item; item = room.inbox.next()) {
        if (!item.lane) continue;
        const set = held[item.lane];
        if (item.kind === 'event') {
          assert.ok(!set.has(item.seq), `seed ${seed}: ${item.lane} ${item.seq} twice`);
          set.add(item.seq);
        } else {
          assert.equal(item.cause, 'rolled-back');
          for (const seq of set) if (seq >= item.from && seq <= (item.to ?? Infinity)) set.delete(seq);
        }
      }
    };
    world.run(() => {
      if (!world.below(4)) read();
      return world.now > 1_004_500;
    });
    world.pass(3000);
    read();
    const head = world.node.head(world.node.log('r'));
    for (const lane of LANES) {
      const all = Array.from({ length: head[lane] }, (_, at) => at + 1);
      assert.deepEqual([...held[lane]].sort((one, other) => one - other), all, `seed ${seed}: ${lane}`);
    }
    assert.deepEqual(room.inbox.position, head, `seed ${seed}`);
  }
});
