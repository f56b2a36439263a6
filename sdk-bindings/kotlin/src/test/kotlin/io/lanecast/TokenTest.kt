package io.lanecast

import io.lanecast.support.Node
import io.lanecast.support.eventually
import io.lanecast.support.nothingIsAlive
import io.lanecast.support.test
import kotlinx.coroutines.flow.first
import org.junit.jupiter.api.AfterAll
import org.junit.jupiter.api.Test
import java.util.concurrent.CancellationException
import java.util.concurrent.CopyOnWriteArrayList
import java.util.concurrent.atomic.AtomicInteger
import kotlin.test.assertEquals
import kotlin.test.assertTrue

class TokenTest {
    @Test
    fun `whatever a provider throws is a failed attempt, and the next one is made`() = test {
        val thrown = listOf(
            IllegalStateException("no network"),
            NotImplementedError("not yet"),
            CancellationException("the application's own"),
        )
        val asked = AtomicInteger()
        val client = node.client {
            token { thrown.getOrNull(asked.getAndIncrement())?.let { throw it } ?: "dev:alice" }
        }
        client.use {
            client.connected()
            assertEquals(thrown.size + 1, asked.get())
        }
        nothingIsAlive()
    }

    @Test
    fun `what was thrown is told`() = test {
        val client = node.client { token { throw NotImplementedError("not yet") } }
        client.use {
            val suspended = client.state.first { it is ClientState.Suspended } as ClientState.Suspended
            assertTrue("not yet" in suspended.cause.detail, "$suspended")
        }
    }

    @Test
    fun `an expired token is exchanged on the same connection`() = test {
        val requests = CopyOnWriteArrayList<TokenRequest>()
        val client = node.client {
            token { request ->
                requests += request
                node.mint("alice", if (requests.size == 1) 2 else 60)
            }
        }
        client.use {
            client.connected()
            eventually("a second token") { requests.size == 2 }
            assertEquals(listOf(TokenRequest(null), TokenRequest(null)), requests)
            assertEquals(ClientState.Connected, client.state.value)
            client.room("chat.token").publish("msg", "still here")
        }
    }

    @Test
    fun `a refused token is told to the provider`() = test {
        val requests = CopyOnWriteArrayList<TokenRequest>()
        val client = node.client {
            token { request ->
                requests += request
                if (request.refused == null) "nonsense" else "dev:alice"
            }
        }
        client.use {
            client.connected()
            assertEquals(Code.BAD_TOKEN, Code.of(requests[1].refused!!))
        }
    }

    @Test
    fun `a fixed token that is refused closes the client with the code`() = test {
        val client = node.client { token("nonsense") }
        client.use {
            val closed = client.state.first { it is ClientState.Closed } as ClientState.Closed
            assertEquals(Code.BAD_TOKEN, closed.cause.knownCode)
            val error = runCatching { client.connected() }.exceptionOrNull()
            assertTrue(error is LanecastException.Closed && !error.retryable, "$error")
            assertEquals(Code.BAD_TOKEN, error.knownCode)
        }
    }

    private companion object {
        val node = Node()

        @JvmStatic
        @AfterAll
        fun stop() = node.close()
    }
}
