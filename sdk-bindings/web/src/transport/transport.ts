/**
 * The seam between the client and what carries its bytes. A further transport is a file beside this one, a name here,
 * and a way in `dialer.ts`.
 */
import type { Session } from '../core/session.js';

/** A transport by its name. */
export type TransportName = 'websocket' | 'webtransport';

/** Does something with the session, and sends what it led to. What comes late, after the connection ended, is dropped. */
export type Run = (input: (session: Session, now: number) => void) => void;

/**
 * One open connection. It hands what comes to the session, and its end as `lost`; after that, or after `close`, it says
 * nothing more.
 */
export interface Transport {
  readonly name: TransportName;
  /** Whether it keeps the order of lane urgent, and that between lanes. */
  readonly ordered: boolean;
  /** Begins to hand over what comes. It also runs an empty input when it can take more than at the last `flush`. */
  start(run: Run): void;
  /** Sends what the session has, as much as the transport takes now: our queues can reorder, those below cannot. */
  flush(session: Session, now: number): void;
  /** Ends the connection with a code of the table. */
  close(code: number): void;
}
