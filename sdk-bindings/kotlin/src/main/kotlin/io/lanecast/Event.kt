package io.lanecast

import kotlin.time.Instant

/** What a room hands over: an [Event], or a [Gap] in the place of events that will not come. */
public sealed interface RoomItem {
    /** The room. */
    public val room: String
}

/**
 * An event.
 *
 * @property lane the lane in which it travelled, and in which [seq] counts
 * @property epoch the life of the room's log in which [seq] and [order] count
 * @property seq number within room and lane, contiguous from 1; 0: transient
 * @property order number within the room across lanes, contiguous from 1, for sorting; 0: transient
 * @property from who sent it
 * @property time when the node received it, by the node's clock
 * @property expiresAt when it stops being worth anything, by the node's clock; null: never
 * @property type chosen by the publisher, at most 128 bytes; those that begin with `$` are the system's own
 * @property key chosen by the publisher, at most 256 bytes; empty: none
 * @property contentType MIME type of the payload; empty: text/plain for text, application/octet-stream for bytes
 * @property headers headers of the publisher, at most 32
 * @property body the payload
 */
public class Event(
    override val room: String,
    public val lane: Lane,
    public val epoch: Long,
    public val seq: Long,
    public val order: Long,
    public val from: Sender,
    public val time: Instant,
    public val type: String,
    public val body: Body,
    public val key: String = "",
    public val contentType: String = "",
    public val headers: Map<String, String> = emptyMap(),
    public val expiresAt: Instant? = null,
) : RoomItem {
    /** Whether it is stored in the room's log. */
    public val isDurable: Boolean get() = seq != 0L

    /** The payload as text; null if it is bytes that are not UTF-8. */
    public val text: String? get() = body.text

    /** The payload as bytes, whichever it is. */
    public val bytes: ByteArray get() = body.bytes

    /** For logs; without the payload, which may be a secret. */
    override fun toString(): String = "Event($room ${lane.name} seq=$seq order=$order type=$type from=$from)"
}

/**
 * Who sent an event or a signal: said by the node, never by the sender.
 *
 * @property user the user; empty for a service
 * @property service the service that published over HTTP; empty for a user
 * @property instance the instance of the client; empty for a service
 */
public data class Sender(
    public val user: String,
    public val service: String = "",
    public val instance: String = "",
) {
    /** The user, or the service. */
    override fun toString(): String = user.ifEmpty { service }
}

/** A payload. */
public sealed class Body {
    /** The payload as bytes, whichever it is. Bytes are not copied: do not change them. */
    public abstract val bytes: ByteArray

    /** The payload as text; null if it is bytes that are not UTF-8. */
    public abstract val text: String?

    /** Text. */
    public class Text(override val text: String) : Body() {
        override val bytes: ByteArray get() = text.encodeToByteArray()
    }

    /** Bytes. */
    public class Bytes(override val bytes: ByteArray) : Body() {
        override val text: String?
            get() = try {
                bytes.decodeToString(throwOnInvalidSequence = true)
            } catch (_: CharacterCodingException) {
                null
            }
    }

    /** Whether [other] is of the same kind with the same bytes. */
    override fun equals(other: Any?): Boolean =
        other is Body && other is Text == this is Text && bytes.contentEquals(other.bytes)

    override fun hashCode(): Int = bytes.contentHashCode()
}

/**
 * Events that will not come. The only way past a seq that is not an [Event].
 *
 * Of cause [GapCause.ROLLED_BACK] it also revokes: seqs in its range that were delivered are no longer in the log.
 *
 * @property missing what is missing
 * @property cause why
 * @property refillable whether [Room.history] may still have them
 */
public data class Gap(
    override val room: String,
    public val missing: Missing,
    public val cause: GapCause,
    public val refillable: Boolean = false,
) : RoomItem, TypedItem<Nothing> {
    /** The lane, where one is known. */
    public val lane: Lane? get() = when (missing) {
        is Missing.Seqs -> missing.lane
        is Missing.Transients -> missing.lane
    }

    /** How many events are missing; null: an unknown number. */
    public val count: Long? get() = when (missing) {
        is Missing.Seqs -> missing.to?.let { it + 1 - missing.from }
        is Missing.Transients -> missing.count
    }

    /** One sentence for developers. */
    override fun toString(): String = when (missing) {
        is Missing.Seqs -> missing.run { "${lane.name.lowercase()} $from to ${to ?: "the end"} ${cause.words}" }
        is Missing.Transients -> "${missing.count ?: "some"} transient events ${cause.words}"
    }

    private val GapCause.words: String get() = name.lowercase().replace('_', ' ')
}

/** What is missing. */
public sealed interface Missing {
    /**
     * The durable events with these seqs.
     *
     * @property lane their lane
     * @property epoch the epoch in which the seqs count
     * @property from the first
     * @property to the last; null: no upper end, the log does not know the epoch any more
     */
    public data class Seqs(
        public val lane: Lane,
        public val epoch: Long,
        public val from: Long,
        public val to: Long?,
    ) : Missing

    /**
     * Transient events.
     *
     * @property lane their lane; null: any of them
     * @property count how many; null: an unknown number
     */
    public data class Transients(public val lane: Lane?, public val count: Long?) : Missing
}
