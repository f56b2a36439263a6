package io.lanecast

import io.lanecast.ffi.TokenRequests
import kotlinx.coroutines.currentCoroutineContext
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.withTimeoutOrNull
import kotlin.time.Duration.Companion.seconds
import io.lanecast.ffi.TokenRequest as FfiTokenRequest

/** How long a provider has, as the native library counts it; after that nobody waits for its answer. */
private val ANSWER_MAX = 10.seconds

/** Answers the client's requests for tokens with what the application's function gives. */
internal class TokenProvider(private val provide: suspend (TokenRequest) -> String) {
    /** Runs until the client is over. */
    suspend fun serve(requests: TokenRequests) {
        var last = 0uL
        while (true) {
            val request = lifting { requests.next(last, null) } ?: return
            last = request.number()
            request.use { answer(it) }
        }
    }

    /**
     * Everything that the application throws is an answer, also an `Error`: the client must not wait for one that will
     * not come. Only when the client itself ends is nothing answered, since nobody waits.
     */
    @Suppress("TooGenericExceptionCaught")
    private suspend fun answer(request: FfiTokenRequest) {
        val refused = request.refused().toInt().takeIf { it != 0 }
        try {
            val token = withTimeoutOrNull(ANSWER_MAX) { provide(TokenRequest(refused)) }
            if (token == null) request.fail("the token provider took longer than $ANSWER_MAX") else request.give(token)
        } catch (thrown: Throwable) {
            request.fail(thrown.toString())
            currentCoroutineContext().ensureActive()
        }
    }
}
