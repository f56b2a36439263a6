// A token that expires, over both transports of a real browser, against a real node.
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { openBench, startBrowser, startNode } from './support.mjs';

const SECRET = 'a secret of the tests, long enough';
/** A tenth of it suffices to ask twice. */
const LIFE_S = 18;

let folder, node, browser, bench;

/** A JWT of ann that lives so many seconds. */
function token(user, seconds) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const rights = [{ allow: ['subscribe', 'publish'], rooms: ['**'] }];
  const claims = { sub: user, exp: Math.floor(Date.now() / 1000) + seconds, jti: `${Math.random()}`, lanecast: { rights } };
  const signed = `${part({ alg: 'HS256' })}.${part(claims)}`;
  return `${signed}.${createHmac('sha256', SECRET).update(signed).digest('base64url')}`;
}

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'lanecast-tokens-'));
  const config = join(folder, 'lanecast.toml');
  writeFileSync(config, `[tokens]\nhs256_secret = "${SECRET}"\nleeway_ms = 0\n`);
  node = await startNode('--config', config);
  browser = await startBrowser();
  bench = await openBench(browser.context, new URL('healthz', node.url));
  await bench.exposeFunction('token', token);
});

after(async () => {
  await browser?.stop();
  await node?.stop();
  if (folder) rmSync(folder, { recursive: true });
});

test('LC-AUTH-020: a token is refreshed before it ends, also at the second try, and the connection goes on', async () => {
  const results = await bench.evaluate(
    ({ url, life }) => {
      const live = async (transport) => {
        const asked = [];
        const give = async ({ refused }) => {
          asked.push(refused);
          // The second one is no token at all: the node refuses it, and the connection goes on with the first.
          return asked.length === 2 ? 'nonsense' : token('ann', life * asked.length);
        };
        const client = await lanecast.connect({ url, transport, token: give });
        const first = client.state.connectionId;
        await new Promise((done) => setTimeout(done, (life + 3) * 1000));
        const { seq } = await client.room('r').publish({ type: 'msg', text: 'still here' });
        const result = { used: client.transport, asked, same: first === client.state.connectionId, stored: seq > 0 };
        client.close();
        return result;
      };
      return Promise.all([live('websocket'), live('webtransport')]);
    },
    { url: node.url, life: LIFE_S },
  );
  const lived = { asked: [false, false, true], same: true, stored: true };
  assert.deepEqual(results, [{ used: 'websocket', ...lived }, { used: 'webtransport', ...lived }]);
});

test('LC-AUTH-021: a token of another user changes nothing, and the connection ends with its own', async () => {
  const result = await bench.evaluate(
    async ({ url }) => {
      const users = ['ann', 'ben', 'ann'];
      let asked = 0;
      const problems = [];
      const options = { url, transport: 'webtransport', onDiagnostic: (error) => problems.push(error.name) };
      const client = await lanecast.connect({ ...options, token: () => token(users[asked++], 8) });
      const states = [];
      client.onState((state) => states.push(state.name === 'suspended' ? state.cause.name : state.name));
      for (let waited = 0; !states.includes('connected') && waited < 20_000; waited += 50) await new Promise((done) => setTimeout(done, 50));
      const result = { problems: [...problems], states: [...states] };
      client.close();
      return result;
    },
    { url: node.url },
  );
  assert.deepEqual(result, { problems: ['USER_MISMATCH'], states: ['TOKEN_EXPIRED', 'connecting', 'connected'] });
});
