/**
 * Encodes and decodes the messages whose tables `gen/wire.ts` holds.
 *
 * It promises what the protocol asks of a receiver: unknown fields and values are no errors (LC-FRM-003), and every
 * number is exact, since one that is not below 2^53 is refused (LC-FRM-020). It keeps no unknown fields: nothing that a
 * client decodes is encoded again.
 */
import { BinaryReader, BinaryWriter, WireType } from '@bufbuild/protobuf/wire';

/** The type of a field. */
export type Kind = 'u32' | 'u64' | 'bool' | 'string' | 'bytes' | 'enum' | 'message' | 'map';

/** Number, name, kind, 1 if repeated, table of the message or 0, name of the oneof. */
export type Row = readonly [number, string, Kind, (0 | 1)?, (Schema<object> | 0)?, string?];

/** The table of one message. */
export interface Schema<T extends object> {
  readonly rows: readonly Row[];
  readonly byNumber: ReadonlyMap<number, Row>;
  /** Never there; ties the table to its type. */
  readonly type?: T;
}

/** What may be left out when a message is made: everything. A message may also be given as its encoding. */
export type Init<T> = T extends Uint8Array
  ? T
  : T extends { case: infer C; value: infer V }
    ? { case: C; value: Init<V> }
    : T extends readonly (infer U)[]
      ? readonly Init<U>[]
      : T extends object
        ? { readonly [K in keyof T]?: Init<T[K]> | (NonNullable<T[K]> extends object ? Uint8Array : never) | undefined }
        : T;

/** The bytes are not what they should be. */
export class WireError extends Error {}

type Bag = Record<string, unknown>;
type OneOf = { case: string; value: unknown };

/** Makes a table; called by generated code. */
export function schema<T extends object>(rows: readonly Row[]): Schema<T> {
  return { rows, byNumber: new Map(rows.map((row) => [row[0], row])) };
}

const DEFAULTS: Record<Kind, unknown> = {
  u32: 0,
  u64: 0,
  enum: 0,
  bool: false,
  string: '',
  bytes: new Uint8Array(),
  message: undefined,
  map: undefined,
};

/** Encodes a message. Fields that hold their default are left out, but not in a oneof. */
export function encode<T extends object>(type: Schema<T>, init: Init<T>): Uint8Array {
  const writer = new BinaryWriter();
  write(writer, type, init as Bag);
  return writer.finish();
}

function write(writer: BinaryWriter, type: Schema<object>, from: Bag): void {
  for (const [number, name, kind, repeated, message, oneof] of type.rows) {
    if (oneof) {
      const chosen = from[oneof] as OneOf | undefined;
      if (chosen?.case === name) writeOne(writer, number, kind, message, chosen.value);
      continue;
    }
    const value = from[name];
    if (value === undefined) continue;
    if (kind === 'map') {
      for (const [key, text] of Object.entries(value as Record<string, string>)) {
        writer.tag(number, WireType.LengthDelimited).fork();
        writer.tag(1, WireType.LengthDelimited).string(key).tag(2, WireType.LengthDelimited).string(text).join();
      }
    } else if (repeated) {
      const list = value as readonly unknown[];
      if (kind === 'enum') {
        if (list.length === 0) continue;
        writer.tag(number, WireType.LengthDelimited).fork();
        for (const each of list) writer.int32(each as number);
        writer.join();
      } else {
        for (const each of list) writeOne(writer, number, kind, message, each);
      }
    } else if (value !== DEFAULTS[kind] && !(value instanceof Uint8Array && kind === 'bytes' && value.length === 0)) {
      writeOne(writer, number, kind, message, value);
    }
  }
}

function writeOne(writer: BinaryWriter, number: number, kind: Kind, message: Schema<object> | 0 | undefined, value: unknown): void {
  const varint = kind === 'u32' || kind === 'u64' || kind === 'bool' || kind === 'enum';
  writer.tag(number, varint ? WireType.Varint : WireType.LengthDelimited);
  if (kind === 'u32') writer.uint32(value as number);
  else if (kind === 'u64') writer.uint64(safe(value as number));
  else if (kind === 'bool') writer.bool(value as boolean);
  else if (kind === 'enum') writer.int32(value as number);
  else if (kind === 'string') writer.string(value as string);
  else if (value instanceof Uint8Array) writer.bytes(value);
  else {
    writer.fork();
    write(writer, message as Schema<object>, value as Bag);
    writer.join();
  }
}

