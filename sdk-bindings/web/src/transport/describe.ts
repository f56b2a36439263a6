/** `/.well-known/lanecast`: where a node serves what. */

/** How long the document is waited for. */
const DESCRIBE_MS_MAX = 2000;
/** Certificates that are taken; a node has one, and for a moment two. */
const HASHES_MAX = 8;

/** What the document says of the transports of a browser. */
export interface Description {
  /** The path of the WebSocket. */
  websocket: string | undefined;
  webtransport: { port: number; path: string; hashes: Uint8Array<ArrayBuffer>[] } | undefined;
}

/** Reads the document of the node at an address; rejects if there is none. */
export async function describe(address: string): Promise<Description> {
  const url = new URL('/.well-known/lanecast', address);
  url.protocol = url.protocol.replace('ws', 'http');
  const signal = AbortSignal.timeout(DESCRIBE_MS_MAX);
  const answer = await fetch(url, { cache: 'no-store', credentials: 'omit', signal });
  if (!answer.ok) throw new Error(`${url.pathname}: ${answer.status}`);
  return parse(await answer.json());
}

/** What of the document this client understands; the rest is as if it were not there. */
export function parse(document: unknown): Description {
  const { websocket, webtransport } = (document ?? {}) as Record<string, unknown>;
  const { port, path, certificateHashes = [] } = (webtransport ?? {}) as Record<string, unknown>;
  const described: Description = { websocket: isPath(websocket) ? websocket : undefined, webtransport: undefined };
  const hashes = Array.isArray(certificateHashes) ? certificateHashes.slice(0, HASHES_MAX).map(bytesOf) : [undefined];
  if (!Number.isInteger(port) || (port as number) < 1 || (port as number) > 65_535 || !isPath(path)) return described;
  if (hashes.every((hash) => hash !== undefined)) described.webtransport = { port: port as number, path, hashes };
  return described;
}

function isPath(path: unknown): path is string {
  return typeof path === 'string' && path.startsWith('/') && !path.startsWith('//');
}

/** The SHA-256 that a text of base64 holds. */
function bytesOf(text: unknown): Uint8Array<ArrayBuffer> | undefined {
  if (typeof text !== 'string' || !/^[A-Za-z0-9+/]{43}=$/.test(text)) return undefined;
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}
