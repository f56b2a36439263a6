package io.lanecast

import com.google.protobuf.StringValue
import io.lanecast.codec.ProtobufCodec
import io.lanecast.codec.json
import io.lanecast.support.Node
import io.lanecast.support.nothingIsAlive
import io.lanecast.support.test
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.take
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import kotlinx.serialization.Serializable
import org.junit.jupiter.api.AfterAll
import org.junit.jupiter.api.Test
import kotlin.test.assertEquals
import kotlin.test.assertNotNull
import kotlin.test.assertNull
import kotlin.test.assertTrue
import kotlin.time.Duration.Companion.minutes
import kotlin.time.Duration.Companion.seconds

@Serializable
data class Line(val text: String)

/** What a room does, against a real node. */
class RoomTest {
    @Test
    fun `publish and receive, with all that an event bears`() = test {
        val body = byteArrayOf(0, -1, 7)
        node.client().use { client ->
            val room = client.room("chat.all")
            val published = room.publish("msg", Body.Bytes(body)) {
                lane = Lane.URGENT
                key = "k"
                contentType = "a/b"
                headers = mapOf("traceparent" to "00-1")
                ttl = 1.minutes
            }
            val event = room.events(Start.Beginning).first() as Event
            assertEquals(published, Published(event.epoch, event.lane, event.seq, event.order, false))
            val said = event.run { listOf(type, key, contentType, from.user) }
            assertEquals(listOf("msg", "k", "a/b", "alice"), said)
            assertEquals(mapOf("traceparent" to "00-1"), event.headers)
            assertEquals(Body.Bytes(body), event.body)
            assertTrue(assertNotNull(event.expiresAt) > event.time)
            assertTrue(event.isDurable)
            assertNull(event.text)
        }
        nothingIsAlive()
    }

    @Test
    fun `a transient event is received and not stored`() = test {
        node.client().use { client ->
            val room = client.room("chat.transient")
            room.subscribe().use { subscription ->
                subscription.ready()
                assertEquals(0, room.publish("msg", "now") { transient = true }.seq)
                val event = subscription.events().first() as Event
                assertEquals("now" to false, event.text to event.isDurable)
            }
        }
    }

    @Test
    fun `errors bear code and retryable`() = test {
        node.client { token(node.mint("alice", 60)) }.use { client ->
            val refused = failure { client.room("other").publish("msg", "no right") }
            assertTrue(refused is LanecastException.Refused, "$refused")
            assertEquals(Code.FORBIDDEN to false, refused.knownCode to refused.retryable)
            assertTrue("FORBIDDEN (4302)" in refused.message, refused.message)
            val invalid = failure { client.room("").publish("msg", "no name") }
            assertTrue(invalid is LanecastException.Invalid && invalid.code == null, "$invalid")
            val ended = failure { client.room("other").events().first() }
            assertTrue(ended is LanecastException.Refused && ended.knownCode == Code.FORBIDDEN, "$ended")
            client.room("chat.once").subscribe().use {
                assertTrue(failure { client.room("chat.once").subscribe() } is LanecastException.AlreadySubscribed)
            }
            val position = failure { client.room("chat.one").subscribe(Start.At(Position("nonsense"))) }
            assertTrue(position is LanecastException.Invalid, "$position")
        }
        val url = failure { Lanecast.connect("nonsense") { token("dev:alice") } }
        assertTrue(url is LanecastException.BadUrl, "$url")
        nothingIsAlive()
    }

    @Test
    fun `a gap is in the place of what was trimmed`() = test {
        node.client().use { client ->
            val room = client.room("trim.one")
            room.publish("n", "0")
            val position = room.subscribe(Start.Beginning).use { subscription ->
                subscription.nextBatch()
                subscription.acknowledge()
                assertNotNull(subscription.position)
            }
            repeat(30) { room.send("n", "$it").close() }
            client.flush()
            val items = room.events(Start.At(position)).take(11).toList()
            val gap = items.first() as Gap
            assertEquals(GapCause.TRIMMED, gap.cause)
            assertEquals(Missing.Seqs(Lane.NORMAL, (items[1] as Event).epoch, 2, 21), gap.missing)
            assertEquals((22L..31L).toList(), items.drop(1).map { (it as Event).seq })
        }
    }

