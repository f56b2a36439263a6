import assert from 'node:assert/strict';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';

const KIB = 1024;

test('the bundle stays within its weight', async () => {
  const path = '../build.mjs';
  const { weigh } = (await import(path)) as { weigh: (entry: string, external: string[]) => Promise<Uint8Array> };
  const size = async (entry: string, external: string[] = []) => gzipSync(await weigh(entry, external), { level: 9 }).length;
  const core = await size('src/core/session.ts', ['@bufbuild/protobuf']);
  const all = await size('src/index.ts');
  console.log(`core ${core} B gzip, everything with the wire part of @bufbuild/protobuf ${all} B gzip`);
  assert.ok(core <= 12 * KIB, `core: ${core}`);
  assert.ok(all <= 19 * KIB, `everything: ${all}`);
});
