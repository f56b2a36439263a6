/** WebSocket: one ordered pipe, into which all lanes are folded, the higher first. */
import type { Session } from '../core/session.js';
import { Code, LanecastError } from '../errors.js';
import { join } from '../wire/packet.js';
import type { Run, Transport } from './transport.js';

/** What the client needs of a WebSocket; the one of browsers, of Node ≥ 22 and of the package `ws` fit. */
export interface SocketLike {
  binaryType: string;
  readonly bufferedAmount: number;
  onopen: ((event: never) => void) | null;
  onmessage: ((event: never) => void) | null;
  onclose: ((event: never) => void) | null;
  onerror: ((event: never) => void) | null;
  send(data: Uint8Array<ArrayBuffer>): void;
  close(code?: number): void;
}

/** Makes a {@link SocketLike}. */
export type SocketConstructor = new (url: string, protocols: string[]) => SocketLike;

/** Bytes that are handed to the socket at once. */
const SOCKET_BYTES_MAX = 16 * 1024;
/** How often a socket that is full is looked at; browsers have no event for it. */
const DRAIN_POLL_MS = 5;

/** Opens a socket; rejects if it does not open, or `signal` aborts first. */
export function openWebSocket(Socket: SocketConstructor, url: string, signal: AbortSignal): Promise<Transport> {
  return new Promise((done, fail) => {
    const socket = new Socket(url, ['lanecast.v1']);
    socket.binaryType = 'arraybuffer';
    const abort = () => {
      socket.onopen = socket.onclose = null;
      socket.close();
      fail(signal.reason);
    };
    signal.addEventListener('abort', abort);
    socket.onerror = () => {};
    socket.onopen = () => {
      signal.removeEventListener('abort', abort);
      done(new Pipe(socket));
    };
    socket.onclose = ({ code, reason }: { code: number; reason: string }) => fail(LanecastError.of(code, reason));
    if (signal.aborted) abort();
  });
}

class Pipe implements Transport {
  readonly name = 'websocket';
  readonly ordered = true;
  private readonly packer = new Packer();
  private timer: ReturnType<typeof setTimeout> | undefined;
  private run: Run = () => {};

  constructor(private readonly socket: SocketLike) {}

  start(run: Run): void {
    const { socket } = this;
    this.run = run;
    socket.onmessage = ({ data }: { data: unknown }) =>
      run((session, now) => {
        if (data instanceof ArrayBuffer) session.received(now, new Uint8Array(data));
        else session.lost(now, Code.TEXT_FRAME, 'the node sent text on the binary subprotocol');
      });
    socket.onclose = ({ code, reason }: { code: number; reason: string }) => {
      clearTimeout(this.timer);
      run((session, now) => session.lost(now, code, reason));
    };
  }

  flush(session: Session, now: number): void {
    const { socket } = this;
    while (socket.bufferedAmount < SOCKET_BYTES_MAX) {
      const message = this.packer.take(session, now, SOCKET_BYTES_MAX);
      if (!message) return;
      socket.send(message as Uint8Array<ArrayBuffer>);
    }
    this.timer ??= setTimeout(() => {
      this.timer = undefined;
      this.run(() => {});
    }, DRAIN_POLL_MS);
  }

  close(code: number): void {
    const { socket } = this;
    clearTimeout(this.timer);
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close(code);
  }
}

/** Joins records to messages. */
export class Packer {
  /** Made already, but too long for the message before. */
  private spare: Uint8Array | undefined;

  /** The next message, about `bytes` long; undefined: there is nothing to send. */
  take(session: Session, now: number, bytes: number): Uint8Array | undefined {
    const records: Uint8Array[] = [];
    let size = 0;
    // No message is longer than a record may be (LC-WS-010).
    const most = Math.min(bytes, session.limits.recordBytes);
    while (size < most) {
      const record = this.spare ?? session.next(now, () => true)?.record;
      this.spare = undefined;
      if (!record) break;
      if (size && size + record.length > most) {
        this.spare = record;
        break;
      }
      records.push(record);
      size += record.length;
    }
    return records.length ? join(records) : undefined;
  }
}