    @Test
    fun `history comes page by page, and leads to the present`() = test {
        node.client().use { client ->
            val room = client.room("chat.history")
            repeat(25) { room.send("n", "$it") { if (it % 5 == 0) lane = Lane.BULK }.close() }
            client.flush()
            val pages = room.history(pageSize = 10).toList()
            assertEquals(listOf(10, 10, 5), pages.map { it.events.size })
            assertEquals((25L downTo 1L).toList(), pages.flatMap { it.events }.map { it.order })
            assertEquals(1, pages.map { it.head }.toSet().size)
            val forward = room.history(Direction.FORWARD, setOf(Lane.BULK)).toList().flatMap { it.events }
            assertEquals(listOf("0", "5", "10", "15", "20"), forward.map { it.text })
            val second = room.history(pageSize = 10, cursor = pages[0].next).first()
            assertEquals(pages[1].events.map { it.order }, second.events.map { it.order })
            room.publish("n", "new")
            assertEquals("new", (room.events(Start.At(pages[0].head!!)).first() as Event).text)
        }
    }

    @Test
    fun `signals come with what lives, change, and go`() = test {
        node.client("alice").use { alice ->
            node.client("bob").use { bob ->
                val (here, there) = alice.room("chat.signals") to bob.room("chat.signals")
                here.signal("typing", "a", "1") { ttl = 30.seconds }
                val changes = ArrayList<SignalChange>()
                val reading = launch {
                    there.signals().take(3).collect {
                        changes += it
                        when (changes.size) {
                            1 -> here.signal("typing", "a", "2") { ttl = 30.seconds }
                            2 -> here.clearSignal("typing", "a")
                        }
                    }
                }
                reading.join()
                assertEquals(listOf("1", "2", null), changes.map { (it as? SignalChange.Live)?.text })
                assertEquals(listOf("alice", "typing", "a"), changes[2].run { listOf(from.user, type, key) })
                assertEquals(false, (changes[2] as SignalChange.Gone).expired)
            }
        }
        nothingIsAlive()
    }

    @Test
    fun `typed rooms read JSON and protobuf, and what fits neither is an error of that event`() = test {
        node.client().use { client ->
            val lines = client.room("chat.json").typed(json<Line>())
            lines.publish("line", Line("hello"))
            lines.room.publish("line", "nonsense")
            lines.send("line", Line("on")) { lane = Lane.BULK }.use { it.stored() }
            val read = lines.events(Start.Beginning).take(3).toList().map { it as TypedEvent }
            val byOrder = read.sortedBy { it.event.order }.map { it.value.getOrNull()?.text }
            assertEquals(listOf("hello", null, "on"), byOrder)
            assertEquals("application/json", read.first().event.contentType)

            val values = client.room("chat.protobuf").typed(ProtobufCodec(StringValue.parser()))
            values.publish("value", StringValue.of("hé"))
            val value = values.events(Start.Beginning).first() as TypedEvent
            assertEquals("hé", value.value.getOrThrow().value)
        }
    }

    @Test
    fun `states are told`() = test {
        node.client().use { client ->
            client.connected()
            val subscription = client.room("chat.states").subscribe()
            subscription.ready()
            subscription.state.first { it is RoomState.Live }
            client.room("chat.states").focus(Focus.FOREGROUND)
            client.networkChanged()
            client.refreshToken()
            subscription.close()
            assertEquals(RoomState.Ended(null), subscription.state.value)
            assertTrue((client.nodeTime - kotlin.time.Clock.System.now()).absoluteValue < 5.seconds)
        }
    }

    @Test
    fun `QUIC serves as well`() = test {
        val client = Lanecast.connect(node.quic) {
            token("dev:alice")
            certificateHash(node.certificateHash())
        }
        client.use {
            val room = client.room("chat.quic")
            room.publish("msg", "hello")
            assertEquals("hello", (room.events(Start.Beginning).first() as Event).text)
        }
        nothingIsAlive()
    }

    private suspend fun failure(call: suspend () -> Any?): LanecastException =
        runCatching { call() }.exceptionOrNull() as? LanecastException ?: throw AssertionError("it did not fail")

    private companion object {
        val node = Node()

        @JvmStatic
        @AfterAll
        fun stop() = node.close()
    }
}
