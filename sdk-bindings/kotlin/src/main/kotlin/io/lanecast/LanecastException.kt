package io.lanecast

import kotlin.time.Duration

/**
 * Why a call failed: one class for each thing that can be the matter, so that a `when` on it stays complete.
 */
public sealed class LanecastException private constructor(private val sentence: String, fault: Fault) : Exception() {
    /** Number of the protocol's table, also one that this version does not know; null: no node was involved. */
    public val code: Int? = fault.code

    /** One sentence for developers, never to be parsed; may be empty. */
    public val detail: String = fault.detail

    /** Whether the same call may succeed later. */
    public val retryable: Boolean = fault.retryable

    /** After what time the node said that it may be asked again; null: it said nothing. */
    public val retryAfter: Duration? = fault.retryAfter

    /** The row of the table; [Code.UNKNOWN] where this version does not know the number, null where there is none. */
    public val knownCode: Code? get() = code?.let(Code::of)

    /** What failed, the code and the detail. */
    override val message: String
        get() {
            val name = code?.let { " [${knownCode?.name} ($it)]" }.orEmpty()
            return if (detail.isEmpty()) sentence + name else "$sentence$name: $detail"
        }

    /** Something that was given cannot be used: a room name, a type, a key, a position. */
    public class Invalid internal constructor(fault: Fault) :
        LanecastException("this cannot be asked for", fault)

    /** The address, or that of the proxy, is none that can be used. */
    public class BadUrl internal constructor(fault: Fault) :
        LanecastException("the address cannot be used", fault)

    /** The scheme needs a feature with which the native library was not built. */
    public class UnsupportedScheme internal constructor(fault: Fault) :
        LanecastException("the scheme is not served by this build", fault)

    /** The certificates to believe cannot be used: an extra root is none, or the system has no roots. */
    public class Certificates internal constructor(fault: Fault) :
        LanecastException("the certificates cannot be used", fault)

    /** The client cannot run here: the system gives no threads, or no randomness. */
    public class NoRuntime internal constructor(fault: Fault) :
        LanecastException("the client cannot run here", fault)

    /** The native library is missing, cannot be loaded, or is of another version than these classes. */
    public class Library internal constructor(detail: String) :
        LanecastException("the native library cannot be used", Fault(detail = detail))

    /**
     * The client is closed; [code] says why where a node did it. A publish that was sent before may be stored all the
     * same; one that is in an outbox file is sent when that is opened again.
     */
    public class Closed internal constructor(fault: Fault) :
        LanecastException("the client is closed", fault)

    /** Another client, in this process or another, has the outbox file open. */
    public class OutboxLocked internal constructor(fault: Fault) :
        LanecastException("the outbox file is in use", fault)

    /**
     * The outbox file was damaged. It was repaired, and the damaged one was kept beside it: connecting again goes on
     * with every publish that is intact. [detail] says where the damage begins and what is left.
     */
    public class OutboxDamaged internal constructor(fault: Fault) :
        LanecastException("the outbox file was damaged", fault)

    /** The outbox file is of a format that this version does not know. It was not touched. */
    public class OutboxVersion internal constructor(fault: Fault) :
        LanecastException("the outbox file is of another version", fault)

    /** The outbox file cannot be read or written, or is no outbox. */
    public class OutboxFile internal constructor(fault: Fault) :
        LanecastException("the outbox file cannot be used", fault)

    /** Another client, in this process or another, has the file of positions open. */
    public class PositionsLocked internal constructor(fault: Fault) :
        LanecastException("the file of positions is in use", fault)

    /**
     * The file of positions was damaged. It was repaired, and the damaged one was kept beside it: connecting again goes
     * on with every position that is intact. [detail] says where the damage begins and what is left.
     */
    public class PositionsDamaged internal constructor(fault: Fault) :
        LanecastException("the file of positions was damaged", fault)

    /** The file of positions is of a format that this version does not know. It was not touched. */
    public class PositionsVersion internal constructor(fault: Fault) :
        LanecastException("the file of positions is of another version", fault)

    /** The file of positions cannot be read or written, or is none. */
    public class PositionsFile internal constructor(fault: Fault) :
        LanecastException("the file of positions cannot be used", fault)

    /** The outbox is full: wait for earlier publishes, or drop something. Nothing that it holds was dropped. */
    public class OutboxFull internal constructor(fault: Fault) :
        LanecastException("the outbox is full", fault)

    /** The outbox file could not be written. The event is not queued. */
    public class NotKept internal constructor(fault: Fault) :
        LanecastException("the outbox file could not be written", fault)

    /** A transient event found no connection. */
    public class NotConnected internal constructor(fault: Fault) :
        LanecastException("not connected", fault)

    /** Too many calls of this kind wait for their answer. */
    public class TooMany internal constructor(fault: Fault) :
        LanecastException("too many requests are waiting", fault)

    /** The node refused, or ended the subscription; [code] says why. */
    public class Refused internal constructor(fault: Fault) :
        LanecastException("the node refused", fault)

    /** An event's time in the outbox ran out. If it was sent before, it may be stored all the same. */
    public class GivenUp internal constructor(fault: Fault) :
        LanecastException("the event waited too long", fault)

    /** This client has a subscription of the room, and a room's events go to one reader. */
    public class AlreadySubscribed internal constructor(fault: Fault) :
        LanecastException("the room is subscribed already", fault)

    /** More rooms than a client may have. */
    public class TooManyRooms internal constructor(fault: Fault) :
        LanecastException("too many rooms", fault)

    /** A fault of this SDK. [detail] helps whoever mends it. */
    public class Internal internal constructor(fault: Fault) :
        LanecastException("a fault of the SDK", fault)
}

/** What the native library says of a failure. */
internal class Fault(
    val code: Int? = null,
    val detail: String = "",
    val retryable: Boolean = false,
    val retryAfter: Duration? = null,
)
