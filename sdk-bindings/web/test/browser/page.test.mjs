// The page in two tabs of a real browser, one over each transport, against a real node.
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { startBrowser, startNode, Tab } from './support.mjs';

let node, browser, ann, ben;
const shots = process.env.LANECAST_SCREENSHOTS ?? mkdtempSync(join(tmpdir(), 'lanecast-page-'));
mkdirSync(shots, { recursive: true });

before(async () => {
  node = await startNode();
  browser = await startBrowser();
  ann = await Tab.open(browser.context, node.url, 'Ann', 'webtransport');
  ben = await Tab.open(browser.context, node.url, 'Ben', 'websocket');
});

after(async () => {
  await browser?.stop();
  await node?.stop();
});

test('the node serves the page of this tree', async () => {
  const served = await (await fetch(new URL('assets/app.js', node.url))).text();
  const built = readFileSync(new URL('../../../../server/page/dist/assets/app.js', import.meta.url), 'utf8');
  assert.ok(served === built, 'the node was built with another page: build it again');
});

test('two tabs on different transports chat', async () => {
  assert.deepEqual([await ann.at('in-use').textContent(), await ben.at('in-use').textContent()], ['WebTransport', 'WebSocket']);
  await ann.say('Hello Ben');
  await ben.sees('Hello Ben');
  await ben.say('Hello Ann');
  await ann.sees('Hello Ann');
  assert.deepEqual(await ann.messages(), ['Hello Ben', 'Hello Ann']);
  assert.deepEqual(await ben.messages(), ['Hello Ben', 'Hello Ann']);
});

test('they see who is there, who types, and where the pointer is', async () => {
  await ben.at('person').filter({ hasText: 'Ann' }).waitFor();
  await ann.at('person').filter({ hasText: 'Ben' }).waitFor();
  await ann.at('text').pressSequentially('thinking', { delay: 20 });
  await ben.page.getByText('Ann is typing').waitFor();
  await ann.at('text').fill('');
  await ben.until(async () => (await ben.at('typing').textContent()) === '', 'the end of typing');
  await ann.page.bringToFront();
  const stage = await ann.page.locator('#stage').boundingBox();
  for (let step = 0; step <= 10; step++) await ann.page.mouse.move(stage.x + 100 + step * 20, stage.y + 80 + step * 10);
  const cursor = ben.at('cursor').filter({ hasText: 'Ann' });
  await cursor.waitFor();
  const share = () => cursor.evaluate((element) => parseFloat(element.style.getPropertyValue('--x')));
  const wanted = (300 / stage.width) * 100;
  await ben.until(async () => Math.abs((await share()) - wanted) < 0.5, 'the cursor at its last place');
});

test('an urgent call shows its latency', async () => {
  await ann.at('call').click();
  await ben.at('call-line').filter({ hasText: 'Ann is calling' }).waitFor();
  await ann.until(async () => / ms$/.test(await ann.at('latency-urgent').textContent()), 'a latency');
  assert.match(await ann.at('latency-normal').textContent(), / m?s$/);
});

for (const over of ['WebTransport', 'WebSocket']) {
  test(`a cut connection comes back over ${over} and misses nothing`, async () => {
    const [cut, other] = over === 'WebTransport' ? [ann, ben] : [ben, ann];
    const before = await cut.messages();
    const connection = await cut.at('connection').textContent();
    const gaps = await cut.number('gaps');
    await cut.at('cut').click();
    await cut.page.locator('[data-testid=state]:not([data-state=connected])').waitFor();
    const missed = ['one', 'two', 'three', 'four', 'five'].map((text) => `${text} without ${over}`);
    for (const text of missed) await other.say(text);
    await other.sees(missed.at(-1));
    await cut.say(`from below ${over}`);
    await cut.until(async () => (await cut.number('waiting')) === 1, 'the wait of what is said while cut');
    await cut.page.getByRole('button', { name: 'Reconnect now' }).click();
    await cut.sees(missed.at(-1));
    await other.sees(`from below ${over}`);
    await cut.at('story').getByText('The resume brought 5 events').waitFor();
    assert.deepEqual(await cut.messages(), [...before, ...missed, `from below ${over}`]);
    // The page draws its numbers four times a second.
    await cut.until(async () => (await cut.at('in-use').textContent()) === over, `${over} in use`);
    assert.notEqual(await cut.at('connection').textContent(), connection);
    assert.equal(await cut.number('gaps'), gaps);
  });
}

test('another transport is a new connection that resumes', async () => {
  const before = await ann.messages();
  for (const [choice, name] of [['websocket', 'WebSocket'], ['auto', 'WebTransport']]) {
    const connection = await ann.at('connection').textContent();
    await ann.page.locator('.segments label').filter({ has: ann.at(`choose-${choice}`) }).click();
    await ann.until(async () => (await ann.at('in-use').textContent()) === name, name);
    assert.notEqual(await ann.at('connection').textContent(), connection);
  }
  await ben.say('still there?');
  await ann.sees('still there?');
  assert.deepEqual(await ann.messages(), [...before, 'still there?']);
  assert.equal(await ann.number('gaps'), 0);
});

