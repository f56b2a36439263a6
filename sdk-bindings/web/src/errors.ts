/** Errors: one class, filled from the table of codes that all parts of Lanecast share. */
import { type Action, Code, RUNS } from './gen/codes.js';

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
    super(`${name}${code ? ` (${code})` : ''}: ${detail}`, info.cause === undefined ? undefined : { cause: info.cause });
    this.name = name;
    this.code = code;
    this.detail = detail;
    this.action = action;
    this.retryable = action === 'retry' || action === 'retry-after';
    this.retryAfterMs = info.retryAfterMs ?? 0;
    this.room = info.room ?? '';
  }

  /** An error of the table; a number that this version does not know acts by its range. */
  static of(code: number, detail = '', info: ErrorInfo = {}): LanecastError {
    const name = row(code)?.[1] ?? (code >= 4000 && code <= 4999 ? `CODE_${code}` : 'CONNECTION_LOST');
    return new LanecastError(code, name, detail || `code ${code}`, actionOf(code), info);
  }

  /** An error of this library. */
  static local(name: LocalName, detail: string, info: ErrorInfo = {}): LanecastError {
    const again = name === 'CONNECTION_LOST' || name === 'OFFLINE' || name === 'OUTBOX_FULL' || name === 'TIMEOUT';
    return new LanecastError(0, name, detail, again ? 'retry' : 'stop', info);
  }
}

/** What to do about a code, also one that this version does not know: the range decides. */
export function actionOf(code: number): Action {
  const known = row(code);
  if (known) return known[0];
  const range = Math.floor(code / 100);
  if (range === 40 || range === 43) return 'stop';
  if (range === 41) return 'new-token';
  return range === 44 ? 'retry-after' : 'retry';
}

function row(code: number): [Action, string] | undefined {
  for (const [first, action, names] of RUNS) {
    const name = names.split(' ')[code - first];
    if (name) return [action, name];
  }
  return undefined;
}

export { Code };
