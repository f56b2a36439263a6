import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CREDIT_MS, FIRST_BYTES, Flow, LEAST_BYTES, UNTOLD_BYTES, WINDOW_BYTES } from '../src/core/flow.js';
import { Lane } from '../src/gen/wire.js';
import { random } from './support/world.js';

/** A path: so many bytes per ms, so many ms one way. */
interface Path {
  rate: number;
  delayMs: number;
}

/** A sender that always has something, a path with a queue that no one sees, and a receiver that takes all at once. */
class Transfer {
  now = 1000;
  readonly sender = new Flow(Lane.BULK);
  readonly receiver = new Flow(Lane.BULK);
  sent = 0;
  received = 0;
  credits = 0;
  /** How long the newest record waited for the path. */
  waitedMs = 0;
  private busyUntil = 0;
  private events: { at: number; run: () => void }[] = [];
  pieceBytes = 4096;
  /** More than the path's own, drawn for each record. */
  jitter: () => number = () => 0;
  private lastAt = 0;

  constructor(public path: Path) {}

  private after(at: number, run: () => void): void {
    this.events.push({ at, run });
  }

  private send(): void {
    const { sender, path, pieceBytes } = this;
    while (sender.mayLeave(pieceBytes)) {
      sender.left(this.now, pieceBytes);
      this.sent += pieceBytes;
      const begins = Math.max(this.now, this.busyUntil);
      this.busyUntil = begins + pieceBytes / path.rate;
      const queued = begins - this.now;
      // Nothing overtakes.
      const at = (this.lastAt = Math.max(this.lastAt, this.busyUntil + path.delayMs + this.jitter()));
      this.after(at, () => {
        this.received += pieceBytes;
        this.waitedMs = queued;
        this.receiver.took(this.now, pieceBytes);
      });
    }
  }

  /** Runs for a while; returns bytes per ms and the waits of the records that came. */
  run(ms: number): { rate: number; waits: number[] } {
    const end = this.now + ms;
    const [begun, before] = [this.now, this.received];
    const waits: number[] = [];
    for (;;) {
      this.send();
      const credit = this.receiver.credit(this.now);
      if (credit) {
        this.credits++;
        this.after(this.now + this.path.delayMs, () => assert.ok(this.sender.credited(this.now, credit as never)));
      }
      this.events.sort((one, other) => one.at - other.at);
      const next = this.events[0];
      const at = Math.min(next?.at ?? Infinity, this.receiver.dueAt);
      if (at > end) break;
      this.now = Math.max(this.now, at);
      if (next && next.at <= this.now) {
        this.events.shift();
        const { received } = this;
        next.run();
        if (this.received > received) waits.push(this.waitedMs);
      }
    }
    this.now = end;
    return { rate: (this.received - before) / (this.now - begun), waits: waits.sort((one, other) => one - other) };
  }
}

const p95 = (waits: number[]) => waits[Math.floor(waits.length * 0.95)] ?? 0;

/** What a queue may be long, ms: what is aimed at, what comes between two Credits, and the least that is under way. */
const longest = (rate: number) => 50 + Math.min(CREDIT_MS, LEAST_BYTES / rate) + LEAST_BYTES / rate;

// Mbit/s, and ms there and back.
for (const [mbits, loop] of [[10, 60], [1, 60], [10, 10], [50, 20], [100, 2], [2, 300], [0.4, 100]] as const) {
  test(`LC-FLOW-010: ${mbits} Mbit/s, ${loop} ms: the path is used and its queue is short`, () => {
    const rate = mbits * 125;
    const transfer = new Transfer({ rate, delayMs: loop / 2 });
    transfer.run(5000);
    const steady = transfer.run(30_000);
    assert.ok(steady.rate >= 0.9 * rate, `${steady.rate / rate} of the path`);
    assert.ok(p95(steady.waits) <= longest(rate), `${p95(steady.waits)} ms`);
    assert.ok(transfer.credits / 35 <= 101, `${transfer.credits} Credits`);
  });
}

