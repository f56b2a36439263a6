package io.lanecast

import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineName
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.NonCancellable
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.cancel
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.job
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import kotlinx.coroutines.withContext
import kotlin.time.Instant
import io.lanecast.ffi.Client as FfiClient
import io.lanecast.ffi.Room as FfiRoom

/**
 * A client: one connection to a node, made anew whenever it is lost, until [close] or [shutdown]. From
 * [Lanecast.connect]. Safe to use from any thread.
 *
 * An application has one for each user, kept for as long as the user is signed in.
 */
public class Client internal constructor(private val core: FfiClient, provider: TokenProvider?) : AutoCloseable {
    /** Owns the coroutines that follow the native library. They end with the client. */
    internal val scope: CoroutineScope =
        CoroutineScope(SupervisorJob() + Dispatchers.Default + CoroutineName("lanecast") + Logging.faults)
    private val tokens: Job? = provider?.let { serve(it) }
    private val closing = Mutex()

    @Volatile
    private var closed = false

    /** The client's state. Short-lived states may be skipped, the last one never. */
    public val state: StateFlow<ClientState> =
        Following(scope, core.state(), { core.nextState(it, null) }, { it.lift() }).flow

    /** The durable publishes that are not settled. */
    public val outbox: Outbox = Outbox(core, this)

    /** The node's clock, as far as it is known: judge [Event.expiresAt] by it, not by the device's. */
    public val nodeTime: Instant get() = onCore { it.nodeTimeMs().instant() }

    /** On threads that may be blocked, since applications' functions do block. */
    private fun serve(provider: TokenProvider): Job = scope.launch(Dispatchers.IO) {
        core.tokenRequests()?.use { provider.serve(it) }
    }

    /** A room by its name, at most 255 bytes. A name that is none is an error of the first operation. */
    public fun room(name: String): Room = Room(this, name)

    /**
     * Waits until there is a connection.
     *
     * @throws LanecastException.Closed with the node's code, if the client is over
     */
    public suspend fun connected(): Unit = onCore { it.connected(null) }

    /**
     * Waits until every publish that was handed to the client before is settled: stored, refused or given up. Those
     * that an outbox file held from before are waited for as well.
     *
     * @throws LanecastException [Closed][LanecastException.Closed] if the client ends before,
     *   [TooMany][LanecastException.TooMany] if 1,024 callers wait
     */
    public suspend fun flush(): Unit = onCore { it.flush(null) }

    /**
     * Says that the network changed: another Wi-Fi, a new address. The connection is checked at once, given up if
     * nothing comes within 2 s, and made at once if there is none. Android's `ConnectivityManager` tells of such
     * changes.
     */
    public suspend fun networkChanged(): Unit = onCore { it.networkChanged() }

    /**
     * Says that the user does not look: the outbox and the positions are on the disk when this returns. The connection
     * stays for as long as the system lets it; a new one is attempted only while durable publishes wait. From `onStop`,
     * for example.
     */
    public suspend fun enteredBackground(): Unit = onCore { it.enteredBackground() }

    /**
     * Says that the user looks again: connects at once, or asks whether the connection still lives, since a process
     * that was frozen does not know what it missed. From `onStart`, for example.
     */
    public suspend fun enteredForeground(): Unit = onCore { it.enteredForeground() }

    /**
     * Asks the token provider for a new token now, for an application that knows of new rights. Before a token expires
     * that happens by itself. Nothing happens without a connection or with a fixed token.
     */
    public suspend fun refreshToken(): Unit = onCore { it.refreshToken() }

    /**
     * Closes the client, and waits until its connection is gone and its outbox file unlocked. Publishes that are not
     * settled end with [LanecastException.Closed]: [flush] first. What an outbox file keeps of them, the next client
     * that opens it sends. Subscriptions end after what they still hold. Once begun it is carried out, also if the
     * caller is cancelled.
     */
    public suspend fun shutdown(): Unit = withContext(NonCancellable) {
        closing.withLock {
            if (closed) return@withLock
            lifting { core.shutdown() }
            closed = true
            // An application's function may go on for as long as it likes: its answer goes nowhere.
            tokens?.cancel()
            // The others see the last state of what they follow, and end by themselves.
            scope.coroutineContext.job.children.filter { it != tokens }.forEach { it.join() }
            outbox.end()
            scope.cancel()
            core.destroy()
        }
    }

    /** [shutdown], for `use` and for callers that cannot suspend: blocks for some milliseconds. */
    override fun close(): Unit = runBlocking { shutdown() }

    /** Runs a call on the native client; once that was given back, the client is closed. */
    internal inline fun <T> onCore(call: (FfiClient) -> T): T = try {
        lifting { call(core) }
    } catch (destroyed: IllegalStateException) {
        if (destroyed is CancellationException || !closed) throw destroyed
        throw LanecastException.Closed(Fault())
    }

    /** Runs a call on a room, whose handle lives no longer than the call: nothing is left to the garbage collector. */
    internal suspend inline fun <T> onRoom(name: String, call: (FfiRoom) -> T): T =
        onCore { core -> core.room(name).use { call(it) } }
}
