import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type EventItem, Inbox } from '../src/core/inbox.js';
import { type LaneName, perLane, positionText } from '../src/core/position.js';
import type { SeqGap } from '../src/core/tracker.js';

function inbox(normal: number): Inbox {
  const made = new Inbox('r');
  made.begin({ epoch: 1, urgent: 0, normal, bulk: 0 });
  return made;
}

const put = (into: Inbox, lane: LaneName, epoch: number, seq: number) =>
  into.event({ kind: 'event', room: 'r', lane, epoch, seq } as EventItem, 10);
const text = (of: Inbox) => (of.position ? positionText(of.position) : '');
const gap = (fields: Partial<SeqGap>): SeqGap => ({
  ...{ lane: 'normal', epoch: 1, from: 1, to: 1, cause: 'trimmed', refillable: false },
  ...fields,
});

test('LC-RES-004: the position moves when an item was taken, urgent items come first', () => {
  const box = inbox(0);
  put(box, 'normal', 1, 1);
  put(box, 'urgent', 1, 1);
  assert.equal(box.next()?.lane, 'urgent');
  assert.equal(text(box), '1-0-0-0');
  assert.equal(box.next()?.lane, 'normal');
  assert.equal(text(box), '1-1-0-0');
  box.take();
  assert.equal(text(box), '1-1-1-0');
  assert.equal(box.next(), undefined);
  assert.deepEqual([box.length, box.bytes], [0, 0]);
});

test('an epoch ends behind what came before it', () => {
  const box = inbox(99);
  put(box, 'normal', 1, 100);
  put(box, 'normal', 1, 101);
  const position = { epoch: 2, urgent: 0, normal: 100, bulk: 0 };
  box.changeEpoch({ gaps: [gap({ from: 101, to: 105, cause: 'rolled-back' })], position, restarted: perLane(() => false) });
  put(box, 'urgent', 2, 1);
  put(box, 'normal', 2, 101);
  const kinds = [box.next(), box.next(), box.next()].map((item) => item?.kind);
  assert.deepEqual(kinds, ['event', 'event', 'gap']);
  assert.equal(text(box), '1-0-101-0');
  assert.equal(box.next()?.lane, 'urgent');
  assert.equal(text(box), '2-0-100-0');
  box.next();
  box.take();
  assert.equal(text(box), '2-1-101-0');
});

test('filtered gaps and lossless forks pass in silence', () => {
  const box = inbox(0);
  box.gap(gap({ to: 4, cause: 'filtered' }));
  box.changeEpoch({ gaps: [], position: { epoch: 2, urgent: 0, normal: 4, bulk: 0 }, restarted: perLane(() => false) });
  assert.equal(box.next(), undefined);
  assert.equal(text(box), '2-0-4-0');
});

test('LC-RES-004: the position never passes an urgent seq that has not come, and goes back to a fork', () => {
  const box = inbox(0);
  const takeAll = () => {
    while (box.next());
  };
  for (const seq of [2, 4]) put(box, 'urgent', 1, seq);
  takeAll();
  assert.equal(text(box), '1-0-0-0');
  put(box, 'urgent', 1, 1);
  takeAll();
  assert.equal(text(box), '1-2-0-0');
  const revoked = gap({ lane: 'urgent', from: 4, to: 4, cause: 'rolled-back' });
  box.changeEpoch({ gaps: [revoked], position: { epoch: 2, urgent: 3, normal: 0, bulk: 0 }, restarted: perLane(() => false) });
  put(box, 'urgent', 2, 3);
  takeAll();
  assert.equal(text(box), '2-3-0-0');
});
