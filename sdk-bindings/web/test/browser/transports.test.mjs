// The library in a real browser over both transports, against a real node.
import assert from 'node:assert/strict';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { after, before, test } from 'node:test';
import { badNetwork, openBench, redirect, slowUplink, startBrowser, startNode } from './support.mjs';

let node, browser, bench;

before(async () => {
  node = await startNode();
  browser = await startBrowser();
  bench = await openBench(browser.context, new URL('healthz', node.url));
});

after(async () => {
  await browser?.stop();
  await node?.stop();
});

test('auto takes WebTransport, which is loaded only then', async () => {
  const loaded = [];
  bench.on('request', (request) => loaded.push(new URL(request.url()).pathname));
  const used = await bench.evaluate(async (url) => {
    const socket = await lanecast.connect({ url, token: 'dev:ann', transport: 'websocket' });
    const before = performance.getEntriesByType('resource').filter(({ name }) => name.includes('webtransport')).length;
    const auto = await lanecast.connect({ url, token: 'dev:ann' });
    const names = [socket.transport, auto.transport, before];
    socket.close();
    auto.close();
    return names;
  }, node.url);
  assert.deepEqual(used, ['websocket', 'webtransport', 0]);
  assert.ok(loaded.some((path) => path.includes('webtransport')), `${loaded}`);
});

/** Publishes 10,000 events in turn in the three lanes, and checks what a subscriber gets. */
async function exchange(page, from, to) {
  const result = await page.evaluate(
    async ({ url, from, to }) => {
      const COUNT = 10_000;
      const lanes = ['urgent', 'normal', 'bulk'];
      const [writer, reader] = await Promise.all([
        lanecast.connect({ url, token: 'dev:ann', transport: from }),
        lanecast.connect({ url, token: 'dev:ben', transport: to }),
      ]);
      const name = `mixed.${crypto.randomUUID()}`;
      const subscription = reader.room(name).subscribe({ from: 'beginning' });
      const seen = { urgent: [], normal: [], bulk: [] };
      const read = (async () => {
        let count = 0;
        for await (const item of subscription) {
          if (item.kind === 'gap') throw new Error(`gap ${item.lane} ${item.from}`);
          seen[item.lane].push([item.seq, item.text]);
          if (++count === COUNT) return;
        }
      })();
      const room = writer.room(name);
      let next = 0;
      const publish = async () => {
        for (let at = next++; at < COUNT; at = next++) await room.publish({ type: 'msg', lane: lanes[at % 3], text: `${at}` });
      };
      const begun = performance.now();
      await Promise.all([read, ...Array.from({ length: 200 }, publish)]);
      const took = performance.now() - begun;
      const { duplicates, holes } = subscription.stats;
      const names = [writer.transport, reader.transport];
      writer.close();
      reader.close();
      return { seen, duplicates, holes, names, took };
    },
    { url: node.url, from, to },
  );
  assert.deepEqual(result.names, [from, to]);
  for (const [lane, items] of Object.entries(result.seen)) {
    const seqs = items.map(([seq]) => seq);
    // On streams urgent events are handed over as they arrive.
    if (lane === 'urgent') seqs.sort((one, other) => one - other);
    assert.deepEqual(seqs, seqs.map((_, at) => at + 1), lane);
  }
  const texts = Object.values(result.seen).flatMap((items) => items.map(([, text]) => Number(text)));
  assert.equal(new Set(texts).size, 10_000);
  return result;
}

for (const [from, to] of [['websocket', 'webtransport'], ['webtransport', 'websocket'], ['webtransport', 'webtransport']]) {
  test(`10,000 mixed events from ${from} to ${to}, exactly once, in order inside normal and bulk`, async () => {
    const { took, duplicates, holes } = await exchange(bench, from, to);
    console.log(`${from} to ${to}: ${Math.round(took)} ms; ${holes} holes, ${duplicates} duplicates`);
  });
}

test('10,000 mixed events over WebTransport with 2 % loss and 20 ms of jitter, exactly once', async () => {
  const networks = [];
  const page = await openBench(browser.context, new URL('healthz', node.url));
  await redirect(page, async (port) => {
    const network = await badNetwork(port, { loss: 2, jitterMs: 20 });
    networks.push(network);
    return network.port;
  });
  const { took, duplicates, holes } = await exchange(page, 'webtransport', 'webtransport');
  const [passed, lost] = ['passed', 'lost'].map((what) => networks.reduce((sum, { counts }) => sum + counts[what], 0));
  console.log(`${Math.round(took)} ms; ${passed} packets passed, ${lost} lost; ${holes} holes, ${duplicates} duplicates`);
  assert.ok(lost > 0);
  await page.close();
  for (const network of networks) network.stop();
});

