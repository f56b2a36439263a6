/**
 * One direction of a simulated connection. A pipe is what a WebSocket is: one order for all. Streams are what WebTransport
 * is: an ordered stream for control and for each lane, a stream for each urgent message of a node, and datagrams that may
 * be lost, doubled and overtaken. Latency is drawn per packet, and inside a stream nothing overtakes.
 */
import { URGENT_WINDOW } from '../../src/core/window.js';

/** What a connection is made of. */
export type Kind = 'pipe' | 'streams';

/** Latency of a packet on a stream, ms. */
const LATENCY_MS = [5, 200] as const;
/** Of 100 datagrams so many are lost, and so many doubled. */
const LOST = 10;
const DOUBLED = 10;

/** One direction of a connection with streams: says when what is sent now arrives. */
export class Way {
  /** When the last packet of each ordered stream arrives. */
  private streams = new Map<string, number>();
  /** When the newest urgent messages arrive, and the latest of those before them (LC-QUIC-004). */
  private urgent: number[] = [];
  private floor = 0;
  private handle = 0;

  /** `below` draws a whole number below its limit. */
  constructor(private readonly below: (limit: number) => number) {}

  private latency(): number {
    return LATENCY_MS[0] + this.below(LATENCY_MS[1] - LATENCY_MS[0] + 1);
  }

  /** On an ordered stream. */
  ordered(now: number, stream: string): number {
    const at = Math.max(now + this.latency(), this.streams.get(stream) ?? 0);
    this.streams.set(stream, at);
    return at;
  }

  /** On a stream of its own. */
  message(now: number, handle: number): number {
    if (handle !== this.handle) {
      // Nothing of a later epoch is sent before all of the earlier ones is there (LC-QUIC-007).
      this.floor = Math.max(this.floor, ...this.urgent);
      this.handle = handle;
    }
    if (this.urgent.length === URGENT_WINDOW) this.floor = Math.max(this.floor, this.urgent.shift() as number);
    const at = Math.max(now, this.floor) + this.latency();
    this.urgent.push(at);
    return at;
  }

  /** As a datagram: not at all, once, or twice. */
  datagram(now: number): number[] {
    const drawn = this.below(100);
    if (drawn < LOST) return [];
    return drawn < LOST + DOUBLED ? [now + this.latency(), now + this.latency()] : [now + this.latency()];
  }
}
