package io.lanecast

import io.lanecast.ffi.Delivery
import io.lanecast.ffi.Publication
import kotlin.time.Duration
import io.lanecast.ffi.Receipt as FfiReceipt

/**
 * Where a published event stands.
 *
 * @property epoch the life of the room's log in which the numbers count; 0: transient
 * @property lane the lane in which it travels
 * @property seq number within room and lane; 0: transient, or a duplicate whose numbers the log no longer knows
 * @property order number within the room across lanes; 0 as above
 * @property duplicate it was stored before, by a sending whose answer was lost
 */
public data class Published(
    public val epoch: Long,
    public val lane: Lane,
    public val seq: Long,
    public val order: Long,
    public val duplicate: Boolean,
)

/** How to publish: the receiver of the block of [Room.publish] and [Room.send]. */
@LanecastDsl
public class PublishOptions internal constructor() {
    /** The lane: urgent overtakes normal, normal overtakes bulk, in every queue up to the subscriber. */
    public var lane: Lane = Lane.NORMAL

    /** A key of the application's choice, at most 256 bytes; empty: none. */
    public var key: String = ""

    /** MIME type of the payload; empty: text/plain for text, application/octet-stream for bytes. */
    public var contentType: String = ""

    /** Headers, at most 32; `traceparent` and `tracestate` carry the trace context. */
    public var headers: Map<String, String> = emptyMap()

    /**
     * Not to be delivered later than this after the call, nor kept in the outbox for longer; at most 49 days. Null: no
     * limit.
     */
    public var ttl: Duration? = null

    /**
     * How long it may wait for its node in the outbox, instead of [ClientConfig.outboxTtl]. After that it is given up.
     */
    public var outboxTtl: Duration? = null

    /** Not stored: reaches who is subscribed now, and is sent now or not at all. */
    public var transient: Boolean = false

    /**
     * Counts as stored only when a replica of the log has it too. A node that cannot tell refuses it with
     * [Code.UNIMPLEMENTED]. Transient events have no such level.
     */
    public var replicated: Boolean = false

    internal fun publication(type: String, body: Body) = Publication(
        type = type,
        body = body.lower(),
        lane = lane.lower(),
        delivery = when {
            transient -> Delivery.TRANSIENT
            replicated -> Delivery.REPLICATED
            else -> Delivery.STORED
        },
        key = key,
        headers = headers,
        contentType = contentType,
        ttlMs = ttl?.lower(),
        outboxTtlMs = outboxTtl?.lower(),
    )
}

/** The answer to a publish, to come: from [Room.send]. Dropping it takes nothing back. */
public class Receipt internal constructor(private val core: FfiReceipt) : AutoCloseable {
    /**
     * Waits until the node has stored the event; of a transient one: passed it on. May be called again, with the same
     * result. Cancelling takes nothing back.
     *
     * @throws LanecastException [OutboxFull][LanecastException.OutboxFull],
     *   [NotConnected][LanecastException.NotConnected], [TooMany][LanecastException.TooMany],
     *   [Refused][LanecastException.Refused], [GivenUp][LanecastException.GivenUp] or
     *   [Closed][LanecastException.Closed]
     */
    public suspend fun stored(): Published = lifting { core.stored(null) }.lift()

    /** Gives its memory back now, instead of when the garbage collector finds it. Takes nothing back. */
    override fun close() {
        core.destroy()
    }
}
