package io.lanecast

import io.lanecast.support.Node
import io.lanecast.support.nothingIsAlive
import io.lanecast.support.test
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.launch
import org.junit.jupiter.api.Test
import java.io.File
import kotlin.test.assertEquals
import kotlin.test.assertTrue
import kotlin.time.Duration.Companion.minutes

class LeakTest {
    @Test
    fun `1,000 rounds of subscribing and cancelling stay flat`() = test(2.minutes) {
        Node().use { node ->
            node.client().use { client ->
                client.connected()
                suspend fun round(number: Int) {
                    val room = client.room("leak.${number % 10}")
                    val collecting = launch { room.events().collect {} }
                    val subscription = client.room("leak.watched").subscribe()
                    subscription.ready()
                    subscription.state.first { it is RoomState.Live }
                    subscription.close()
                    collecting.cancelAndJoin()
                }
                repeat(200) { round(it) }
                val before = residentKib()
                val alive = Lanecast.alive().objects
                repeat(1_000) { round(it) }
                assertTrue(Lanecast.alive().objects <= alive + 2, "${Lanecast.alive()} after $alive")
                val grown = residentKib() - before
                assertTrue(grown < 16 * 1024, "the process grew by $grown KiB")
            }
            nothingIsAlive()
        }
    }

    /** Of the process, after the heap was collected. */
    private fun residentKib(): Long {
        System.gc()
        val line = File("/proc/self/status").readLines().first { it.startsWith("VmRSS:") }
        return line.filter { it.isDigit() }.toLong()
    }

    @Test
    fun `a closed client answers, and leaves nothing`() = test {
        Node().use { node ->
            val client = node.client()
            val subscription = client.room("closed").subscribe()
            subscription.ready()
            client.close()
            client.close()
            assertEquals(Code.NORMAL, (client.state.value as ClientState.Closed).cause.knownCode)
            assertEquals(emptyList(), subscription.nextBatch())
            val error = runCatching { client.room("closed").publish("msg", "too late") }.exceptionOrNull()
            assertTrue(error is LanecastException.Closed, "$error")
            subscription.close()
            nothingIsAlive()
        }
    }
}
