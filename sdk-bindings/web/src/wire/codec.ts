/**
 * Encodes and decodes the messages whose tables `gen/wire.ts` holds.
 *
 * It promises what the protocol asks of a receiver: unknown fields and values are no errors (LC-FRM-003), and every
 * number is exact, since one that is not below 2^53 is refused (LC-FRM-020). It keeps no unknown fields: nothing that a
 * client decodes is encoded again.
 */
import { BinaryReader, BinaryWriter, WireType } from '@bufbuild/protobuf/wire';

/** The type of a field: a method of reader and writer, or what takes more than one. */
export type Kind = 'uint32' | 'uint64' | 'bool' | 'string' | 'bytes' | 'int32' | 'message' | 'map';

/** How tables write the types; an enum is an int32, and the table of a message is the next argument. */
const KINDS: Record<string, Kind> = {
  ...{ '+': 'uint32', '#': 'uint64', '?': 'bool', $: 'string', '&': 'bytes', '~': 'int32', '%': 'map', '': 'message' },
};

/** Number, name, type, whether it is repeated, table of the message, name of the oneof. */
export type Row = readonly [number, string, Kind, boolean, Schema<object> | undefined, string];

/** The table of one message. */
export interface Schema<T extends object> {
  readonly rows: readonly Row[];
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

/** The bytes are not what they should be; `code` is what the connection closes with, PROTOCOL unless told otherwise. */
export class WireError extends Error {
  declare readonly code?: number;
}

type Bag = Record<string, unknown>;
type OneOf = { case: string; value: unknown };

/**
 * Makes a table; called by generated code. Each word of `text` is a field: its number and a colon unless that is the one
 * after the former's, its name, `*` if it is repeated, its type. `|name` begins the fields of a oneof. A page loads the
 * tables, so they are short.
 */
export function schema<T extends object>(text: string, ...messages: Schema<object>[]): Schema<T> {
  let number = 0;
  let oneof = '';
  const rows: Row[] = [];
  for (const [, own, bar, name = '', star, sign = ''] of text.matchAll(/(\d+:)?(\|?)(\w+)(\*?)(\W?)(?: |$)/g)) {
    if (bar) {
      oneof = name;
      continue;
    }
    number = own ? parseInt(own) : number + 1;
    const kind = KINDS[sign] as Kind;
    rows.push([number, name, kind, star !== '', sign ? undefined : messages.shift(), oneof]);
  }
  return { rows };
}

const DEFAULTS: Partial<Record<Kind, unknown>> = { uint32: 0, uint64: 0, int32: 0, bool: false, string: '', bytes: new Uint8Array() };

/** How a field of a type is written. */
const wireOf = (kind: Kind) => (typeof (DEFAULTS[kind] ?? '') === 'string' || kind === 'bytes' ? WireType.LengthDelimited : WireType.Varint);

/** Encodes a message. Fields that hold their default are left out, but not in a oneof. */
export function encode<T extends object>(type: Schema<T>, init: Init<T>): Uint8Array {
  const writer = new BinaryWriter();
  write(writer, type, init as Bag);
  return writer.finish();
}

function write(writer: BinaryWriter, { rows }: Schema<object>, from: Bag): void {
  for (const [number, name, kind, repeated, message, oneof] of rows) {
    const chosen = from[oneof] as OneOf | undefined;
    const value = oneof ? (chosen?.case === name ? chosen.value : undefined) : from[name];
    if (value === undefined) continue;
    if (kind === 'map') {
      for (const [key, text] of Object.entries(value as Bag)) writeOne(writer, number, 'message', ENTRY, { key, value: text });
    } else if (repeated && kind === 'int32') {
      const list = value as number[];
      if (!list.length) continue;
      writer.tag(number, WireType.LengthDelimited).fork();
      for (const each of list) writer.int32(each);
      writer.join();
    } else if (repeated) {
      for (const each of value as unknown[]) writeOne(writer, number, kind, message, each);
    } else if (oneof || (kind === 'bytes' ? (value as Uint8Array).length : value)) {
      writeOne(writer, number, kind, message, value);
    }
  }
}

function writeOne(writer: BinaryWriter, number: number, kind: Kind, message: Schema<object> | undefined, value: unknown): void {
  writer.tag(number, wireOf(kind));
  if (kind !== 'message') scalars(writer)[kind](kind === 'uint64' ? safe(value as number) : value);
  else if (value instanceof Uint8Array) writer.bytes(value);
  else {
    writer.fork();
    write(writer, message as Schema<object>, value as Bag);
    writer.join();
  }
}

/** A reader or writer by its methods for single values. */
const scalars = (stream: BinaryReader | BinaryWriter) => stream as unknown as Record<Kind, (value: unknown) => unknown>;

/** Decodes a message; throws {@link WireError} if the bytes are not one. */
export function decode<T extends object>(type: Schema<T>, bytes: Uint8Array): T {
  try {
    const reader = new BinaryReader(bytes);
    return read(reader, type, reader.len, blank(type)) as T;
  } catch (error) {
    throw error instanceof WireError ? error : new WireError(String(error));
  }
}

function blank({ rows }: Schema<object>): Bag {
  const into: Bag = {};
  for (const [, name, kind, repeated, , oneof] of rows) {
    if (oneof) continue;
    // A map without prototype: the sender chooses the keys.
    if (kind === 'map') into[name] = Object.create(null);
    else if (repeated) into[name] = [];
    else if (kind !== 'message') into[name] = DEFAULTS[kind];
  }
  return into;
}

function read(reader: BinaryReader, { rows }: Schema<object>, end: number, into: Bag): Bag {
  while (reader.pos < end) {
    const [number, wire] = reader.tag();
    const row = rows.find(([each]) => each === number);
    if (!row || !readField(reader, row, wire, into)) reader.skip(wire, number);
  }
  if (reader.pos !== end) throw new WireError('a message ends inside a field');
  return into;
}

/** Reads a field; false, with nothing read, if its wire type is not the one of its kind. */
function readField(reader: BinaryReader, [, name, kind, repeated, message, oneof]: Row, wire: WireType, into: Bag): boolean {
  const own = wireOf(kind);
  const list = into[name] as unknown[];
  if (own !== wire) {
    if (!repeated || own || wire !== WireType.LengthDelimited) return false;
    for (const end = endOf(reader); reader.pos < end; ) list.push(readScalar(reader, kind));
    return true;
  }
  if (kind === 'map') {
    const { key, value } = read(reader, ENTRY, endOf(reader), blank(ENTRY));
    (into[name] as Bag)[key as string] = value;
    return true;
  }
  const former = into[oneof] as OneOf | undefined;
  let value: unknown;
  if (message) {
    // A message that comes in pieces is merged.
    const present = oneof ? former?.case === name && former.value : !repeated && into[name];
    value = read(reader, message, endOf(reader), (present || blank(message)) as Bag);
  } else {
    value = readScalar(reader, kind);
  }
  if (oneof) into[oneof] = { case: name, value };
  else if (repeated) list.push(value);
  else into[name] = value;
  return true;
}

function readScalar(reader: BinaryReader, kind: Kind): unknown {
  // A string must be UTF-8.
  const value = scalars(reader)[kind](true);
  return kind === 'uint64' ? safe(Number(value)) : value;
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

const ENTRY: Schema<{ key: string; value: string }> = schema('key$ value$');