test('LC-FLOW-010: with jitter the limit does not spiral down', () => {
  for (let seed = 1; seed <= 5; seed++) {
    const transfer = new Transfer({ rate: 1250, delayMs: 30 });
    const chance = random(seed);
    transfer.jitter = () => chance() * 30;
    transfer.run(5000);
    const { rate } = transfer.run(30_000);
    assert.ok(rate >= 0.9 * 1250, `seed ${seed}: ${rate / 1250}`);
  }
});

test('LC-FLOW-010: the limit follows a path that becomes slower, faster, or longer', () => {
  const transfer = new Transfer({ rate: 1250, delayMs: 30 });
  transfer.run(20_000);
  for (const path of [{ rate: 250, delayMs: 30 }, { rate: 2500, delayMs: 30 }, { rate: 1250, delayMs: 150 }]) {
    transfer.path = path;
    // Two of the spans for which what was measured counts.
    transfer.run(25_000);
    const { rate, waits } = transfer.run(20_000);
    assert.ok(rate >= 0.85 * path.rate, `${path.rate} B/ms, ${path.delayMs} ms: ${rate / path.rate}`);
    assert.ok(p95(waits) <= 1.5 * longest(path.rate), `${path.rate} B/ms, ${path.delayMs} ms: ${p95(waits)} ms`);
  }
});

test('LC-FLOW-010: within 64 KiB before the first Credit, and within the window after it, to the byte', () => {
  const flow = new Flow(Lane.BULK);
  let sent = 0;
  for (; flow.mayLeave(5000); sent += 5000) flow.left(0, 5000);
  assert.equal(sent, Math.floor(FIRST_BYTES / 5000) * 5000);
  assert.equal(flow.mayLeave(FIRST_BYTES - sent), true);
  // A path that is faster than any: only the window holds it.
  assert.ok(flow.credited(1, { lane: Lane.BULK, consumed: sent, window: 30_000 }));
  const before = sent;
  for (; flow.mayLeave(5000); sent += 5000) flow.left(1, 5000);
  assert.equal(sent - before, 30_000);
});

test('LC-FLOW-010: a record longer than every bound leaves once next to nothing is under way', () => {
  const flow = new Flow(Lane.NORMAL);
  assert.ok(flow.mayLeave(200_000));
  flow.left(0, 200_000);
  assert.ok(!flow.mayLeave(1));
  assert.ok(flow.credited(50, { lane: Lane.NORMAL, consumed: 200_000 - UNTOLD_BYTES, window: WINDOW_BYTES }));
  assert.ok(flow.mayLeave(200_000));
});

test('LC-FLOW-010: Credit that cannot be true is refused', () => {
  const flow = new Flow(Lane.NORMAL);
  flow.left(0, 1000);
  assert.ok(!flow.credited(1, { lane: Lane.NORMAL, consumed: 1001, window: 1 }));
  assert.ok(flow.credited(1, { lane: Lane.NORMAL, consumed: 900, window: 1 }));
  assert.ok(!flow.credited(2, { lane: Lane.NORMAL, consumed: 899, window: 1 }));
});

test('LC-FLOW-010: Credit is told for a quarter of the window at once, else within 50 ms, and never for next to nothing', () => {
  const flow = new Flow(Lane.BULK);
  flow.took(0, UNTOLD_BYTES - 1);
  assert.equal(flow.dueAt, Infinity);
  flow.took(20, 1);
  assert.equal(flow.dueAt, CREDIT_MS);
  assert.equal(flow.credit(CREDIT_MS - 1), undefined);
  assert.deepEqual(flow.credit(CREDIT_MS), { lane: Lane.BULK, consumed: UNTOLD_BYTES, window: WINDOW_BYTES });
  flow.took(CREDIT_MS + 1, WINDOW_BYTES / 4);
  assert.equal(flow.credit(CREDIT_MS + 1)?.consumed, UNTOLD_BYTES + WINDOW_BYTES / 4);
  assert.equal(flow.dueAt, Infinity);
});
