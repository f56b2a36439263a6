package io.lanecast.support

import io.lanecast.Alive
import io.lanecast.Lanecast
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.delay
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import kotlin.time.Duration
import kotlin.time.Duration.Companion.milliseconds
import kotlin.time.Duration.Companion.seconds

/** A test that ends: one that hangs fails after [limit]. */
fun test(limit: Duration = 60.seconds, block: suspend CoroutineScope.() -> Unit): Unit =
    runBlocking { withTimeout(limit, block) }

/** Waits until it holds. A future that was dropped, for example, is gone a moment later. */
suspend fun eventually(what: String, limit: Duration = 10.seconds, holds: suspend () -> Boolean) {
    val deadline = System.nanoTime() + limit.inWholeNanoseconds
    while (!holds()) {
        check(System.nanoTime() < deadline) { "not within $limit: $what" }
        delay(5.milliseconds)
    }
}

/** Nothing of the native library is left: no handle, no call. */
suspend fun nothingIsAlive() {
    try {
        eventually("nothing is alive") { Lanecast.alive() == Alive(0, 0) }
    } catch (left: IllegalStateException) {
        throw AssertionError("${left.message}: ${Lanecast.alive()}")
    }
}
