/** Places in a room's log: per lane and across lanes, with their text forms. */
import { Lane } from '../gen/wire.js';

/** A lane that an application can choose, highest first. */
export const LANES = ['urgent', 'normal', 'bulk'] as const;
/** A lane that an application can choose. */
export type LaneName = (typeof LANES)[number];

/** The lanes of what a client sends, highest first. */
export const OUT_LANES = ['control', 'urgent', 'normal', 'signal', 'bulk'] as const;
/** A lane of what a client sends. */
export type OutLane = (typeof OUT_LANES)[number];

const NUMBERS: Record<OutLane, number> = {
  ...{ control: Lane.CONTROL, urgent: Lane.URGENT, normal: Lane.NORMAL, bulk: Lane.BULK, signal: Lane.SIGNAL },
};

/** The number of a lane on the wire. */
export const laneNumber = (lane: OutLane): number => NUMBERS[lane];

/** The lane with that number; undefined for control, signal and lanes of a later version. */
export const laneOf = (number: number): LaneName | undefined => LANES.find((lane) => NUMBERS[lane] === number);

/** One value for each lane. */
export type PerLane<T> = Record<LaneName, T>;

/** Makes the value of each lane. */
export function perLane<T>(make: (lane: LaneName) => T): PerLane<T> {
  return { urgent: make('urgent'), normal: make('normal'), bulk: make('bulk') };
}

/** The epoch of a room's log and, for each lane, the seq up to which everything was handled (law 2). */
export interface Position extends PerLane<number> {
  epoch: number;
}

/** `epoch-urgent-normal-bulk`. */
export const positionText = (at: Position): string => `${at.epoch}-${at.urgent}-${at.normal}-${at.bulk}`;

/** Parses the text form; for every position there is exactly one text. Throws `RangeError` on any other. */
export function parsePosition(text: string): Position {
  const parts = text.split('-');
  const [epoch = 0, urgent = 0, normal = 0, bulk = 0] = parts.map((part) => {
    const number = /^(0|[1-9]\d{0,15})$/.test(part) ? Number(part) : NaN;
    if (!Number.isSafeInteger(number)) throw new RangeError(`not a position: ${text}`);
    return number;
  });
  if (parts.length !== 4) throw new RangeError(`not a position: ${text}`);
  return { epoch, urgent, normal, bulk };
}
