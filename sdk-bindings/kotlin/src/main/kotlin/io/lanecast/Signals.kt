package io.lanecast

import io.lanecast.ffi.SignalToSend
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.flow
import kotlin.time.Duration
import kotlin.time.Instant

/** How to send a signal: the receiver of the block of [Room.signal]. */
@LanecastDsl
public class SignalOptions internal constructor() {
    /** How long it lives if nothing newer comes; null: 10 s. */
    public var ttl: Duration? = null

    /** MIME type of the payload; empty: text/plain for text, application/octet-stream for bytes. */
    public var contentType: String = ""

    internal fun signal(type: String, key: String, body: Body) =
        SignalToSend(type, key, body.lower(), contentType, ttl?.lower())
}

/** A change of a room's signals. */
public sealed interface SignalChange {
    /** Who sent it. */
    public val from: Sender

    /** Its type. */
    public val type: String

    /** Its key: with sender and type, what the newest one replaces. */
    public val key: String

    /**
     * A signal is new, or has a new value.
     *
     * @property body the payload
     * @property contentType MIME type of the payload; empty: text/plain for text, application/octet-stream for bytes
     * @property expiresAt when it dies, by the node's clock
     */
    public data class Live(
        override val from: Sender,
        override val type: String,
        override val key: String,
        public val body: Body,
        public val contentType: String,
        public val expiresAt: Instant,
    ) : SignalChange {
        /** The payload as text; null if it is bytes that are not UTF-8. */
        public val text: String? get() = body.text
    }

    /**
     * A signal is gone.
     *
     * @property expired true: its time ran out; false: its sender took it back
     */
    public data class Gone(
        override val from: Sender,
        override val type: String,
        override val key: String,
        public val expired: Boolean,
    ) : SignalChange
}

internal fun signalsOf(room: Room): Flow<SignalChange> = flow {
    val signals = room.client.onRoom(room.name) { it.signals(null) }
    try {
        var number = 0uL
        while (true) {
            val batch = lifting { signals.nextBatch(number, BATCH_MAX.toUInt(), null) }
            if (batch.changes.isEmpty()) break
            number = batch.number
            batch.changes.forEach { emit(it.lift()) }
        }
    } finally {
        signals.cancel()
        signals.destroy()
    }
}
