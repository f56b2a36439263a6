import assert from 'node:assert/strict';
import { test } from 'node:test';
import { OUT_LANES, type OutLane } from '../src/core/position.js';
import { Frame, Lane } from '../src/gen/wire.js';
import { Lanes, PIECE_BYTES_MAX, type Source, URGENT_BURST_BYTES } from '../src/transport/lanes.js';
import { decode } from '../src/wire/codec.js';
import { type Body, frames, record } from '../src/wire/packet.js';
import { random } from './support/world.js';

const NUMBERS: Record<OutLane, number> = { control: Lane.CONTROL, urgent: Lane.URGENT, normal: Lane.NORMAL, signal: Lane.SIGNAL, bulk: Lane.BULK };
const lanes = <T>(make: (lane: OutLane) => T) => Object.fromEntries(OUT_LANES.map((lane) => [lane, make(lane)])) as Record<OutLane, T>;

/** A publish of so many bytes or a few more. */
const publish = (lane: OutLane, number: number, bytes: number) =>
  record({ body: { case: 'publish', value: { lane: NUMBERS[lane], number, envelope: { body: { case: 'data', value: new Uint8Array(bytes) } } } } });

/** Queues in place of a session. */
class Queues implements Source {
  readonly waiting = lanes<Uint8Array[]>(() => []);
  readonly bytes = lanes(() => 0);
  cuts = true;
  tooLate = false;
  shut: OutLane | undefined;
  private readonly lanes = new Lanes();
  /** What the other side has, frames put together, and pieces of those that are not whole. */
  readonly arrived: { lane: OutLane; body: Body }[] = [];
  private readonly open = new Map<number, { total: number; data: number[]; lane: OutLane }>();

  push(lane: OutLane, ...records: Uint8Array[]): void {
    this.waiting[lane].push(...records);
  }

  mayLeave(lane: OutLane): boolean {
    return lane !== this.shut;
  }

  ready(_now: number, lane: OutLane): boolean {
    return lane !== this.shut && this.waiting[lane].length > 0;
  }

  take(_now: number, lane: OutLane): Uint8Array | undefined {
    return this.waiting[lane].shift();
  }

  readonly outbox = { late: () => this.tooLate };

  left(_now: number, lane: OutLane, bytes: number): void {
    this.bytes[lane] += bytes;
  }

  /** Lets a record leave; returns its lane. */
  pop(free: (lane: OutLane) => boolean = () => true): OutLane | undefined {
    const before = { ...this.bytes };
    const next = this.lanes.next(this, 0, free);
    if (!next) return undefined;
    const lane = OUT_LANES.find((each) => this.bytes[each] > before[each]) as OutLane;
    assert.equal(this.bytes[lane] - before[lane], next.length);
    for (const [{ body }] of frames(next)) if (body) this.arrive(lane, body);
    return lane;
  }

  private arrive(lane: OutLane, body: Body): void {
    if (body.case === 'fragmentAbort') {
      assert.equal(body.value.lane, NUMBERS[lane]);
      return void this.open.delete(body.value.transfer);
    }
    if (body.case !== 'fragment') return void this.arrived.push({ lane, body });
    const { transfer, total, data } = body.value;
    assert.equal(body.value.lane, NUMBERS[lane]);
    if (total) this.open.set(transfer, { total, data: [], lane });
    const open = this.open.get(transfer);
    assert.ok(open && open.lane === lane);
    open.data.push(...data);
    if (open.data.length < open.total) return;
    this.open.delete(transfer);
    this.arrived.push({ lane, body: decode(Frame, Uint8Array.from(open.data)).body as Body });
  }

  get unfinished(): number {
    return this.open.size;
  }
}

const share = (queues: Queues, lane: OutLane) => queues.bytes[lane] / Object.values(queues.bytes).reduce((sum, each) => sum + each);

