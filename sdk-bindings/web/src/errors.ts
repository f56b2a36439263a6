/** Errors: one class, filled from the table of codes that all parts of Lanecast share. */
import { type Action, Code, EXCEPTIONS, RANGES } from './gen/codes.js';

/** Names of errors that arise in this library and never on the wire; their code is 0. */
export type LocalName =
  | 'ABORTED'
  | 'CLOSED'
  | 'CONNECTION_LOST'
  | 'EXPIRED'
  | 'OFFLINE'
  | 'OUTBOX_FULL'
  | 'TIMEOUT'
  | 'TOKEN_PROVIDER'
  | 'USAGE';

/** Those after which the same may succeed. */
const PASSING = 'CONNECTION_LOST OFFLINE OUTBOX_FULL TIMEOUT';

/** What may come of an error. */
export interface ErrorInfo {
  room?: string;
  retryAfterMs?: number;
  cause?: unknown;
}

/**
 * Something was refused, or the connection ended. `name` and `code` are of the table of codes, or `code` is 0 and
 * `name` a {@link LocalName}. `detail` is for developers: never parse it, never show it to users.
 */
export class LanecastError extends Error {
  readonly code: number;
  readonly detail: string;
  /** What to do about it. */
  readonly action: Action;
  /** Whether the same may succeed later. */
  readonly retryable: boolean;
  /** When to try again, ms; 0: not said. */
  readonly retryAfterMs: number;
  /** The room that it is about, if any. */
  readonly room: string;

  constructor(code: number, name: string, detail: string, action: Action, info: ErrorInfo = {}) {
    super(`${name}${code ? ` (${code})` : ''}: ${detail}`, info);
    this.name = name;
    this.code = code;
    this.detail = detail;
    this.action = action;
    this.retryable = action.startsWith('retry');
    this.retryAfterMs = info.retryAfterMs ?? 0;
    this.room = info.room ?? '';
  }

  /** An error of the table; a number that this version does not know acts by its range. */
  static of(code: number, detail = '', info: ErrorInfo = {}): LanecastError {
    const [usual, names] = RANGES[Math.floor(code / 100)] ?? ['retry', ''];
    const name = names.split(' ')[code % 100] || (Math.floor(code / 1000) === 4 ? `CODE_${code}` : 'CONNECTION_LOST');
    return new LanecastError(code, name, detail || `code ${code}`, EXCEPTIONS[code] ?? usual, info);
  }

  /** An error of this library. */
  static local(name: LocalName, detail: string, info: ErrorInfo = {}): LanecastError {
    return new LanecastError(0, name, detail, PASSING.includes(name) ? 'retry' : 'stop', info);
  }
}

/** What something that was thrown says. */
export const reasonOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** The codes by name. Made of the names that errors have, which weigh less than the enum with its numbers. */
const CODES = /* @__PURE__ */ Object.fromEntries(
  /* @__PURE__ */ Object.entries(RANGES).flatMap(([range, [, names]]) => names.split(' ').map((name, at) => [name, +range * 100 + at])),
) as Readonly<Record<keyof typeof Code, number>>;

export { Code, CODES };
