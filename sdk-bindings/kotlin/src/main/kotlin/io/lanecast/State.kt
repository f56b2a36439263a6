package io.lanecast

/**
 * Why something ended.
 *
 * @property code number of the protocol's table, also one that this version does not know; null: no node gave one
 * @property detail for developers; never to be parsed
 */
public data class Cause(public val code: Int?, public val detail: String) {
    /** The row of the table; [Code.UNKNOWN] where this version does not know the number, null where there is none. */
    public val knownCode: Code? get() = code?.let(Code::of)
}

/**
 * How a client stands.
 *
 * ```text
 *  Idle ──▶ Connecting ──▶ Connected
 *              ▲   │           │
 *              │   ▼           ▼
 *             Suspended ◀──────┘       Closed: from each of them, for good
 * ```
 */
public sealed interface ClientState {
    /** Not started. */
    public data object Idle : ClientState

    /** Opening a connection. */
    public data object Connecting : ClientState

    /** Welcomed by a node. */
    public data object Connected : ClientState

    /** Without a connection; the next attempt comes by itself. */
    public data class Suspended(public val cause: Cause) : ClientState

    /** Over for good: closed by the application, or with a code that forbids to come back. */
    public data class Closed(public val cause: Cause) : ClientState

    /** One that this version does not know. */
    public data object Unknown : ClientState
}

/** How a subscription stands. */
public sealed interface RoomState {
    /** Asked for and not answered, or without a connection. */
    public data object Subscribing : RoomState

    /**
     * Subscribed; events from before are still coming.
     *
     * @property recovered whether it goes on where it was and no durable event is missing
     */
    public data class CatchingUp(public val recovered: Boolean) : RoomState

    /**
     * Subscribed, and everything up to the head at that time has come.
     *
     * @property recovered whether it went on where it was and no durable event is missing
     */
    public data class Live(public val recovered: Boolean) : RoomState

    /** Subscribed, but the node cannot reach the room's log at present: durable events follow once it can. */
    public data object Degraded : RoomState

    /** Over. Without a cause: ended by the application. */
    public data class Ended(public val cause: Cause?) : RoomState

    /** One that this version does not know. */
    public data object Unknown : RoomState
}
