/**
 * Which transport a connection gets.
 *
 * `auto` gives WebTransport a head start and takes whichever opens first. If that is WebSocket, the network or the node
 * has no good way for WebTransport: WebSocket alone is used from then on, until it fails or the network changes.
 */
import { LanecastError } from '../errors.js';
import { type Description, describe } from './describe.js';
import type { Transport, TransportName } from './transport.js';
import { openWebSocket, type SocketConstructor } from './websocket.js';
import type { WebTransportConstructor } from './webtransport.js';

/** How long WebTransport is alone in a race. */
export const HEAD_START_MS = 500;

/** Which transport to use. */
export type TransportChoice = 'auto' | TransportName;

/** What a {@link Dialer} is made with. */
export interface DialerOptions {
  url: string | URL;
  transport?: TransportChoice | (() => TransportChoice);
  WebSocket?: SocketConstructor;
  WebTransport?: WebTransportConstructor;
}

/** A way to open a connection. */
export type Open = (signal: AbortSignal) => Promise<Transport>;

/** Opens the connections of a client. */
export class Dialer {
  /** WebTransport lost a race, or broke before Welcome. */
  #avoids = false;
  /** The last document that could be had, for when its fetch is what fails. */
  #known: { origin: string; description: Description } | undefined;
  readonly #options: DialerOptions;

  constructor(options: DialerOptions) {
    this.#options = options;
  }

  /** Opens a connection to `address`, or to the one of the options if that is empty. */
  async dial(address: string, signal: AbortSignal): Promise<Transport> {
    const { url, transport: choice = 'auto' } = this.#options;
    const transport = typeof choice === 'string' ? choice : choice();
    const base = endpoint(url, address);
    const bare = new URL(base).pathname === '/';
    const tries = transport === 'webtransport' || (transport === 'auto' && !this.#avoids && this.#suits());
    const described = bare || tries ? this.#describe(base) : undefined;
    const webSocket: Open = async (stop) => this.#webSocket(bare ? `${new URL((await described)?.websocket ?? '/v1/connect', base)}` : base, stop);
    if (!tries) return this.#socketAlone(webSocket, signal);
    const webTransport: Open = async (stop) => this.#webTransport(base, await described, stop);
    if (transport === 'webtransport') return webTransport(signal);
    const won = await race(webTransport, webSocket, HEAD_START_MS, signal);
    this.#avoids = won.name === 'websocket';
    return won;
  }

  /** The connection of that transport was lost before Welcome. */
  failed(name: TransportName): void {
    this.#avoids = name === 'webtransport';
  }

  /** What was learned of the network may hold no more. */
  networkChanged(): void {
    this.#avoids = false;
  }

  async #socketAlone(open: Open, signal: AbortSignal): Promise<Transport> {
    try {
      return await open(signal);
    } catch (error) {
      this.failed('websocket');
      throw error;
    }
  }

  /** Whether WebTransport may be tried unasked. */
  #suits(): boolean {
    if (!('document' in globalThis)) return this.#options.WebTransport !== undefined;
    // Only engines in which it is known to work: that of WebKit, under whatever name, stalls.
    const works = /(Chrome|Chromium|Firefox)\//.test(navigator.userAgent);
    return works && isSecureContext && 'WebTransport' in globalThis;
  }

  async #describe(base: string): Promise<Description | undefined> {
    const { origin } = new URL(base);
    try {
      const description = await describe(base);
      this.#known = { origin, description };
      return description;
    } catch {
      return this.#known?.origin === origin ? this.#known.description : undefined;
    }
  }

  #webSocket(url: string, signal: AbortSignal): Promise<Transport> {
    const Socket = this.#options.WebSocket ?? (globalThis.WebSocket as unknown as SocketConstructor | undefined);
    if (!Socket) throw LanecastError.local('USAGE', 'there is no WebSocket here: pass one in the options');
    return openWebSocket(Socket, url, signal);
  }

  async #webTransport(base: string, description: Description | undefined, signal: AbortSignal): Promise<Transport> {
    const Constructor = this.#options.WebTransport ?? (globalThis.WebTransport as unknown as WebTransportConstructor | undefined);
    if (!Constructor) throw LanecastError.local('USAGE', 'there is no WebTransport here');
    const served = description?.webtransport;
    if (!served) throw new Error('the node does not serve WebTransport, or cannot be asked');
    const { hostname } = new URL(base);
    // Certificates by their hash are those of a node in development, which is on this machine.
    const local = isLoopback(hostname) && isLoopback(globalThis.location?.hostname ?? hostname);
    if (served.hashes.length && !local) throw new Error('the certificate of the node is one for development');
    const { openWebTransport } = await import('./webtransport.js');
    return openWebTransport(Constructor, `https://${hostname}:${served.port}${served.path}`, served.hashes, signal);
  }
}

/** Whichever opens first; the second begins after the head start, or when the first has failed. */
export async function race(first: Open, second: Open, headStartMs: number, signal: AbortSignal): Promise<Transport> {
  const stop = new AbortController();
  const abort = () => stop.abort(signal.reason);
  signal.addEventListener('abort', abort);
  if (signal.aborted) abort();
  const early = first(stop.signal);
  const late = pause(headStartMs, early).then(() => {
    stop.signal.throwIfAborted();
    return second(stop.signal);
  });
  try {
    const won = await Promise.any([early, late]);
    stop.abort();
    // The other may have opened in the same moment.
    for (const each of [early, late]) void each.then((open) => open !== won && open.close(4000)).catch(() => {});
    return won;
  } catch (error) {
    // What the application can mend stands in the last resort's error.
    throw error instanceof AggregateError ? error.errors[1] : error;
  } finally {
    signal.removeEventListener('abort', abort);
  }
}

/** Waits, but no longer than until `early` fails; for ever once it succeeded. */
function pause(ms: number, early: Promise<unknown>): Promise<void> {
  return new Promise((done) => {
    const timer = setTimeout(done, ms);
    early.then(
      () => clearTimeout(timer),
      () => {
        clearTimeout(timer);
        done();
      },
    );
  });
}

/** The address of the WebSocket. */
export function endpoint(url: string | URL, address: string): string {
  const base = parsed(url);
  base.protocol = base.protocol.replace('http', 'ws');
  if (!address) return base.href;
  const secure = base.protocol === 'wss:';
  try {
    const other = new URL(address.includes('://') ? address : `${base.protocol}//${address}${base.pathname}`);
    other.protocol = other.protocol.replace('http', 'ws');
    // A token that was trusted to TLS is not sent without it.
    return /^wss?:$/.test(other.protocol) && (other.protocol === 'wss:' || !secure) ? other.href : base.href;
  } catch {
    return base.href;
  }
}

function parsed(url: string | URL): URL {
  try {
    return new URL(url, globalThis.location?.href);
  } catch (error) {
    throw LanecastError.local('USAGE', `not an address: ${url}`, { cause: error });
  }
}

function isLoopback(hostname: string): boolean {
  return /^(localhost|.*\.localhost|127\.\d+\.\d+\.\d+|\[::1\])$/.test(hostname);
}