/** Decodes a message; throws {@link WireError} if the bytes are not one. */
export function decode<T extends object>(type: Schema<T>, bytes: Uint8Array): T {
  try {
    const reader = new BinaryReader(bytes);
    return read(reader, type, reader.len, blank(type)) as T;
  } catch (error) {
    throw error instanceof WireError ? error : new WireError(String(error));
  }
}

function blank(type: Schema<object>): Bag {
  const into: Bag = {};
  for (const [, name, kind, repeated, , oneof] of type.rows) {
    if (oneof) continue;
    // A map without prototype: the sender chooses the keys.
    if (kind === 'map') into[name] = Object.create(null);
    else if (repeated) into[name] = [];
    else if (kind !== 'message') into[name] = DEFAULTS[kind];
  }
  return into;
}

function read(reader: BinaryReader, type: Schema<object>, end: number, into: Bag): Bag {
  while (reader.pos < end) {
    const [number, wire] = reader.tag();
    const row = type.byNumber.get(number);
    if (!row || !readField(reader, row, wire, into)) reader.skip(wire, number);
  }
  if (reader.pos !== end) throw new WireError('a message ends inside a field');
  return into;
}

/** Reads a field; false, with nothing read, if its wire type is not the one of its kind. */
function readField(reader: BinaryReader, [, name, kind, repeated, message, oneof]: Row, wire: WireType, into: Bag): boolean {
  const varint = kind === 'u32' || kind === 'u64' || kind === 'bool' || kind === 'enum';
  if (varint && repeated && wire === WireType.LengthDelimited) {
    const end = endOf(reader);
    while (reader.pos < end) (into[name] as unknown[]).push(readScalar(reader, kind));
    return true;
  }
  if (wire !== (varint ? WireType.Varint : WireType.LengthDelimited)) return false;
  if (kind === 'map') {
    const entry = read(reader, ENTRY, endOf(reader), blank(ENTRY));
    (into[name] as Record<string, unknown>)[entry['key'] as string] = entry['value'];
    return true;
  }
  const former = oneof ? (into[oneof] as OneOf | undefined) : undefined;
  let value: unknown;
  if (kind === 'message') {
    // A message that comes in pieces is merged.
    const present = repeated ? undefined : oneof ? (former?.case === name ? former.value : undefined) : into[name];
    const end = endOf(reader);
    value = read(reader, message as Schema<object>, end, (present as Bag) ?? blank(message as Schema<object>));
  } else {
    value = readScalar(reader, kind);
  }
  if (oneof) into[oneof] = { case: name, value };
  else if (repeated) (into[name] as unknown[]).push(value);
  else into[name] = value;
  return true;
}

function readScalar(reader: BinaryReader, kind: Kind): unknown {
  if (kind === 'u32') return reader.uint32();
  if (kind === 'u64') return safe(Number(reader.uint64()));
  if (kind === 'bool') return reader.bool();
  if (kind === 'enum') return reader.int32();
  return kind === 'string' ? reader.string(true) : reader.bytes();
}

function endOf(reader: BinaryReader): number {
  const length = reader.uint32();
  const end = reader.pos + length;
  if (end > reader.len) throw new WireError('a field ends beyond its message');
  return end;
}

function safe(value: number): number {
  if (!Number.isSafeInteger(value) || value < 0) throw new WireError('a number is not below 2^53');
  return value;
}

const ENTRY: Schema<object> = schema([
  [1, 'key', 'string'],
  [2, 'value', 'string'],
]);

/** The name of an enum's value in lower case with hyphens; `unknown` for one of a later version. */
export function nameOf(names: Readonly<Record<string, number | string>>, value: number): string {
  const found = Object.keys(names).find((name) => names[name] === value);
  return found ? found.toLowerCase().replaceAll('_', '-') : 'unknown';
}
