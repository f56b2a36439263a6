/** WebSocket: one ordered pipe, into which all lanes are folded. */
import type { OutLane } from '../core/position.js';
import type { Session } from '../core/session.js';
import { Code, LanecastError } from '../errors.js';
import { join } from '../wire/packet.js';
import { Lanes } from './lanes.js';
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

/** What the socket may hold unsent: what it holds, no lane can overtake … */
export const UNSENT_BYTES_MAX = 16 * 1024;
/** … so lanes control and urgent may add to it. */
const UNSENT_URGENT_BYTES_MAX = 2 * UNSENT_BYTES_MAX;
/** How soon a socket that is full is looked at again, since browsers have no event for it: sooner where it drains fast. */
const LOOK_MS = [2, 50] as const;

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
  readonly #packer = new Packer();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #lookMs: number = LOOK_MS[0];
  #run: Run = () => {};
  readonly #socket: SocketLike;

  constructor(socket: SocketLike) {
    this.#socket = socket;
  }

  start(run: Run): void {
    const socket = this.#socket;
    this.#run = run;
    socket.onmessage = ({ data }: { data: unknown }) =>
      run((session, now) => {
        if (data instanceof ArrayBuffer) session.received(now, new Uint8Array(data));
        else session.lost(now, Code.TEXT_FRAME, 'the node sent text on the binary subprotocol');
      });
    socket.onclose = ({ code, reason }: { code: number; reason: string }) => {
      clearTimeout(this.#timer);
      run((session, now) => session.lost(now, code, reason));
    };
  }

  flush(session: Session, now: number): void {
    const socket = this.#socket;
    for (;;) {
      const unsent = session.oneQueue ? 0 : socket.bufferedAmount;
      const message = this.#packer.take(session, now, unsent);
      if (message) socket.send(message as Uint8Array<ArrayBuffer>);
      else if (unsent < UNSENT_BYTES_MAX) return;
      else break;
    }
    this.#look(socket.bufferedAmount);
  }

  /** Looks again when the socket may have drained. */
  #look(unsent: number): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      const drains = this.#socket.bufferedAmount < unsent;
      this.#lookMs = Math.min(LOOK_MS[1], Math.max(LOOK_MS[0], this.#lookMs * (drains ? 0.5 : 2)));
      this.#run(() => {});
    }, this.#lookMs);
  }

  close(code: number): void {
    const socket = this.#socket;
    clearTimeout(this.#timer);
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close(code);
  }
}

/** Joins records to messages. */
export class Packer {
  readonly #lanes = new Lanes();
  /** Made already, but too long for the message before. */
  #spare: Uint8Array | undefined;

  /** The next message for a socket that holds `unsent` bytes; undefined: nothing may be sent. */
  take(session: Session, now: number, unsent: number): Uint8Array | undefined {
    const records: Uint8Array[] = [];
    let size = 0;
    const free = (lane: OutLane) => unsent + size < (lane === 'control' || lane === 'urgent' ? UNSENT_URGENT_BYTES_MAX : UNSENT_BYTES_MAX);
    for (;;) {
      const record = this.#spare ?? this.#lanes.next(session, now, free);
      this.#spare = undefined;
      if (!record) break;
      // No message is longer than a record may be (LC-WS-010).
      if (size && size + record.length > session.outbox.recordBytesMax) {
        this.#spare = record;
        break;
      }
      records.push(record);
      size += record.length;
    }
    return records.length ? join(records) : undefined;
  }
}
