/** Streams in: bytes to whole records. */
import { WireType } from '@bufbuild/protobuf/wire';
import { WireError } from '../wire/codec.js';
import { join } from '../wire/packet.js';

/** A whole record. */
export interface Piece {
  /** Its field in `Packet`; what is neither frame nor stream header is of a later version (LC-FRM-003). */
  field: number;
  /** Its body. */
  body: Uint8Array;
  /** Its length with key and length. */
  bytes: number;
}

/**
 * Cuts one stream into records. It holds at most one that is not complete, and what came with the last of its bytes, so
 * the limit bounds what a stream costs.
 */
export class RecordCutter {
  #chunks: Uint8Array[] = [];
  #held = 0;
  /** So many bytes make the next step possible. */
  #need = 2;
  readonly #limit: number;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Whether a record has begun and not ended. */
  get torn(): boolean {
    return this.#held > 0;
  }

  /** The records that are whole with these bytes; throws {@link WireError}. */
  *feed(chunk: Uint8Array): Generator<Piece> {
    this.#chunks.push(chunk);
    this.#held += chunk.length;
    // Chunks are joined when something can be made of them, not each time that one comes.
    while (this.#held >= this.#need) {
      const bytes = join(this.#chunks);
      const head = headOf(bytes);
      const end = head ? head.at + head.length : this.#held + 1;
      if (end > this.#limit) throw new WireError('a record above the limit');
      this.#chunks = [bytes];
      this.#need = end;
      if (!head || this.#held < end) continue;
      this.#held -= end;
      // A stream between records keeps no memory.
      this.#chunks = this.#held ? [bytes.subarray(end)] : [];
      this.#need = 2;
      yield { field: head.field, body: bytes.subarray(head.at, end), bytes: end };
    }
  }
}

/** Where the body of the first record begins and how long it is; undefined: too few bytes. */
function headOf(bytes: Uint8Array): { field: number; at: number; length: number } | undefined {
  const [key, keyEnd] = varint(bytes, 0);
  const [value, valueEnd] = varint(bytes, keyEnd);
  const field = Math.floor(key / 8);
  const type = key % 8;
  if (!keyEnd) return undefined;
  if (type === WireType.Bit32) return { field, at: keyEnd, length: 4 };
  if (type === WireType.Bit64) return { field, at: keyEnd, length: 8 };
  if (type !== WireType.Varint && type !== WireType.LengthDelimited) throw new WireError('a group on a stream');
  if (!valueEnd) return undefined;
  return { field, at: valueEnd, length: type === WireType.Varint ? 0 : value };
}

/** A varint and where it ends; 0: it does not. */
function varint(bytes: Uint8Array, start: number): [number, number] {
  let value = 0;
  for (let at = start; at < bytes.length; at++) {
    const byte = bytes[at] as number;
    if (at - start === 10) throw new WireError('a number without an end');
    value += (byte & 0x7f) * 2 ** (7 * (at - start));
    if (byte < 0x80) return [value, at + 1];
  }
  return [0, 0];
}
