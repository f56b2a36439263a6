// Runs the driver of this SDK in Chromium, for the conformance suite:
//
//   lanecast-conform client --listen 0 -- node test/browser/driver.mjs {driver_url}
import { once } from 'node:events';
import { createServer } from 'node:http';
import { bundle, startBrowser } from './support.mjs';

const [url] = process.argv.slice(2);
const files = await bundle('test/driver.ts');
const server = createServer((request, response) => {
  const text = files.get(request.url);
  const [type, body] = text === undefined ? ['text/html', '<!doctype html><title>driver</title>'] : ['text/javascript', text];
  response.writeHead(200, { 'Content-Type': type }).end(body);
}).listen(0, '127.0.0.1');
await once(server, 'listening');
const browser = await startBrowser();
const stop = async () => {
  await browser.stop();
  process.exit();
};
process.once('SIGTERM', stop);
const page = await browser.context.newPage();
page.on('pageerror', (error) => console.error(`${error}`));
await page.goto(`http://127.0.0.1:${server.address().port}/`);
await page.evaluate(async (url) => (await import('/sdk/driver.js')).drive(url), url);
await stop();