/** Keeps lanes full while so many bytes leave. */
function saturate(queues: Queues, which: OutLane[], bytes: number, below: (limit: number) => number): void {
  let number = 0;
  while (Object.values(queues.bytes).reduce((sum, each) => sum + each) < bytes) {
    for (const lane of which) while (queues.waiting[lane].length < 5) queues.push(lane, publish(lane, ++number, 20 + below(9000)));
    queues.pop();
  }
}

test('LC-LANE-007: normal, signal and bulk share by bytes as 4 to 2 to 1, whatever the lengths of records', () => {
  for (let seed = 1; seed <= 5; seed++) {
    const queues = new Queues();
    const chance = random(seed);
    saturate(queues, ['normal', 'signal', 'bulk'], 500_000, (limit) => Math.floor(chance() * limit));
    for (const [lane, weight] of [['normal', 4], ['signal', 2], ['bulk', 1]] as const) {
      assert.ok(Math.abs(share(queues, lane) - weight / 7) < 0.02, `seed ${seed}: ${lane} ${share(queues, lane)}`);
    }
  }
});

test('LC-LANE-006: urgent has half while others wait, and what it did not use it has at once', () => {
  const queues = new Queues();
  const chance = random(1);
  saturate(queues, ['urgent', 'normal', 'bulk'], 1_500_000, (limit) => Math.floor(chance() * limit));
  // Half, and the burst with which it begins.
  const burst = URGENT_BURST_BYTES / Object.values(queues.bytes).reduce((sum, each) => sum + each);
  assert.ok(share(queues, 'urgent') > 0.48 && share(queues, 'urgent') < 0.52 + burst, `${share(queues, 'urgent')}`);
  assert.ok(share(queues, 'bulk') > 0.08, `${share(queues, 'bulk')}`);
  const rested = new Queues();
  for (let number = 1; number <= 200; number++) rested.push('urgent', publish('urgent', number, 980));
  rested.push('bulk', ...Array.from({ length: 50 }, (_, number) => publish('bulk', number, 4000)));
  while (rested.pop() === 'urgent');
  // Of each byte that it sends it gets half a token back.
  assert.ok(rested.bytes.urgent >= 2 * URGENT_BURST_BYTES - 2000, `${rested.bytes.urgent}`);
});

test('LC-LANE-006: urgent that has nobody to wait for is not held back', () => {
  const queues = new Queues();
  for (let number = 1; number <= 300; number++) queues.push('urgent', publish('urgent', number, 1000));
  while (queues.pop());
  assert.equal(queues.arrived.length, 300);
  // And has lost nothing by that.
  queues.push('bulk', ...Array.from({ length: 50 }, (_, number) => publish('bulk', number, 4000)));
  queues.push('urgent', publish('urgent', 301, 30_000));
  const before = queues.bytes.bulk;
  while (queues.arrived.length < 301) queues.pop();
  assert.equal(queues.bytes.bulk, before);
});

test('LC-LANE-009: control leaves first, urgent second, each lane in its own order', () => {
  const queues = new Queues();
  for (const lane of [...OUT_LANES].reverse()) for (const number of [1, 2]) queues.push(lane, publish(lane, number, 100));
  const order = Array.from({ length: 10 }, () => queues.pop());
  assert.deepEqual(order.slice(0, 4), ['control', 'control', 'urgent', 'urgent']);
  assert.equal(queues.pop(), undefined);
  for (const lane of OUT_LANES) {
    const numbers = queues.arrived.flatMap(({ lane: own, body }) => (own === lane && body.case === 'publish' ? [body.value.number] : []));
    assert.deepEqual(numbers, [1, 2], lane);
  }
});

test('LC-FRM-030: others pass between the pieces of a long record, which arrives whole', () => {
  const queues = new Queues();
  queues.push('bulk', publish('bulk', 1, 60_000));
  let urgent = 0;
  while (!queues.arrived.some(({ lane }) => lane === 'bulk')) {
    queues.push('urgent', publish('urgent', ++urgent, 50));
    assert.equal(queues.pop(), 'urgent');
    const { bulk } = queues.bytes;
    assert.equal(queues.pop(), 'bulk');
    assert.ok(queues.bytes.bulk - bulk <= PIECE_BYTES_MAX, `a piece of ${queues.bytes.bulk - bulk}`);
  }
  assert.equal(urgent, Math.ceil(60_000 / (PIECE_BYTES_MAX - 48)));
  const whole = queues.arrived.find(({ lane }) => lane === 'bulk')?.body;
  assert.ok(whole?.case === 'publish' && whole.value.number === 1);
  assert.equal(queues.unfinished, 0);
});

