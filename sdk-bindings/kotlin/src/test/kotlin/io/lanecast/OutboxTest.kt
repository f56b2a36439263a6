package io.lanecast

import io.lanecast.support.Node
import io.lanecast.support.test
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.take
import kotlinx.coroutines.flow.toList
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.nio.file.Path
import kotlin.test.assertEquals
import kotlin.test.assertTrue
import kotlin.time.Duration.Companion.seconds

class OutboxTest {
    @TempDir
    lateinit var folder: Path

    @Test
    fun `what an outbox file held is sent by the next client, and told`() = test {
        Node().use { node ->
            val file = folder.resolve("outbox").toString()
            node.kill()
            node.client { outboxFile(file, OutboxSync.DISK) }.use { client ->
                assertTrue(client.outbox.hasFile)
                repeat(5) { client.room("chat.outbox").send("n", "$it").close() }
                client.outbox.pending.first { it == 5 }
                val locked = runCatching { node.client { outboxFile(file) } }.exceptionOrNull()
                assertTrue(locked is LanecastException.OutboxLocked, "$locked")
            }
            node.killAndRestart()
            node.client { outboxFile(file) }.use { client ->
                assertEquals(5, client.outbox.restored)
                val outcomes = client.outbox.outcomes().take(2).toList() + client.outbox.outcomes().toList()
                assertEquals(listOf("0", "1", "1", "2", "3", "4"), outcomes.map { it.body.text })
                assertEquals(listOf(1L, 2, 2, 3, 4, 5), outcomes.map { it.result.getOrThrow().seq })
                client.flush()
                assertEquals(0, client.outbox.pending.first { it == 0 })
                val events = client.room("chat.outbox").events(Start.Beginning).take(5).toList()
                assertEquals((0..4).map { "$it" }, events.map { (it as Event).text })
            }
        }
    }

    @Test
    fun `positions outlive the client`() = test {
        Node().use { node ->
            val file = folder.resolve("positions").toString()
            node.client { positionsFile = file }.use { client ->
                val room = client.room("chat.positions")
                repeat(4) { room.send("n", "$it").close() }
                client.flush()
                room.subscribe(Start.Beginning).use { subscription ->
                    repeat(3) {
                        assertEquals(1, subscription.nextBatch(max = 1).size)
                        subscription.acknowledge()
                    }
                }
                client.enteredBackground()
                client.enteredForeground()
            }
            node.client { positionsFile = file }.use { client ->
                assertEquals("3", (client.room("chat.positions").events().first() as Event).text)
            }
        }
    }

    @Test
    fun `a full outbox and a publish that waited too long are errors`() = test {
        Node().use { node ->
            node.kill()
            node.client { outbox(itemsMax = 1, bytesMax = 1L shl 20) }.use { client ->
                val room = client.room("chat.full")
                val first = room.send("n", "0") { outboxTtl = 1.seconds }
                val full = runCatching { room.publish("n", "1") }.exceptionOrNull()
                assertTrue(full is LanecastException.OutboxFull && full.retryable, "$full")
                val late = runCatching { first.use { it.stored() } }.exceptionOrNull()
                assertTrue(late is LanecastException.GivenUp, "$late")
                val unconnected = runCatching { room.publish("n", "2") { transient = true } }.exceptionOrNull()
                assertTrue(unconnected is LanecastException.NotConnected, "$unconnected")
            }
        }
    }
}
