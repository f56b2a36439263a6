package io.lanecast

import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.emitAll
import kotlinx.coroutines.flow.filterNot
import kotlinx.coroutines.flow.flow

/**
 * The flow of [Room.events]: a subscription for each collector, each from where the one before stopped.
 *
 * A position moves with batches, and a collector may stop inside of one. So what it took of that batch is remembered,
 * at most a batch, and left out for the next collector.
 */
internal class RoomEvents(private val room: Room, from: Start, batchMax: Int) {
    private class Place(val start: Start, val taken: Set<Any?>)

    @Volatile
    private var place = Place(from, emptySet())

    val flow: Flow<RoomItem> = flow {
        val start = place.start
        val known = place.taken.toMutableSet()
        val subscription = room.subscribe(start)
        try {
            emitAll(subscription.events(batchMax).filterNot { known.remove(it.identity()) })
        } finally {
            val taken = subscription.takenOfBatch().mapNotNull { it.identity() }
            val kept = if (known.size > KNOWN_MAX) emptySet() else known
            place = Place(subscription.position?.let { Start.At(it) } ?: start, kept + taken)
            subscription.close()
        }
    }
}

/** What is known and was not seen again is given up beyond this: such events were rolled back, and come no more. */
private const val KNOWN_MAX = 4096

/** What makes a durable event, or a gap, the same when it comes again. Transient events do not come again. */
private fun RoomItem.identity(): Any? = when (this) {
    is Event -> if (isDurable) Triple(lane, epoch, seq) else null
    is Gap -> missing as? Missing.Seqs
}