test('on a bad network a call overtakes the bulk burst', async () => {
  const calls = await ann.at('call-line').count();
  const limited = ann.page.waitForResponse((answer) => answer.url().endsWith('/rate'));
  await ann.page.getByTestId('bad').check();
  assert.equal((await limited).status(), 204);
  await ben.at('bulk').click();
  await ann.at('bulk-line').waitFor();
  await ann.until(async () => / KB$/.test(await ann.at('queued-bulk').textContent()), 'what waits at the node');
  await ben.at('call').click();
  await ann.until(async () => (await ann.at('call-line').count()) === calls + 1, 'the call', 8000);
  const share = Number(await ann.page.locator('[role=progressbar]').getAttribute('aria-valuenow'));
  assert.ok(share < 100, `the call came when the burst stood at ${share} %`);
  await ann.page.getByTestId('bad').uncheck();
  await ann.until(async () => (await ann.at('bulk-line').textContent()).includes('200 of 200'), 'the whole burst', 20_000);
  await ann.until(async () => (await ann.at('position').getAttribute('data-position')).endsWith('-200'), 'the position');
  assert.equal(await ann.number('gaps'), 0);
});

/** How long the next call of a tab takes until it is back, ms. */
async function callTakes(tab) {
  const calls = await tab.at('call-line').count();
  await tab.at('call').click();
  const line = tab.at('call-line').nth(calls);
  await line.waitFor({ timeout: 60_000 });
  const [, number, unit] = /([\d.]+) (m?s)$/.exec(await line.locator('.took').textContent());
  return Number(number) * (unit === 's' ? 1000 : 1);
}

test('the second switch puts everything into one queue, and a call waits for the burst', async () => {
  const set = async (id, on) => {
    const done = ann.page.waitForResponse((answer) => answer.url().endsWith('/rate'));
    await ann.at(id).setChecked(on);
    assert.equal((await done).status(), 204);
  };
  await set('bad', true);
  await ben.at('bulk').click();
  const queued = async () => / KB$/.test(await ann.at('queued-bulk').textContent());
  await ann.until(queued, 'bulk that waits', 20_000);
  const lanes = await callTakes(ann);
  await set('queue', true);
  // What was queued before is in its lane still; the next burst is in the one queue.
  await ben.at('bulk').click();
  await ann.until(queued, 'bulk that waits', 20_000);
  const one = await callTakes(ann);
  console.log(`a call during a burst: ${lanes} ms, in one queue ${one} ms`);
  assert.ok(one > 2 * lanes, `${lanes} ms, ${one} ms`);
  await set('queue', false);
  await set('bad', false);
  await ann.until(async () => (await ann.at('position').getAttribute('data-position')).endsWith('-600'), 'all bursts', 60_000);
  assert.equal(await ann.number('gaps'), 0);
});

test('a reload shows what was there before', async () => {
  const before = await ann.messages();
  await ann.page.reload();
  await ann.reaches('connected');
  await ann.sees('still there?');
  assert.deepEqual(await ann.messages(), before);
});

test('without a name the page asks for one', async () => {
  const page = await browser.context.newPage();
  await page.goto(node.url);
  await page.getByTestId('name').fill('Cleo');
  await page.getByTestId('join').click();
  await page.getByTestId('me').filter({ hasText: 'Cleo' }).waitFor();
  await ann.at('person').filter({ hasText: 'Cleo' }).waitFor();
  await page.close();
  await ann.at('person').filter({ hasText: 'seen just now' }).waitFor();
});

test('the page looks right: light, dark, and at the width of a phone', async () => {
  const talk = [
    [ben, 'Did the build go out?'],
    [ann, 'Ten minutes ago. Watching the graphs.'],
    [ben, 'I am on the train, so expect me to drop in and out.'],
    [ann, 'You will not miss anything.'],
  ];
  for (const [tab, text] of talk) {
    await tab.say(text);
    await ann.sees(text);
    await ben.sees(text);
  }
  await ann.at('bulk').click();
  await ann.at('call').click();
  await ann.at('call').click();
  await ann.at('cut').click();
  await ben.say('Shall we try the cut again?');
  await ben.sees('Shall we try the cut again?');
  await ann.page.getByRole('button', { name: 'Reconnect now' }).click();
  await ann.sees('Shall we try the cut again?');
  await ann.say('Back already.');
  await ben.sees('Back already.');
  await ben.page.bringToFront();
  const stage = await ben.page.locator('#stage').boundingBox();
  await ben.page.mouse.move(stage.x + stage.width * 0.6, stage.y + stage.height * 0.4);
  await ben.at('text').pressSequentially('Look', { delay: 20 });
  await ann.page.bringToFront();
  await ann.at('cursor').waitFor();
  const views = [
    ['light', 1280, 860, 'light'],
    ['dark', 1280, 860, 'dark'],
    ['phone-light', 360, 740, 'light'],
    ['phone-dark', 360, 740, 'dark'],
  ];
  for (const [name, width, height, colorScheme] of views) {
    await ann.page.setViewportSize({ width, height });
    await ann.page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
    await fits(name);
  }
  await ann.page.getByRole('button', { name: 'Wire' }).click();
  await fits('phone-wire');
  console.log(`screenshots: ${shots}`);
});

/** Takes a picture, and makes sure that nothing sticks out to the right. */
async function fits(name) {
  await ann.page.screenshot({ path: join(shots, `${name}.png`) });
  const wide = await ann.page.evaluate(() =>
    [...document.querySelectorAll('html, .wire, .chat, .card, .top')].filter((each) => each.scrollWidth > each.clientWidth).map((each) => each.className || each.tagName),
  );
  assert.deepEqual(wide, [], `${name}: too wide`);
}

test('nothing went wrong on the way', () => {
  // A cut socket is not an error of the page; anything that the console calls one is.
  assert.deepEqual([...ann.errors, ...ben.errors], []);
});
