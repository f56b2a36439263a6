package io.lanecast

import io.lanecast.ffi.libraryVersion
import io.lanecast.ffi.live
import io.lanecast.ffi.uniffiEnsureInitialized
import io.lanecast.ffi.connect as ffiConnect

/** Where everything begins. */
public object Lanecast {
    /** The version of this SDK. The native library must be of the same one. */
    public const val VERSION: String = "0.1.0"

    /**
     * Makes a client, which begins to connect and stays connected until it is closed. Does not wait for the connection:
     * rooms can be subscribed and published to at once. To wait, see [Client.connected].
     *
     * ```
     * val client = Lanecast.connect("https://chat.example") {
     *     token { request -> backend.fetchToken() }
     * }
     * ```
     *
     * @param url `https://` (QUIC or WebSocket over TLS, whichever works), `quic://`, `wss://`, `ws://` or `http://`
     * @throws LanecastException [Library][LanecastException.Library] without a native library that fits;
     *   [Invalid][LanecastException.Invalid], [BadUrl][LanecastException.BadUrl],
     *   [UnsupportedScheme][LanecastException.UnsupportedScheme], [Certificates][LanecastException.Certificates] or
     *   [NoRuntime][LanecastException.NoRuntime]; with files, what names their state, such as
     *   [OutboxLocked][LanecastException.OutboxLocked], [OutboxDamaged][LanecastException.OutboxDamaged] and
     *   [PositionsVersion][LanecastException.PositionsVersion]
     */
    public suspend fun connect(url: String, configure: ClientConfig.() -> Unit): Client {
        Library.ensureLoaded()
        val config = ClientConfig(url).apply(configure)
        return lifting { Client(ffiConnect(config.options(), null), config.tokenProvider) }
    }

    /**
     * Hands the lines of the SDK's log of this [level], and those that matter more, to [sink], which takes the place of
     * the one before; null: to nobody. One for the process.
     *
     * @throws LanecastException [Library][LanecastException.Library] without a native library that fits;
     *   [NoRuntime][LanecastException.NoRuntime] if the system gives no thread
     */
    public fun logTo(level: LogLevel, sink: LogSink?) {
        Library.ensureLoaded()
        Logging.to(level, sink)
    }

    /** What is alive of the native library in this process: for tests that nothing leaks. */
    internal fun alive(): Alive = live().let { Alive(it.objects.toLong(), it.calls.toLong()) }
}

/** Handles that were not given back, and calls that run. */
internal data class Alive(val objects: Long, val calls: Long)

/** The native library, loaded once. */
internal object Library {
    private val failure: String? by lazy { load() }

    fun ensureLoaded() {
        failure?.let { throw LanecastException.Library(it) }
    }

    /**
     * What is wrong with it. Whatever loading throws is a sentence, never a crash: an application may want to go on.
     */
    @Suppress("TooGenericExceptionCaught")
    private fun load(): String? = try {
        // Compares the layout of every call first, or one of another layout would crash.
        uniffiEnsureInitialized()
        mismatch(libraryVersion())
    } catch (thrown: Throwable) {
        val cause = (thrown as? ExceptionInInitializerError)?.cause ?: thrown
        "lanecast_ffi cannot be loaded, or is not that of version ${Lanecast.VERSION}: ${cause.message ?: cause}"
    }

    /** What is wrong with a library of this version. */
    fun mismatch(found: String): String? =
        if (found == Lanecast.VERSION) null else "it is of version $found, and these classes of ${Lanecast.VERSION}"
}
