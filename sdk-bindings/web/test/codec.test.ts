import assert from 'node:assert/strict';
import { test } from 'node:test';
import { causeOf } from '../src/core/tracker.js';
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import * as wire from '../src/gen/wire.js';
import { decode, encode, WireError } from '../src/wire/codec.js';
import { frames, join, record } from '../src/wire/packet.js';

const raw = (make: (writer: BinaryWriter) => unknown) => {
  const writer = new BinaryWriter();
  make(writer);
  return writer.finish();
};

test('LC-FRM-003: unknown fields and unknown enum values are no errors', () => {
  const bytes = raw((writer) =>
    writer.tag(900, WireType.LengthDelimited).string('later').tag(1, WireType.Varint).uint32(7).tag(2, WireType.Varint).int32(77).tag(901, WireType.Bit64).fixed64(1),
  );
  const event = decode(wire.Event, bytes);
  assert.equal(event.handle, 7);
  assert.equal(event.lane, 77);
  assert.equal(causeOf(77), 'unknown');
  const names = Object.entries(wire.GapCause).flatMap(([name, number]) => (typeof number === 'number' ? [[causeOf(number), name]] : []));
  for (const [name, own = ''] of names) assert.equal(name, own === 'UNSPECIFIED' ? 'unknown' : own.toLowerCase().replace('_', '-'));
});

test('a frame of a kind that this client does not know has no body', () => {
  const [[frame] = []] = [...frames(raw((writer) => writer.tag(1, WireType.LengthDelimited).fork().tag(1, WireType.Varint).uint32(5).tag(35, WireType.LengthDelimited).string('').join()))];
  assert.deepEqual(frame, { id: 5 });
});

test('LC-FRM-020: a number that is not below 2^53 is refused, the highest one is exact', () => {
  const position = { epoch: Number.MAX_SAFE_INTEGER, urgent: 0, normal: 2 ** 33 + 1, bulk: 1 };
  assert.deepEqual(decode(wire.Position, encode(wire.Position, position)), position);
  assert.throws(() => decode(wire.Position, raw((writer) => writer.tag(1, WireType.Varint).uint64(2n ** 53n))), WireError);
  assert.throws(() => encode(wire.Position, { epoch: 2 ** 53 }), WireError);
});

test('what is cut off is refused, at every byte', () => {
  const bytes = record({ id: 9, body: { case: 'publish', value: { room: 'r', envelope: { type: 't', headers: { a: 'b' }, body: { case: 'text', value: 'x' } } } } });
  for (let length = 1; length < bytes.length; length++) {
    assert.throws(() => [...frames(bytes.subarray(0, length))], WireError, `${length}`);
  }
  assert.equal([...frames(bytes)].length, 1);
});

test('a field that ends beyond its message is refused', () => {
  const bytes = raw((writer) => writer.tag(1, WireType.LengthDelimited).uint32(3).raw(Uint8Array.of(0x2a, 9, 1)));
  assert.throws(() => [...frames(bytes)], WireError);
});

test('in a oneof also what holds its default is sent, elsewhere not', () => {
  assert.deepEqual(decode(wire.Start, encode(wire.Start, { at: { case: 'count', value: 0 } })), { at: { case: 'count', value: 0 } });
  assert.equal(encode(wire.Gap, { handle: 0, refillable: false }).length, 0);
});

test('keys of headers are chosen by the sender and change no object', () => {
  const headers = Object.fromEntries([['__proto__', 'x'], ['constructor', 'y']]);
  const envelope = decode(wire.Envelope, encode(wire.Envelope, { headers }));
  assert.deepEqual(Object.entries(envelope.headers), [['__proto__', 'x'], ['constructor', 'y']]);
});

test('repeated numbers are taken packed and unpacked', () => {
  const packed = decode(wire.History, encode(wire.History, { lanes: [2, 3] }));
  const loose = decode(wire.History, raw((writer) => writer.tag(5, WireType.Varint).int32(2).tag(5, WireType.Varint).int32(3)));
  assert.deepEqual([packed.lanes, loose.lanes], [[2, 3], [2, 3]]);
});

test('LC-FRM-001: joined records are handled in their order', () => {
  const packet = join([1, 2, 3].map((id) => record({ id, body: { case: 'ping', value: { stamp: id } } })));
  assert.deepEqual([...frames(packet)].map(([frame]) => frame.id), [1, 2, 3]);
});
