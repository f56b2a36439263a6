package io.lanecast

import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.sync.Mutex
import kotlin.time.Duration
import io.lanecast.ffi.Start as FfiStart
import io.lanecast.ffi.Subscription as FfiSubscription

/** Items that are asked for at a time unless told otherwise: enough to make a call's cost small, few enough to keep. */
internal const val BATCH_MAX: Int = 256

/**
 * Where to go on: behind everything that was handled.
 *
 * @property text its form `epoch-urgent-normal-bulk`, made to be stored
 */
@JvmInline
public value class Position(public val text: String) {
    override fun toString(): String = text
}

/** Where a subscription begins. After a reconnect it always goes on where it was. */
public sealed interface Start {
    /** Where the file of positions says ([ClientConfig.positionsFile]), and live where it says nothing. */
    public data object Stored : Start

    /** With what is published from now on. */
    public data object Live : Start

    /** With the oldest event that the log still has. */
    public data object Beginning : Start

    /** After a position: [Subscription.position] of an earlier run, or [Page.head]. */
    public data class At(public val position: Position) : Start

    /** So many durable events back, counted across lanes; 0 or more. */
    public data class Count(public val events: Int) : Start

    /** With what was published in this time before now. */
    public data class Back(public val time: Duration) : Start
}

internal fun Start.lower(): FfiStart? = when (this) {
    Start.Stored -> null
    Start.Live -> FfiStart.Live
    Start.Beginning -> FfiStart.Beginning
    is Start.At -> FfiStart.Position(position.text)
    is Start.Count -> {
        require(events >= 0) { "a count of events is not negative" }
        FfiStart.Count(events.toUInt())
    }
    is Start.Back -> FfiStart.Duration(backMs = time.lower())
}

/**
 * A subscription of a room, from [Room.subscribe], until [close].
 *
 * Items come urgent before normal before bulk, and in the order of their seqs within a lane. They are read by one
 * reader at a time, with [events] or [nextBatch]; a second one at the same time is an [IllegalStateException].
 *
 * An application that does not read costs a bounded amount of memory: behind 1,024 items or 1 MiB the client leaves the
 * room, and later resumes from the log.
 */
public class Subscription internal constructor(
    private val room: Room,
    private val core: FfiSubscription,
) : AutoCloseable {
    private val reading = Mutex()
    private var batch: List<RoomItem> = emptyList()
    private var number = 0uL

    /** How many items of [batch] are handled. */
    private var taken = 0

    @Volatile
    private var left: Position? = null
    private val following = lazy {
        Following(room.client.scope, core.state(), { core.nextState(it, null) }, { it.lift() })
    }

    /** The subscription's state. Short-lived states may be skipped, the last one never. */
    public val state: StateFlow<RoomState> get() = following.value.flow

    /**
     * Where to go on after a restart: behind all batches that were handled. Null before the node has answered for the
     * first time. It moves when a batch is handled to its end; with batches of one item it moves with each.
     */
    public val position: Position? get() = unlessDestroyed { core.position() }?.let(::Position) ?: left

    /**
     * Waits until the node has answered.
     *
     * @throws LanecastException [Refused][LanecastException.Refused] with the node's code if it refused or ended the
     *   subscription, [Closed][LanecastException.Closed] if it was closed
     */
    public suspend fun ready() {
        unlessDestroyed { lifting { core.ready(null) } } ?: throw LanecastException.Closed(Fault())
    }

    /**
     * The events, and gaps in the place of events that will not come. Ends when the subscription is closed, by [close]
     * or with the client.
     *
     * The item after which a collector is cancelled was handled, the item *in* which it is cancelled was not: so
     * nothing is lost, at whatever moment, and the next collector goes on with that item. Operators that hold items in
     * a buffer (`buffer`, `flowOn`, `shareIn` …) count as handling them: what their buffer holds is gone with it.
     *
     * @param batchMax items that are asked for at a time: 1 to 4,096; see [position]
     * @throws LanecastException.Refused in the collector, with the node's code, if the node ended the subscription
     */
    public fun events(batchMax: Int = BATCH_MAX): Flow<RoomItem> = flow {
        reading {
            while (fill(batchMax)) {
                while (taken < batch.size) {
                    emit(batch[taken])
                    taken++
                }
            }
        }
    }

    /**
     * The items that are not handled yet: at least one; an empty list says that the subscription is over. Until
     * [acknowledge] says that they are handled, the next call gives the same ones, so that a call that is cancelled, or
     * whose result is lost in a time-out, loses nothing.
     *
     * @param max items that are asked for at a time: 1 to 4,096
     * @throws LanecastException.Refused with the node's code, if the node ended the subscription
     */
    public suspend fun nextBatch(max: Int = BATCH_MAX): List<RoomItem> = reading {
        if (fill(max)) batch.subList(taken, batch.size) else emptyList()
    }

    /** Says that everything that [nextBatch] gave is handled: [position] moves over it. */
    public fun acknowledge() {
        exclusively {
            taken = batch.size
            unlessDestroyed { core.acknowledge(number) }
        }
    }

    /** Unsubscribes. What was not handled does not count as such. */
    override fun close() {
        left = position
        unlessDestroyed { core.cancel() }
        if (following.isInitialized() && state.value !is RoomState.Ended) following.value.end(RoomState.Ended(null))
        core.destroy()
    }

    /** What was handed out of a batch that is not handled to its end: what comes again after [position]. */
    internal fun takenOfBatch(): List<RoomItem> = exclusively { batch.take(taken) }

    /** Sees to it that there is something to take. False: the subscription is over. */
    private suspend fun fill(max: Int): Boolean {
        if (taken < batch.size) return true
        require(max > 0) { "a batch holds at least one item" }
        val next = unlessDestroyed { lifting { core.nextBatch(number, max.toUInt(), null) } } ?: return false
        number = next.number
        batch = next.items.map { it.lift(room.name) }
        taken = 0
        if (batch.isEmpty()) endedByNode()?.let { throw it }
        return batch.isNotEmpty()
    }

    private fun endedByNode(): LanecastException? {
        val state = unlessDestroyed { core.state() }?.lift()
        return (state as? RoomState.Ended)?.let { ended(it.cause) }
    }

    private fun ended(cause: Cause?): LanecastException? =
        cause?.let { LanecastException.Refused(Fault(it.code, it.detail)) }

    private inline fun <T> exclusively(block: () -> T): T {
        check(reading.tryLock()) { "the subscription has a reader" }
        try {
            return block()
        } finally {
            reading.unlock()
        }
    }

    private suspend inline fun <T> reading(block: () -> T): T = exclusively(block)
}
