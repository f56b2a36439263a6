// The page on a phone that scanned the QR code of `lanecast serve --dev --lan`.
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { startBrowser, startNode, Tab } from './support.mjs';

const SECRET = 'a secret of a test, at least 32 bytes';
let node, browser, folder;

/** A token as the code holds one. */
function token() {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const rights = [{ allow: ['subscribe', 'publish', 'signal', 'history'], rooms: ['demo'] }];
  const claims = { sub: 'phone', exp: Math.floor(Date.now() / 1000) + 600, lanecast: { rights } };
  const signed = `${part({ typ: 'JWT', alg: 'HS256' })}.${part(claims)}`;
  return `${signed}.${createHmac('sha256', SECRET).update(signed).digest('base64url')}`;
}

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'lanecast-scanned-'));
  const file = join(folder, 'lanecast.toml');
  writeFileSync(file, `[tokens]\nhs256_secret = "${SECRET}"\n`);
  process.env.LANECAST_CONFIG = file;
  node = await startNode();
  browser = await startBrowser();
});

after(async () => {
  await browser?.stop();
  await node?.stop();
  rmSync(folder, { recursive: true, force: true });
});

test('a token in the address is used, and is not left there (LC-SEC-002)', async () => {
  const phone = new Tab(await browser.context.newPage());
  const requests = [];
  phone.page.on('request', (request) => requests.push(request.url()));
  await phone.page.goto(`${node.url}#token=${token()}`);
  await phone.reaches('connected');
  assert.equal(phone.page.url(), node.url);
  assert.equal(await phone.at('me').textContent(), 'phone');
  assert.ok(await phone.at('me').isDisabled(), 'who came with a token is who it says');
  assert.ok(!requests.some((url) => url.split('#')[0].includes('token')), `${requests}`);
  const ann = await Tab.open(browser.context, node.url, 'Ann');
  await phone.say('Hello from the sofa');
  await ann.sees('Hello from the sofa');
  await phone.page.reload();
  await phone.reaches('connected');
  assert.equal(await phone.at('me').textContent(), 'phone');
  assert.deepEqual(phone.errors, []);
});
