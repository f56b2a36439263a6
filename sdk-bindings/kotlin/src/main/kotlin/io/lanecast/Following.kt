package io.lanecast

import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Job
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.launch

/**
 * A value of the native library as a [StateFlow], followed until it will not change any more.
 *
 * @param next what the value is once that is not the one given; null: it will not change any more
 */
internal class Following<F : Any, T>(
    scope: CoroutineScope,
    first: F,
    private val next: suspend (F) -> F?,
    private val lift: (F) -> T,
) {
    private val value = MutableStateFlow(lift(first))
    val flow: StateFlow<T> = value.asStateFlow()
    val job: Job = scope.launch { follow(first) }

    private suspend fun follow(first: F) {
        var last = first
        while (true) {
            last = unlessDestroyed { next(last) } ?: return
            value.value = lift(last)
        }
    }

    /** Follows no longer. The value stays at [last]. */
    fun end(last: T) {
        job.cancel()
        value.value = last
    }
}

/** Runs a call of the generated layer; null if another thread has given its object back in the meantime. */
internal inline fun <T : Any> unlessDestroyed(call: () -> T?): T? = try {
    call()
} catch (destroyed: IllegalStateException) {
    if (destroyed is CancellationException) throw destroyed
    null
}
