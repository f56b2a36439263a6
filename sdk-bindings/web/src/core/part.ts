/**
 * The seam between the session and the parts of the protocol that it carries: subscriptions, pages of history, fragments.
 * A part that few need is loaded when it is first used, so that the others do not pay for it.
 */
import type { LanecastError } from '../errors.js';
import type { Frame } from '../gen/wire.js';
import type { Init } from '../wire/codec.js';
import type { Body } from '../wire/packet.js';
import type { RoomCore } from './room.js';

/** What a part needs of the session. */
export interface Link {
  readonly connected: boolean;
  /** Why the client is closed. */
  readonly closed: LanecastError | undefined;
  /** Whether the transport keeps the order of lane urgent, and that between lanes. */
  readonly ordered: boolean;
  /** Node's clock minus the client's, ms. */
  readonly clockOffsetMs: number;
  readonly outbox: {
    /** Largest record of the node. */
    readonly recordBytesMax: number;
  };
  /** Sends a frame, if there is a connection; returns its id. */
  send(body: Init<Body>): number;
  /** Whether the node serves an optional part (LC-HS-020); true as long as nothing is known. */
  serves(capability: number): boolean;
  /** Takes a frame that a part made of others. */
  dispatch(now: number, frame: Frame, bytes: number): void;
  readonly host: {
    /** The state of a room changed, or it has something to read. */
    ready(room: RoomCore): void;
    diagnostic(error: Error): void;
  };
}

/** A part of the protocol. Inputs come from the session, in the order in which they happen. */
export interface Part {
  /** There is a connection. */
  welcomed?(now: number): void;
  /** It is gone. */
  disconnected?(): void;
  /** A frame came; false: it is not of this part. Throws `WireError` if the node may not send it. */
  take(now: number, frame: Frame, bytes: number): boolean;
  /** A request was refused; false: it is not of this part. */
  refused?(now: number, id: number, error: LanecastError): boolean;
  /** A deadline may have passed. */
  tick?(now: number): void;
  /** When to call `tick`. */
  deadlines?(): (number | undefined)[];
  /** The client is closed. */
  close?(error: LanecastError): void;
}
