package io.lanecast

import io.lanecast.ffi.Options
import io.lanecast.ffi.OutboxBounds
import kotlin.time.Duration
import io.lanecast.ffi.OutboxSync as FfiOutboxSync

/** Keeps an inner block of settings from naming those of an outer one. */
@DslMarker
public annotation class LanecastDsl

/**
 * What a client is made with: the receiver of the block of [Lanecast.connect]. Whatever is not set is as its
 * documentation says.
 */
@LanecastDsl
public class ClientConfig internal constructor(private val url: String) {
    private var fixedToken: String? = ""
    private var app: Pair<String, String>? = null
    private var outbox: OutboxBounds? = null
    private var outboxFile: Pair<String, OutboxSync>? = null
    private val extraRoots = mutableListOf<String>()
    private var certificateHash: ByteArray? = null
    internal var tokenProvider: TokenProvider? = null
        private set

    /** Name of the user's device, at most 128 bytes. A token that names one wins. */
    public var device: String? = null

    /**
     * How long a durable publish may wait for its node: 12 h unless set. A node remembers for 24 h at least which
     * publishes it has stored; one that is sent again later than that may be stored twice.
     */
    public var outboxTtl: Duration? = null

    /** An HTTP proxy, `http://[user:password@]host[:port]`, used by CONNECT. It carries WebSocket only. */
    public var httpProxy: String? = null

    /** The UDP port of QUIC where an `https://` address races it against WebSocket: 8443 unless set. */
    public var quicPort: Int? = null

    /** A fixed token. When a node refuses it, the client is closed with the node's code. */
    public fun token(token: String) {
        fixedToken = token
        tokenProvider = null
    }

    /**
     * Gets tokens: asked before the first connection, before a token expires, and again when a node refused one. It has
     * 10 s and is called by one coroutine at a time. Whatever it throws, an `Error` included, counts as a failed
     * connection attempt, which is repeated with backoff; while connected the old token is kept as long as it holds.
     */
    public fun token(provider: suspend (TokenRequest) -> String) {
        fixedToken = null
        tokenProvider = TokenProvider(provider)
    }

    /**
     * Keeps the positions of subscriptions in this file, so that they outlive the process: a subscription that begins
     * at [Start.Stored] goes on behind what was handled before. Its folder must exist. For one client at a time, which
     * locks it, and for one user; keep it out of backups. Null: positions last as long as their subscriptions.
     */
    public var positionsFile: String? = null

    /** Name and version of the application, for the node's logs. */
    public fun app(name: String, version: String) {
        app = name to version
    }

    /**
     * Bounds of the outbox of durable publishes: [itemsMax] of them (10,000 unless set) and [bytesMax] bytes (16 MiB).
     * Beyond them a publish is an error; nothing that the outbox holds is dropped.
     */
    public fun outbox(itemsMax: Int, bytesMax: Long) {
        require(itemsMax >= 0 && bytesMax >= 0) { "the bounds of an outbox are not negative" }
        outbox = OutboxBounds(itemsMax.toULong(), bytesMax.toULong())
    }

    /**
     * Keeps the outbox in the file at [path] instead of in memory, so that it outlives the process. Its folder must
     * exist.
     *
     * A file is for one client at a time, which locks it, and for one user. Keep it out of backups (on Android in
     * `Context.noBackupFilesDir`) and never copy it: two clients with the same file would take each other's events for
     * duplicates. How publishes of an earlier run end is told by [Outbox.outcomes].
     */
    public fun outboxFile(path: String, sync: OutboxSync = OutboxSync.PROCESS) {
        outboxFile = path to sync
    }

    /**
     * Believes certificates of the roots in [pem], a PEM text, beside those that the system believes. Not on Android,
     * where the application's network security configuration says it.
     */
    public fun extraRoot(pem: String) {
        extraRoots += pem
    }

    /**
     * Takes the one certificate with this SHA-256 of its DER form, 32 bytes, and no other, whatever its name, issuer
     * and dates: for a node in development, which names it in `/.well-known/lanecast`.
     */
    public fun certificateHash(sha256: ByteArray) {
        certificateHash = sha256
    }

    internal fun options() = Options(
        sdk = "lanecast-kotlin",
        url = url,
        token = fixedToken,
        device = device,
        app = app?.first,
        appVersion = app?.second,
        outbox = outbox,
        outboxTtlMs = outboxTtl?.lower(),
        outboxFile = outboxFile?.first,
        outboxSync = outboxFile?.second?.lower(),
        positionsFile = positionsFile,
        extraRoots = extraRoots.toList(),
        certificateHash = certificateHash,
        httpProxy = httpProxy,
        quicPort = quicPort?.let { port ->
            require(port >= 0) { "a port is a number from 1 to 65,535" }
            port.toUInt()
        },
    )
}

/** When a publish counts as queued in the outbox file. */
public enum class OutboxSync {
    /** Once the operating system has it: it survives the end of the process. */
    PROCESS,

    /** Once it is on the disk: it survives a loss of power as well. */
    DISK,
    ;

    internal fun lower() = when (this) {
        PROCESS -> FfiOutboxSync.PROCESS
        DISK -> FfiOutboxSync.DISK
    }
}

/**
 * What a token provider is told.
 *
 * @property refused the code with which a node refused the token before; null: this is the first one, or the present
 *   one will expire
 */
public data class TokenRequest(public val refused: Int?)
