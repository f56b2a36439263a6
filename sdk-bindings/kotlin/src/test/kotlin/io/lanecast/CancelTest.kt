package io.lanecast

import io.lanecast.support.Node
import io.lanecast.support.nothingIsAlive
import io.lanecast.support.test
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.take
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import kotlinx.coroutines.withTimeoutOrNull
import org.junit.jupiter.api.AfterAll
import org.junit.jupiter.api.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue
import kotlin.time.Duration.Companion.milliseconds
import kotlin.time.Duration.Companion.minutes

/** A collector that is cancelled at any moment loses nothing for the next one, and leaves nothing behind. */
class CancelTest {
    @Test
    fun `20,000 events under time-outs of 1 ms`() = test(2.minutes) {
        val events = 20_000
        node.client().use { client ->
            val room = client.room("cancel.timeouts")
            val subscription = room.subscribe(Start.Beginning)
            val publisher = launch {
                repeat(events) { room.send("n", "$it").close() }
                client.flush()
            }
            val seen = ArrayList<Int>(events)
            var rounds = 0
            while (seen.size < events) {
                rounds++
                withTimeoutOrNull(1.milliseconds) {
                    subscription.events(batchMax = 1 + rounds % 7).collect { seen += numberOf(it) }
                }
            }
            publisher.join()
            subscription.close()
            assertEquals((0 until events).toList(), seen)
            assertTrue(rounds > 100, "$rounds time-outs prove nothing")
        }
        nothingIsAlive()
    }

    @Test
    fun `batches whose result a time-out takes away come again`() = test {
        node.client().use { client ->
            val room = client.room("cancel.batches")
            val subscription = room.subscribe(Start.Beginning)
            repeat(2_000) { room.send("n", "$it").close() }
            val seen = ArrayList<Int>()
            while (seen.size < 2_000) {
                val batch = withTimeoutOrNull(1.milliseconds) { subscription.nextBatch(5) } ?: continue
                seen += batch.map(::numberOf)
                subscription.acknowledge()
            }
            subscription.close()
            assertEquals((0 until 2_000).toList(), seen)
        }
        nothingIsAlive()
    }

    @Test
    fun `the next collector of a room's flow goes on where the one before stopped`() = test {
        node.client().use { client ->
            val room = client.room("cancel.flow")
            repeat(50) { room.send("n", "$it").close() }
            client.flush()
            val flow = room.events(Start.Beginning, batchMax = 8)
            val seen = ArrayList<Int>()
            var stops = 0
            while (seen.size < 50) {
                // Stopped inside of a batch, at an item that was not handled.
                assertFailsWith<Stop> {
                    flow.collect {
                        if (seen.size % 7 == 6 && stops * 7 < seen.size) throw Stop().also { stops++ }
                        seen += numberOf(it)
                        if (seen.size == 50) throw Stop()
                    }
                }
            }
            assertEquals((0 until 50).toList(), seen)
        }
        nothingIsAlive()
    }

    @Test
    fun `the item at which a collector stopped comes again`() = test {
        node.client().use { client ->
            val room = client.room("cancel.item")
            repeat(3) { room.send("n", "$it").close() }
            room.subscribe(Start.Beginning).use { subscription ->
                assertEquals(listOf(0, 1), subscription.events().take(2).toList().map(::numberOf))
                assertEquals(1, numberOf(subscription.events().first()))
            }
        }
    }

    private class Stop : Exception()

    private fun numberOf(item: RoomItem) = (item as Event).text!!.toInt()

    private companion object {
        val node = Node()

        @JvmStatic
        @AfterAll
        fun stop() = node.close()
    }
}