test('an urgent event is not blocked by bulk that nobody reads', async () => {
  const result = await bench.evaluate(async (url) => {
    let stalled = 0;
    // The stream of lane bulk is opened and not read: kind 2 and lane 4 stand in its header.
    const stall = new TransformStream({
      async transform(stream, out) {
        const [look, rest] = stream.tee();
        const reader = look.getReader();
        const { value } = await reader.read();
        const bulk = value?.[0] === 0x12 && value[3] === 2 && value[5] === 4;
        if (!bulk) {
          void reader.cancel();
          return out.enqueue(rest);
        }
        stalled++;
        // Neither branch is read further, so the browser takes no more than its windows hold.
        out.enqueue(new ReadableStream({ start: (controller) => controller.enqueue(value.subarray(0, 6)) }));
      },
    });
    class Stalling extends WebTransport {
      get incomingUnidirectionalStreams() {
        return super.incomingUnidirectionalStreams.pipeThrough(stall);
      }
    }
    const [writer, reader] = await Promise.all([
      lanecast.connect({ url, token: 'dev:ann', transport: 'websocket' }),
      lanecast.connect({ url, token: 'dev:ben', transport: 'webtransport', WebTransport: Stalling }),
    ]);
    const name = `stalled.${crypto.randomUUID()}`;
    const items = reader.room(name).subscribe({ from: 'beginning' })[Symbol.asyncIterator]();
    const data = new Uint8Array(60_000);
    const room = writer.room(name);
    let next = 0;
    const publish = async () => {
      while (next++ < 400) await room.publish({ type: 'blob', lane: 'bulk', data });
    };
    await Promise.all(Array.from({ length: 32 }, publish));
    const begun = performance.now();
    await room.publish({ type: 'call', lane: 'urgent', text: 'now' });
    const { value } = await items.next();
    const took = performance.now() - begun;
    await room.publish({ type: 'msg', text: 'and normal' });
    const { value: normal } = await items.next();
    writer.close();
    reader.close();
    return { lane: value.lane, took, normal: normal.lane, stalled };
  }, node.url);
  assert.deepEqual([result.lane, result.normal, result.stalled], ['urgent', 'normal', 1]);
  assert.ok(result.took < 1000, `${result.took} ms`);
});

/** Uploads 3 MB of bulk, publishes urgent ones meanwhile, and says how long these took, ms, and what had come by then. */
async function upload(page, url, oneQueue) {
  return page.evaluate(
    async ({ url, oneQueue }) => {
      const outbox = { bytes: 64 * 1024 * 1024 };
      const client = await lanecast.connect({ url, token: 'dev:ann', transport: 'websocket', oneQueue, outbox });
      const room = client.room(`upload.${crypto.randomUUID()}`);
      let stored = 0;
      const bulk = Array.from({ length: 50 }, () => room.publish({ type: 'blob', lane: 'bulk', data: new Uint8Array(60_000) }));
      for (const each of bulk) each.then(() => stored++);
      await bulk[0];
      const waits = [];
      let before = 0;
      // The first wait without lanes is as long as the upload.
      while (waits.length < (oneQueue ? 1 : 5)) {
        const begun = performance.now();
        await room.publish({ type: 'call', lane: 'urgent', text: 'now' });
        waits.push(performance.now() - begun);
        before = stored;
      }
      await Promise.all(bulk);
      client.close();
      waits.sort((one, other) => one - other);
      return { wait: waits[Math.floor(waits.length / 2)], before, stored };
    },
    { url, oneQueue },
  );
}

test('LC-LANE-009, LC-FLOW-010: an urgent publish overtakes an upload of 3 MB, for which without lanes it waits', async () => {
  const slow = await slowUplink(node.url, 500_000);
  const page = await openBench(browser.context, new URL('healthz', slow.url));
  const [lanes, one] = [await upload(page, slow.url, false), await upload(page, slow.url, true)];
  console.log(`urgent during an upload: ${Math.round(lanes.wait)} ms, in one queue ${Math.round(one.wait)} ms`);
  assert.deepEqual([lanes.stored, one.stored], [50, 50]);
  assert.ok(lanes.before < 50, 'the upload was still under way');
  assert.ok(lanes.wait < one.wait / 3, `${lanes.wait} ms, ${one.wait} ms`);
  await page.close();
  slow.stop();
});

