import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parsePosition, positionText } from '../src/core/position.js';
import { Misbehaviour, Tracker } from '../src/core/tracker.js';
import { SeqWindow } from '../src/core/window.js';
import * as wire from '../src/gen/wire.js';
import { decode, encode, type Init } from '../src/wire/codec.js';

const at = (epoch: number, urgent: number, normal: number, bulk: number): wire.Position => ({ epoch, urgent, normal, bulk });
const subscribed = (handle: number, position: wire.Position, rolledBack: Init<wire.Gap>[] = [], more: Init<wire.Subscribed> = {}) =>
  decode(wire.Subscribed, encode(wire.Subscribed, { room: 'r', handle, position, rolledBack, ...more }));
const gap = (fields: Init<wire.Gap>) => decode(wire.Gap, encode(wire.Gap, { lane: wire.Lane.NORMAL, epoch: 1, ...fields }));
const lost = (epoch: number, from: number, to: number, lane: number = wire.Lane.NORMAL): Init<wire.Gap> => ({
  ...{ lane, epoch, from, to, cause: wire.GapCause.ROLLED_BACK },
});

test('LC-SDK-001, LC-SDK-002: duplicates are dropped and holes are seen', () => {
  const tracker = new Tracker();
  assert.equal(tracker.subscribed(subscribed(1, at(9, 0, 4, 0))), undefined);
  const verdicts = [4, 6, 5, 6].map((seq) => tracker.range(1, 'normal', seq, seq));
  assert.deepEqual(verdicts, ['duplicate', 'hole', 'deliver', 'deliver']);
  assert.equal(tracker.range(2, 'normal', 7, 7), 'unknown-handle');
  assert.deepEqual(tracker.position, at(9, 0, 6, 0));
});

test('LC-RES-014: a fork revokes what was delivered and keeps what is in flight', () => {
  const tracker = new Tracker(at(1, 0, 98, 0));
  tracker.subscribed(subscribed(7, at(1, 0, 98, 0)));
  const change = tracker.subscribed(subscribed(8, at(2, 0, 100, 0), [lost(1, 101, 105)]));
  assert.deepEqual([change?.gaps[0]?.from, change?.gaps[0]?.to], [101, 105]);
  const steps = [
    [7, 99, 'deliver'],
    [7, 100, 'deliver'],
    [7, 101, 'revoked'],
    [8, 101, 'deliver'],
  ] as const;
  for (const [handle, seq, verdict] of steps) assert.equal(tracker.range(handle, 'normal', seq, seq), verdict);
  assert.deepEqual(tracker.position, at(2, 0, 101, 0));
});

test('LC-RES-015: a gap that reaches over a fork counts up to it', () => {
  const tracker = new Tracker(at(1, 0, 16, 0));
  tracker.subscribed(subscribed(5, at(1, 0, 16, 0)));
  tracker.subscribed(subscribed(8, at(2, 0, 17, 0), [lost(1, 18, 18)]));
  const [verdict, [news]] = tracker.gap(gap({ handle: 5, from: 17, to: 18 }));
  assert.deepEqual([verdict, news?.from, news?.to], ['deliver', 17, 17]);
  assert.deepEqual(tracker.position, at(2, 0, 17, 0));
});

test('LC-RES-011: an unknown epoch restarts the numbers', () => {
  const tracker = new Tracker(at(1, 0, 40, 0));
  const change = tracker.subscribed(subscribed(3, at(2, 0, 0, 0), [lost(1, 41, 0), lost(1, 1, 0, wire.Lane.URGENT)]));
  assert.equal(change?.gaps.length, 2);
  assert.equal(change?.restarted.normal, true);
  assert.equal(tracker.range(3, 'normal', 1, 1), 'deliver');
});

test('LC-SDK-003: a gap tells only what is news', () => {
  const tracker = new Tracker(at(1, 0, 5, 0));
  tracker.subscribed(subscribed(1, at(1, 0, 5, 0)));
  const [verdict, [news]] = tracker.gap(gap({ handle: 1, from: 4, to: 9, cause: wire.GapCause.TRIMMED }));
  assert.equal(verdict, 'deliver');
  assert.deepEqual([news?.from, news?.to, news?.cause], [6, 9, 'trimmed']);
  assert.equal(tracker.gap(gap({ handle: 1, from: 4, to: 9 }))[0], 'duplicate');
  assert.equal(tracker.gap(gap({ handle: 1, from: 11, to: 12 }))[0], 'hole');
  assert.equal(tracker.gap(gap({ handle: 1, from: 10, to: 10, cause: 99 }))[1][0]?.cause, 'unknown');
});

test('LC-SUB-010: a subscription must not skip in silence', () => {
  const tracker = new Tracker(at(1, 0, 5, 0));
  assert.throws(() => tracker.subscribed(subscribed(1, at(1, 0, 6, 0))), Misbehaviour);
  assert.throws(() => tracker.subscribed(subscribed(0, at(1, 0, 5, 0))), Misbehaviour);
  assert.throws(() => tracker.subscribed(subscribed(1, at(2, 0, 5, 0), [{ lane: 3, epoch: 1, from: 1, to: 2 }])), Misbehaviour);
  assert.deepEqual(tracker.position, at(1, 0, 5, 0));
});