test('LC-FRM-030: control, what is short, and all of it where the node takes no fragments, leaves in one', () => {
  const queues = new Queues();
  queues.push('control', publish('control', 1, 20_000));
  queues.push('normal', publish('normal', 2, PIECE_BYTES_MAX - 40));
  while (queues.pop());
  queues.cuts = false;
  queues.push('bulk', publish('bulk', 3, 60_000));
  assert.equal(queues.pop(), 'bulk');
  assert.equal(queues.arrived.length, 3);
  assert.equal(queues.pop(), undefined);
});

test('a record whose time is over between its pieces is given up, and the next one follows', () => {
  const queues = new Queues();
  queues.push('normal', publish('normal', 1, 20_000), publish('normal', 2, 20_000));
  assert.equal(queues.pop(), 'normal');
  queues.tooLate = true;
  assert.equal(queues.pop(), 'normal');
  queues.tooLate = false;
  assert.equal(queues.unfinished, 0);
  while (queues.pop());
  const numbers = queues.arrived.map(({ body }) => body.case === 'publish' && body.value.number);
  assert.deepEqual([numbers, queues.unfinished], [[2], 0]);
});

test('LC-FLOW-010: a lane without credit stops no other, and goes on where it was', () => {
  const queues = new Queues();
  queues.push('bulk', publish('bulk', 1, 20_000));
  assert.equal(queues.pop(), 'bulk');
  queues.shut = 'bulk';
  queues.push('normal', publish('normal', 1, 20_000));
  while (queues.pop());
  assert.deepEqual(queues.arrived.map(({ lane }) => lane), ['normal']);
  queues.shut = undefined;
  while (queues.pop());
  assert.deepEqual(queues.arrived.map(({ lane }) => lane), ['normal', 'bulk']);
});

test('whatever comes when: each record leaves once and in the order of its lane, and no lane waits for ever', () => {
  for (let seed = 1; seed <= 40; seed++) {
    const chance = random(seed);
    const below = (limit: number) => Math.floor(chance() * limit);
    const queues = new Queues();
    const pushed = lanes(() => 0);
    // How many bytes of others left since a lane was served that had something all the time.
    const waited = lanes(() => 0);
    for (let step = 0; step < 400; step++) {
      const lane = OUT_LANES[below(5)] as OutLane;
      if (below(3)) queues.push(lane, publish(lane, ++pushed[lane], below(20) ? below(500) : below(30_000)));
      queues.shut = below(10) ? undefined : 'normal';
      const had = OUT_LANES.filter((each) => queues.ready(0, each));
      const before = Object.values(queues.bytes).reduce((sum, each) => sum + each);
      const left = queues.pop(below(5) ? undefined : (each) => each !== 'bulk');
      const bytes = Object.values(queues.bytes).reduce((sum, each) => sum + each) - before;
      for (const each of OUT_LANES) waited[each] = each === left || !had.includes(each) ? 0 : waited[each] + (left === 'control' ? 0 : bytes);
      assert.ok(waited.urgent <= URGENT_BURST_BYTES, `seed ${seed}: urgent waits for ${waited.urgent}`);
    }
    queues.shut = undefined;
    while (queues.pop());
    for (const lane of OUT_LANES) {
      const numbers = queues.arrived.flatMap(({ lane: own, body }) => (own === lane && body.case === 'publish' ? [body.value.number] : []));
      assert.deepEqual(numbers, Array.from({ length: pushed[lane] }, (_, at) => at + 1), `seed ${seed}: ${lane}`);
    }
    assert.equal(queues.unfinished, 0);
  }
});
