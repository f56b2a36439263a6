package io.lanecast

import io.lanecast.ffi.Outcomes
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import io.lanecast.ffi.Client as FfiClient

/** The durable publishes of a client that are not settled: a view of them. From [Client.outbox]. */
public class Outbox internal constructor(core: FfiClient, client: Client) {
    private val reading = Mutex()
    private val source: Outcomes? = core.outboxOutcomes()
    private var batch: List<Outcome> = emptyList()
    private var number = 0uL
    private var taken = 0

    /** Whether it is in a file, and outlives the process. */
    public val hasFile: Boolean = core.outboxHasFile()

    /** How many publishes of an earlier run were in the file. */
    public val restored: Int = core.outboxRestored().toInt()

    /** How many durable publishes are not settled: those that wait in a file from before included. */
    public val pending: StateFlow<Int> = Following(
        client.scope, core.outboxPending(), { core.nextOutboxPending(it, null) }, { it.toInt() },
    ).flow

    /**
     * How the publishes of an earlier run end, which no [Receipt] waits for. Each comes once; the flow ends after the
     * last, or with the client. A later collector goes on where an earlier one stopped, with the outcome at which it
     * stopped; of two at a time the second waits. What nobody reads waits here, at most [restored] of them.
     */
    public fun outcomes(): Flow<Outcome> = flow {
        reading.withLock {
            while (true) {
                while (taken < batch.size) {
                    emit(batch[taken])
                    taken++
                }
                if (!nextBatch()) break
            }
        }
    }

    private suspend fun nextBatch(): Boolean {
        val source = source ?: return false
        val next = unlessDestroyed { lifting { source.nextBatch(number, BATCH_MAX.toUInt(), null) } } ?: return false
        number = next.number
        batch = next.outcomes.map { it.lift() }
        taken = 0
        return batch.isNotEmpty()
    }

    /** Gives the native reader back. */
    internal fun end() {
        source?.destroy()
    }
}

/**
 * How a publish of an earlier run ended.
 *
 * @property room the room
 * @property lane the lane
 * @property type the event's type
 * @property key the event's key
 * @property body the payload
 * @property result where it is stored, or the [LanecastException] that says why it is not: as a [Receipt] would have
 *   said
 */
public class Outcome internal constructor(
    public val room: String,
    public val lane: Lane,
    public val type: String,
    public val key: String,
    public val body: Body,
    public val result: Result<Published>,
)
