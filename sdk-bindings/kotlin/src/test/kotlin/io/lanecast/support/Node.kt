package io.lanecast.support

import io.lanecast.Client
import io.lanecast.ClientConfig
import io.lanecast.Lanecast
import java.io.File
import java.net.ServerSocket
import java.net.URI
import java.nio.file.Files
import java.nio.file.Path
import java.util.concurrent.CompletableFuture
import java.util.concurrent.TimeUnit
import kotlin.concurrent.thread
import kotlin.io.path.deleteRecursively
import kotlin.io.path.writeText
import kotlinx.coroutines.runBlocking

/** Retention for what is tested, and reconnects that take no test's time. */
private const val CONFIG = """
[reconnect]
min_ms = 2
max_ms = 20

[tokens]
hs256_secret = "a secret of at least thirty-two bytes"
leeway_ms = 0

[[policies]]
rooms = "trim.**"
retention_events = 10

[[policies]]
rooms = "**"
retention_events = 100_000
"""

/** A real node, as a process of its own that ends with [close]. */
class Node : AutoCloseable {
    private val folder: Path = Files.createTempDirectory("lanecast-kotlin-")
    private val port = ServerSocket(0).use { it.localPort }
    private val quicUrl = CompletableFuture<String>()
    private var process: Process

    /** Of HTTP and WebSocket. */
    val url: String get() = "ws://127.0.0.1:$port"

    /** Of QUIC. */
    val quic: String get() = quicUrl.get(20, TimeUnit.SECONDS)

    init {
        folder.resolve("lanecast.toml").writeText(CONFIG)
        process = start()
    }

    private fun start(): Process {
        val config = folder.resolve("lanecast.toml").toString()
        val process = ProcessBuilder(
            binary, "serve", "--dev", "--config", config, "--listen", "127.0.0.1:$port", "--quic", "127.0.0.1:0",
        ).redirectError(folder.resolve("node.log").toFile()).start()
        val listening = CompletableFuture<Unit>()
        // Read to the end, or the node could not print any more.
        thread(isDaemon = true) {
            process.inputStream.bufferedReader().forEachLine { line ->
                if (line.startsWith("listening on http")) listening.complete(Unit)
                if (line.startsWith("listening on quic")) quicUrl.complete(line.substringAfter("on ").trimEnd('/'))
            }
            listening.completeExceptionally(IllegalStateException("the node ended: ${folder.resolve("node.log")}"))
        }
        listening.get(20, TimeUnit.SECONDS)
        return process
    }

    /** kill -9, and a new life on the same port. */
    fun killAndRestart() {
        kill()
        process = start()
    }

    /** kill -9. */
    fun kill() {
        process.destroyForcibly().waitFor()
    }

    /** A client of this user; the token is `dev:<user>` unless [configure] says otherwise. */
    fun client(user: String = "alice", configure: ClientConfig.() -> Unit = {}): Client = runBlocking {
        Lanecast.connect(url) {
            token("dev:$user")
            configure()
        }
    }

    /** SHA-256 of the certificate with which the node serves QUIC. */
    fun certificateHash(): ByteArray {
        val described = URI("http://127.0.0.1:$port/.well-known/lanecast").toURL().readText()
        val hash = Regex("\"certificateHashes\":\\[\"([^\"]+)\"").find(described)
        return java.util.Base64.getDecoder().decode(checkNotNull(hash) { described }.groupValues[1])
    }

    /** A token that holds so many seconds. */
    fun mint(user: String, seconds: Int): String {
        val config = folder.resolve("lanecast.toml").toString()
        val rights = "subscribe,publish@chat.**"
        val asked = listOf("--user", user, "--rights", rights, "--ttl", "${seconds}s", "--config", config)
        val minting = ProcessBuilder(listOf(binary, "token") + asked).redirectErrorStream(true).start()
        val output = minting.inputStream.bufferedReader().readText().trim()
        check(minting.waitFor() == 0) { output }
        return output
    }

    @OptIn(kotlin.io.path.ExperimentalPathApi::class)
    override fun close() {
        kill()
        folder.deleteRecursively()
    }

    private companion object {
        val binary: String by lazy {
            val path = checkNotNull(System.getenv("LANECAST_BIN")) { "LANECAST_BIN names no node" }
            check(File(path).canExecute()) { "no node at $path" }
            path
        }
    }
}
