// A node and a browser for the tests of the page. Both are looked for where they should be, and a missing one is a
// failure, never a skipped test.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect, createServer } from 'node:net';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import * as esbuild from 'esbuild';
import { chromium } from 'playwright-core';

const ROOT = fileURLToPath(new URL('../../../../', import.meta.url));
const START_MS_MAX = 20_000;

/** Starts `lanecast serve --dev` on a free port, with these options; returns its address and what stops it. */
export async function startNode(...options) {
  const binary = process.env.LANECAST_BIN ?? join(ROOT, 'target/release/lanecast');
  assert.ok(existsSync(binary), `there is no node at ${binary}: run \`cargo build --release\`, or set LANECAST_BIN`);
  const child = spawn(binary, ['serve', '--dev', '--listen', '127.0.0.1:0', ...options], { stdio: ['ignore', 'pipe', 'pipe'] });
  const errors = [];
  child.stderr.on('data', (data) => errors.push(`${data}`));
  const lines = createInterface({ input: child.stdout });
  const url = await new Promise((found, failed) => {
    const timer = setTimeout(() => failed(new Error(`the node did not start:\n${errors.join('')}`)), START_MS_MAX);
    child.once('exit', (code) => failed(new Error(`the node ended with ${code}:\n${errors.join('')}`)));
    lines.on('line', (line) => {
      const match = /^listening on (http:\S+)/.exec(line);
      if (!match) return;
      clearTimeout(timer);
      found(match[1]);
    });
  });
  const stop = () =>
    new Promise((done) => {
      child.removeAllListeners('exit');
      child.once('exit', done);
      child.kill('SIGINT');
      setTimeout(() => child.kill('SIGKILL'), 3000).unref();
    });
  return { url, stop };
}

/** Starts Chromium with an empty profile, and QUIC, as users have it. */
export async function startBrowser() {
  const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
  assert.ok(existsSync(executablePath), `there is no Chromium at ${executablePath}: install it, or set CHROMIUM`);
  const profile = mkdtempSync(join(tmpdir(), 'lanecast-chromium-'));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath,
    headless: true,
    viewport: { width: 1280, height: 820 },
    args: [
      ...['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking'],
      ...['--disable-component-update', '--disable-sync'],
    ],
  });
  const stop = async () => {
    await context.close();
    rmSync(profile, { recursive: true, force: true });
  };
  return { context, stop };
}

/** A tab of the page as a user sees it. */
export class Tab {
  constructor(page) {
    this.page = page;
    this.errors = [];
    page.on('pageerror', (error) => this.errors.push(`${error}`));
    page.on('console', (message) => message.type() === 'error' && this.errors.push(message.text()));
  }

  static async open(context, url, user, transport = 'auto') {
    const tab = new Tab(await context.newPage());
    await tab.page.goto(`${url}?user=${encodeURIComponent(user)}&transport=${transport}`);
    await tab.reaches('connected');
    return tab;
  }

  at(id) {
    return this.page.getByTestId(id);
  }

  /** Waits for a state of the connection. */
  async reaches(state, timeout = 15_000) {
    await this.page.locator(`[data-testid=state][data-state="${state}"]`).waitFor({ timeout });
  }

  async say(text) {
    await this.at('text').fill(text);
    await this.at('send').click();
  }

  /** Waits for a message with exactly this text. */
  async sees(text, timeout = 10_000) {
    await this.at('message').filter({ has: this.page.getByText(text, { exact: true }) }).first().waitFor({ timeout });
  }

  async messages() {
    return this.page.locator('[data-testid=message] .body').allTextContents();
  }

  async number(id) {
    return Number(await this.at(id).textContent());
  }

  /** Waits until a condition on the page's numbers holds. */
  async until(condition, what, timeout = 15_000) {
    const end = Date.now() + timeout;
    while (!(await condition())) {
      assert.ok(Date.now() < end, `${what} did not happen within ${timeout} ms`);
      await this.page.waitForTimeout(25);
    }
  }
}

/** A program and the library as it is published, by the names of the files: what is loaded later is a file of its own. */
export async function bundle(entry) {
  const { outputFiles } = await esbuild.build({
    ...{ entryPoints: [entry], bundle: true, splitting: true, format: 'esm', target: 'es2022' },
    ...{ outdir: '/sdk', write: false, absWorkingDir: fileURLToPath(new URL('../..', import.meta.url)) },
  });
  return new Map(outputFiles.map((file) => [file.path, file.text]));
}

/**
 * A page of nothing but the library, as `lanecast`, in a document that the origin serves: to one that nobody served
 * Chromium gives no way to this machine.
 */
export async function openBench(context, document) {
  const files = await bundle('src/index.ts');
  const page = await context.newPage();
  await page.route(new URL('/sdk/*', document).href, (route) => {
    const body = files.get(new URL(route.request().url()).pathname);
    return body === undefined ? route.abort() : route.fulfill({ contentType: 'text/javascript', body });
  });
  await page.goto(`${document}`);
  await page.evaluate(async () => void (window.lanecast = await import('/sdk/index.js')));
  return page;
}

/** A bad network for UDP to a port of this machine: of 100 packets so many are lost, the others wait up to `jitterMs`. */
export async function badNetwork(port, { loss, jitterMs }) {
  const [front, back] = [createSocket('udp4'), createSocket('udp4')];
  let client;
  const counts = { passed: 0, lost: 0 };
  const pass = (send) => {
    if (Math.random() * 100 < loss) return counts.lost++;
    counts.passed++;
    setTimeout(send, Math.random() * jitterMs);
  };
  front.on('message', (packet, from) => {
    client = from;
    pass(() => back.send(packet, port, '127.0.0.1', () => {}));
  });
  back.on('message', (packet) => client && pass(() => front.send(packet, client.port, client.address, () => {})));
  for (const socket of [front, back]) {
    socket.bind(0, '127.0.0.1');
    await once(socket, 'listening');
  }
  const stop = () => {
    for (const socket of [front, back]) {
      socket.removeAllListeners('message');
      socket.unref();
    }
  };
  return { port: front.address().port, counts, stop };
}

/** A slow way to a node: a port through which so many bytes per second get up, as deep as the kernel's buffers before it. */
export async function slowUplink(url, bytesPerSecond) {
  const sockets = new Set();
  const server = createServer({ highWaterMark: 16 * 1024 }, (page) => {
    const node = connect(Number(new URL(url).port), '127.0.0.1');
    for (const socket of [page, node]) {
      sockets.add(socket);
      socket.on('error', () => {});
      socket.on('close', () => [page, node].forEach((each) => each.destroy()));
    }
    node.pipe(page);
    page.on('data', (bytes) => {
      node.write(bytes);
      page.pause();
      setTimeout(() => page.resume(), (bytes.length / bytesPerSecond) * 1000);
    });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const stop = () => {
    server.close();
    for (const socket of sockets) socket.destroy();
  };
  return { url: `http://127.0.0.1:${server.address().port}/`, stop };
}

/** Lets a page read another port for WebTransport in the document of the node. */
export async function redirect(page, portOf) {
  await page.route('**/.well-known/lanecast', async (route) => {
    const answer = await route.fetch();
    const document = await answer.json();
    document.webtransport.port = await portOf(document.webtransport.port);
    await route.fulfill({ response: answer, json: document });
  });
}
