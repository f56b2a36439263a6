/**
 * Lanecast for browsers and Node.
 *
 * It promises: every durable event of a room once and in the order of its lane, or a gap that says which are missing;
 * publishes that are stored once, in order, over lost connections; state that says only what was checked. It refuses
 * to hide a gap, to grow without bounds, and to guess a priority: the lane is chosen at publish time.
 */
export { Client, connect, type ClientOptions } from './client.js';
export type { EventItem, GapItem, Item } from './core/inbox.js';
export type { OutboxLimits, Receipt } from './core/outbox.js';
export { LANES, type LaneName, parsePosition, type Position, positionText } from './core/position.js';
export type { RoomState, RoomStats } from './core/room.js';
export type { Page } from './core/history.js';
export type { ClientState } from './core/session.js';
export type { SignalItem } from './core/signals.js';
export type { GapCauseName } from './core/tracker.js';
export { CODES as Code, LanecastError, type LocalName } from './errors.js';
export type { TransportChoice } from './transport/dialer.js';
export type { TransportName } from './transport/transport.js';
export type { SocketConstructor, SocketLike } from './transport/websocket.js';
export type { WebTransportConstructor, WebTransportLike } from './transport/webtransport.js';
export type { Action } from './gen/codes.js';
export type { Cursor } from './gen/wire.js';
export {
  type Codec,
  type Focus,
  type From,
  type HistoryQuery,
  json,
  type Message,
  type PublishMessage,
  Room,
  type SignalMessage,
  type SubscribeOptions,
  Subscription,
  type TypedEvent,
  type TypedRoom,
} from './room.js';