test('where UDP is blocked the library is connected by WebSocket within a second', async () => {
  const swallow = createSocket('udp4');
  swallow.bind(0, '127.0.0.1');
  await once(swallow, 'listening');
  let packets = 0;
  swallow.on('message', () => packets++);
  const page = await openBench(browser.context, new URL('healthz', node.url));
  await redirect(page, () => swallow.address().port);
  const { took, transport } = await page.evaluate(async (url) => {
    const begun = performance.now();
    const client = await lanecast.connect({ url, token: 'dev:ann' });
    const took = performance.now() - begun;
    const { transport } = client;
    client.close();
    return { took, transport };
  }, node.url);
  console.log(`connected by ${transport} after ${Math.round(took)} ms, ${packets} packets of UDP swallowed`);
  assert.equal(transport, 'websocket');
  assert.ok(packets > 0, 'WebTransport was tried');
  assert.ok(took <= 1000, `${took} ms`);
  await page.close();
  swallow.close();
});

test('LC-WT-003: a page of another origin is refused on both transports', async () => {
  const elsewhere = createServer((_, answer) => answer.end('another origin')).listen(0, '127.0.0.1');
  await once(elsewhere, 'listening');
  const stranger = await openBench(browser.context, `http://127.0.0.1:${elsewhere.address().port}/`);
  const refused = await stranger.evaluate(async (url) => {
    const open = (transport) =>
      lanecast.connect({ url, token: 'dev:ann', transport, signal: AbortSignal.timeout(3000) }).then(
        (client) => `open: ${client.state.name}`,
        (error) => error.name,
      );
    const document = await (await fetch(new URL('.well-known/lanecast', url))).json();
    const { port, path, certificateHashes } = document.webtransport;
    const value = Uint8Array.from(atob(certificateHashes[0]), (letter) => letter.charCodeAt(0));
    const raw = new WebTransport(`https://127.0.0.1:${port}${path}`, { serverCertificateHashes: [{ algorithm: 'sha-256', value }] });
    raw.closed.catch(() => {});
    const session = await raw.ready.then(() => 'open', () => 'refused');
    return [session, await open('webtransport'), await open('websocket')];
  }, node.url);
  assert.deepEqual(refused, ['refused', 'TimeoutError', 'TimeoutError']);
  await stranger.close();
  elsewhere.close();
  elsewhere.closeAllConnections();
});

test('cuts: each event once over sessions that break', async () => {
  const result = await bench.evaluate(async (url) => {
    const sessions = [];
    class Cut extends WebTransport {
      constructor(...all) {
        super(...all);
        sessions.push(this);
      }
    }
    const [writer, reader] = await Promise.all([
      lanecast.connect({ url, token: 'dev:ann', transport: 'webtransport', WebTransport: Cut }),
      lanecast.connect({ url, token: 'dev:ben', transport: 'webtransport', WebTransport: Cut }),
    ]);
    const name = `cut.${crypto.randomUUID()}`;
    const seen = new Map();
    // Publishing ends with the last cut, however fast the machine is, so that each cut breaks something.
    let [published, total] = [0, Infinity];
    const subscription = reader.room(name).subscribe({ from: 'beginning' });
    const read = (async () => {
      for await (const item of subscription) {
        const key = item.kind === 'gap' ? 'gap' : item.text;
        seen.set(key, (seen.get(key) ?? 0) + 1);
        if (seen.size === total) return;
      }
    })();
    const room = writer.room(name);
    const publish = () => room.publish({ type: 'msg', lane: ['urgent', 'normal', 'bulk'][published % 3], text: `${published++}` });
    const publishing = Promise.all(Array.from({ length: 10 }, async () => {
      while (total === Infinity) await publish();
    }));
    for (let cut = 0; cut < 6; cut++) {
      await new Promise((done) => setTimeout(done, 150));
      // A cut of what is not there yet would be none.
      for (const client of [writer, reader]) {
        while (client.state.name !== 'connected') await new Promise((done) => setTimeout(done, 1));
      }
      for (const session of sessions.splice(0)) session.close();
      for (const client of [writer, reader]) {
        while (client.state.name === 'connected') await new Promise((done) => setTimeout(done, 1));
        client.networkChanged();
      }
    }
    total = published + 1;
    await Promise.all([publishing, publish(), read]);
    const twice = [...seen.values()].filter((count) => count !== 1).length;
    const { subscriptions } = subscription.stats;
    writer.close();
    reader.close();
    return { missing: total - seen.size, twice, gap: seen.has('gap'), subscriptions };
  }, node.url);
  assert.deepEqual([result.missing, result.twice, result.gap], [0, 0, false]);
  assert.ok(result.subscriptions > 4, `${result.subscriptions}`);
});
