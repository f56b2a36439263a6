import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { Frame } from '../src/gen/wire.js';
import { decode, encode, type Init, type Schema, WireError } from '../src/wire/codec.js';
import { frames, record } from '../src/wire/packet.js';

// Golden packets of all languages: hex and canonical JSON (protocol/vectors).
const root = new URL('../../../protocol/', import.meta.url);

interface Vector {
  name: string;
  hex: string;
  json: { frames?: Record<string, unknown>[]; streamHeader?: unknown };
}

/** Numbers of enum values by their names, which are unique in the schema. */
const ENUMS = new Map<string, number>();
const PROTO = new URL('proto/lanecast/v1/', root);
for (const name of readdirSync(PROTO)) {
  for (const [, value = '', number] of readFileSync(new URL(name, PROTO), 'utf8').matchAll(/^ {2}([A-Z][A-Z0-9_]+) = (\d+);/gm)) {
    ENUMS.set(value, Number(number));
  }
}

/** Canonical JSON as what `encode` takes. */
function fromJson(type: Schema<object>, json: Record<string, unknown>): Record<string, unknown> {
  const init: Record<string, unknown> = {};
  for (const [, name, kind, repeated, message, oneof] of type.rows) {
    const value = json[name];
    if (value === undefined) continue;
    const one = (each: unknown): unknown => {
      if (kind === 'message') return fromJson(message as Schema<object>, each as Record<string, unknown>);
      if (kind === 'int32') return typeof each === 'string' ? ENUMS.get(each) : each;
      if (kind === 'uint64') return Number(each);
      return kind === 'bytes' ? new Uint8Array(Buffer.from(each as string, 'base64')) : each;
    };
    const made = repeated ? (value as unknown[]).map(one) : one(value);
    if (oneof) init[oneof] = { case: name, value: made };
    else init[name] = made;
  }
  return init;
}

/** Whether this client knows every field that the JSON names. */
function covers(type: Schema<object>, json: Record<string, unknown>): boolean {
  return Object.entries(json).every(([name, value]) => {
    const row = type.rows.find(([, each]) => each === name);
    const inner = row?.[2] === 'message' ? [value].flat() : [];
    return row && inner.every((each) => covers(row[4] as Schema<object>, each as Record<string, unknown>));
  });
}

/** Whether a number stands in the JSON that no client accepts (LC-FRM-020). */
const tooLarge = (json: unknown): boolean =>
  typeof json === 'string' ? /^\d{16,}$/.test(json) && BigInt(json) >= 2n ** 53n : Object.values((json ?? {}) as object).some((each) => typeof each === 'object' || typeof each === 'string' ? tooLarge(each) : false);

const known = new Set(Frame.rows.map((row) => row[1]));
const files = readdirSync(new URL('vectors/', root)).filter((name) => name.endsWith('.json'));

test('there are golden packets for every frame of this client', () => {
  const snake = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  for (const name of known) if (name !== 'id') assert.ok(files.includes(`${snake(name)}.json`), `${name} has no vectors`);
});

for (const file of files) {
  test(`golden packets: ${file}`, () => {
    for (const { name, hex, json } of JSON.parse(readFileSync(new URL(`vectors/${file}`, root), 'utf8')) as Vector[]) {
      const bytes = new Uint8Array(Buffer.from(hex, 'hex'));
      const wanted = json.frames ?? [];
      const bodies = (frame: Record<string, unknown>) => Object.keys(frame).find((key) => key !== 'id');
      const ours = wanted.every((frame) => known.has(bodies(frame) ?? 'id'));
      if (ours && tooLarge(json)) {
        assert.throws(() => [...frames(bytes)], WireError, name);
        continue;
      }
      const got = [...frames(bytes)].map(([frame]) => frame);
      assert.equal(got.length, wanted.length, name);
      wanted.forEach((frame, index) => {
        const init = fromJson(Frame, frame) as Init<Frame>;
        assert.deepEqual(got[index], decode(Frame, encode(Frame, init)), name);
      });
      if (!ours || json.streamHeader !== undefined || name.startsWith('unknown')) continue;
      if (!wanted.every((frame) => covers(Frame, frame))) continue;
      const again = Buffer.concat(wanted.map((frame) => record(fromJson(Frame, frame) as Init<Frame>)));
      assert.equal(again.toString('hex'), hex, `${file} ${name}`);
    }
  });
}
