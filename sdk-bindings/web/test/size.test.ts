import assert from 'node:assert/strict';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';

const KIB = 1024;

interface Weighed {
  now: Uint8Array;
  later: Uint8Array;
}

test('the bundle stays within its weight', async () => {
  const path = '../build.mjs';
  const { weigh } = (await import(path)) as { weigh: (entry: string, external: string[]) => Promise<Weighed> };
  const size = (bytes: Uint8Array) => gzipSync(bytes, { level: 9 }).length;
  const core = size((await weigh('src/core/session.ts', ['@bufbuild/protobuf'])).now);
  const { now, later } = await weigh('src/index.ts', []);
  const [all, rest] = [size(now), size(later)];
  console.log(`core ${core} B gzip, everything with the wire part of @bufbuild/protobuf ${all} B gzip`);
  console.log(`WebTransport and history, each loaded when it is first used, ${rest} B gzip`);
  assert.ok(core <= 12 * KIB, `core: ${core}`);
  assert.ok(all <= 22 * KIB, `everything: ${all}`);
  assert.ok(rest > 0 && rest <= 4 * KIB, `WebTransport and history: ${rest}`);
});
