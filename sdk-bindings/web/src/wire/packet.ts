/** Packets: what travels in one WebSocket message or datagram, and, without an end, on a stream (LC-FRM-001). */
import { BinaryReader, BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import { type Envelope, Frame, Lane } from '../gen/wire.js';
import { decode, encode, type Init, WireError } from './codec.js';

/** A frame's body by its name. */
export type Body = NonNullable<Frame['body']>;

/** The number of the lane of what a node sends. */
export function laneOf(body: Frame['body']): number {
  if (body?.case === 'signal') return Lane.SIGNAL;
  if (body?.case === 'historyPage') return Lane.BULK;
  const names = body?.case === 'event' || body?.case === 'gap' || body?.case === 'fragment' || body?.case === 'fragmentAbort';
  return names ? body.value.lane : Lane.CONTROL;
}

/** The body of an envelope as applications get it. */
export const payload = (body: Envelope['body']): { text?: string; data?: Uint8Array } => (body ? { [body.case]: body.value } : {});

/** Encodes one frame as a record; the concatenation of records is a packet. */
export function record(frame: Init<Frame>): Uint8Array {
  return field(1, encode(Frame, frame));
}

/** The frame inside a record, encoded. */
export function bodyOf(record: Uint8Array): Uint8Array {
  const reader = new BinaryReader(record);
  reader.tag();
  return reader.bytes();
}

/** A field of a packet. */
export function field(number: number, bytes: Uint8Array): Uint8Array {
  return new BinaryWriter().tag(number, WireType.LengthDelimited).bytes(bytes).finish();
}

/**
 * The frames of a packet, with the bytes that each took. Frames before a fault are handed out before it throws
 * {@link WireError}.
 */
export function* frames(packet: Uint8Array): Generator<[Frame, number]> {
  const reader = new BinaryReader(packet);
  while (reader.pos < reader.len) {
    const start = reader.pos;
    let bytes: Uint8Array | undefined;
    try {
      const [number, wire] = reader.tag();
      if (number === 1 && wire === WireType.LengthDelimited) bytes = reader.bytes();
      else reader.skip(wire, number);
    } catch (error) {
      throw new WireError(String(error));
    }
    if (bytes) yield [decode(Frame, bytes), reader.pos - start];
  }
}

/** Joins records. */
export function join(records: readonly Uint8Array[]): Uint8Array {
  if (records.length === 1) return records[0] as Uint8Array;
  const packet = new Uint8Array(records.reduce((sum, each) => sum + each.length, 0));
  let at = 0;
  for (const each of records) {
    packet.set(each, at);
    at += each.length;
  }
  return packet;
}