test('LC-RES-021: transients are counted until a number is unknown', () => {
  const tracker = new Tracker();
  tracker.subscribed(subscribed(1, at(1, 0, 0, 0), [], { transients: { source: 5, normal: 10 } }));
  tracker.transients(1, 'normal', 1);
  tracker.transients(1, 'normal', 3);
  tracker.transients(7, 'normal', 9);
  assert.equal(tracker.mark?.normal, 14);
  tracker.transients(1, 'urgent', 0);
  assert.equal(tracker.mark, undefined);
});

test('text forms of positions round trip, and only the canonical one is taken', () => {
  const position = at(9007199254740991, 0, 17, 1);
  assert.equal(positionText(position), '9007199254740991-0-17-1');
  assert.deepEqual(parsePosition(positionText(position)), position);
  for (const text of ['', '1-2-3', '1-2-3-4-5', '+1-2-3-4', '1-02-3-4', '1- 2-3-4', '1--3-4', '9007199254740992-0-0-0']) {
    assert.throws(() => parsePosition(text), RangeError, text);
  }
});

test('LC-RES-005: urgent overtakes within the window only, which is kept across reconnects', () => {
  const tracker = new Tracker();
  tracker.subscribed(subscribed(1, at(9, 0, 0, 0)));
  const verdicts = [3, 3, 65, 64, 1].map((seq) => tracker.range(1, 'urgent', seq, seq, false));
  assert.deepEqual(verdicts, ['deliver', 'duplicate', 'hole', 'deliver', 'deliver']);
  assert.deepEqual(tracker.position, at(9, 1, 0, 0));
  assert.equal(tracker.range(1, 'urgent', 2, 2, false), 'deliver');
  assert.deepEqual(tracker.position, at(9, 3, 0, 0));
  tracker.disconnected();
  tracker.subscribed(subscribed(1, at(9, 3, 0, 0)));
  assert.equal(tracker.range(1, 'urgent', 64, 64, false), 'duplicate');
  // Also where the next transport keeps the order.
  assert.equal(tracker.range(1, 'urgent', 64, 64), 'duplicate');
  assert.equal(tracker.range(1, 'urgent', 5, 5), 'hole');
});

test('LC-QUIC-005: a gap leaves out what overtook it', () => {
  const tracker = new Tracker(at(1, 1, 0, 0));
  tracker.subscribed(subscribed(1, at(1, 1, 0, 0)));
  assert.equal(tracker.range(1, 'urgent', 3, 3, false), 'deliver');
  const [, news] = tracker.gap(gap({ handle: 1, lane: wire.Lane.URGENT, from: 2, to: 200 }), false);
  assert.deepEqual(news.map(({ from, to }) => [from, to]), [[2, 2], [4, 200]]);
});

test('LC-RES-015: what overtook others before a fork stays if the fork is known', () => {
  // 3 and 6 came, 1 did not; the fork is at 5, so 3 survives and 6 does not.
  const come = () => {
    const tracker = new Tracker(at(1, 0, 0, 0));
    tracker.subscribed(subscribed(1, at(1, 0, 0, 0)));
    for (const seq of [3, 6]) assert.equal(tracker.range(1, 'urgent', seq, seq, false), 'deliver');
    tracker.disconnected();
    return tracker;
  };
  const forked = come();
  const change = forked.subscribed(subscribed(2, at(2, 0, 0, 0), [lost(1, 5, 6, wire.Lane.URGENT)]));
  assert.deepEqual(change?.position, at(2, 4, 0, 0));
  assert.equal(forked.range(2, 'urgent', 3, 3, false), 'duplicate');
  assert.equal(forked.range(2, 'urgent', 6, 6, false), 'deliver');
  // Where no gap says that, nothing proves that 3 and 6 are still the same.
  const unproven = come();
  const [revoked] = unproven.subscribed(subscribed(2, at(2, 0, 0, 0)))?.gaps ?? [];
  assert.deepEqual([revoked?.epoch, revoked?.from, revoked?.to], [1, 1, 6]);
  assert.equal(unproven.range(2, 'urgent', 3, 3, false), 'deliver');
});

test('LC-RES-005: a window is the set of its seqs', () => {
  const window = new SeqWindow(10);
  const set = new Set(Array.from({ length: 10 }, (_, seq) => seq + 1));
  const all = Array.from({ length: 300 }, (_, seq) => seq + 1);
  for (const [from, to] of [[12, 12], [74, 74], [20, 30], [11, 11], [13, 19], [1, 40], [90, 95], [41, 200]] as const) {
    if (window.insert(from, to)) for (let seq = from; seq <= to; seq++) set.add(seq);
    assert.ok(all.every((seq) => window.has(seq) === set.has(seq)), `${from}..=${to}`);
    assert.equal(window.highest, Math.max(...set));
    const missing = window.missing(5, 250).flatMap(([first, last]) => all.slice(first - 1, last));
    assert.deepEqual(missing, all.filter((seq) => seq >= 5 && seq <= 250 && !set.has(seq)), `${from}..=${to}`);
  }
  assert.ok(!window.insert(300, 300));
  assert.ok(window.insert(1, 2 ** 53 - 1), 'a huge range is no work');
});
