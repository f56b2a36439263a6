/** The driver of the conformance suite for this SDK: conformance/driver.md, in JSON over standard input and output. */
package io.lanecast.driver

import io.lanecast.*
import kotlinx.coroutines.*
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.transformWhile
import kotlinx.serialization.json.*
import java.io.DataInputStream
import java.io.EOFException
import java.util.Collections
import java.util.concurrent.ConcurrentHashMap
import kotlin.time.Duration.Companion.milliseconds

fun main() = runBlocking(Dispatchers.Default) {
    val transports = listOf("websocket", "quic")
    report(0, "ready", json("sdk" to "lanecast-kotlin", "version" to Lanecast.VERSION, "transports" to transports))
    var session: Session? = null
    val input = DataInputStream(System.`in`.buffered())
    while (true) {
        val length = try { input.readInt() } catch (_: EOFException) { break }
        val command = Json.parseToJsonElement(input.readNBytes(length).decodeToString()).jsonObject
        val id = command.number("id")
        val (name, body) = command.entries.first { it.key != "id" }.let { it.key to it.value.jsonObject }
        when (name) {
            "connect" -> attempt(id) { session = connect(body); report(id, "done") }
            "shutdown" -> { session?.end(); session = null; report(id, "done") }
            else -> session?.run(id, name, body) ?: report(id, "failed", json("kind" to "unsupported"))
        }
    }
    session?.end() ?: Unit
}

private suspend fun attempt(id: Int, call: suspend () -> Unit) = try {
    call()
} catch (failed: LanecastException) {
    report(id, "failed", failed.json())
}

private suspend fun connect(body: JsonObject): Session {
    return Session(Lanecast.connect(body.text("url")) {
        if (body.flag("asksForTokens")) token(::ask) else token(body.text("token"))
        body.word("outboxFile")?.let { outboxFile(it) }
        positionsFile = body.word("positionsFile")
        val (items, bytes) = body.positive("outboxItemsMax") to body.positive("outboxBytesMax")
        if (items != null || bytes != null) outbox(items ?: 10_000, bytes?.toLong() ?: (16L shl 20))
        outboxTtl = body.positive("outboxTtlMs")?.milliseconds
        body.word("certificateSha256")?.let { certificateHash(it.hexToByteArray()) }
        body.word("extraRoot")?.let { extraRoot(it) }
        device = body.word("device")
        app(body.text("app"), body.text("appVersion"))
    })
}

/** The tokens that clients asked for, by the number of the question. */
private val asked = Collections.synchronizedList(ArrayList<CompletableDeferred<String>>())

private suspend fun ask(request: TokenRequest): String {
    val answer = CompletableDeferred<String>().also { asked += it }
    report(0, "tokenWanted", json("ask" to asked.indexOf(answer) + 1, "refused" to (request.refused != null)))
    return answer.await()
}

/** A client, and what is read of it. */
private class Session(private val client: Client) {
    private val scope = CoroutineScope(SupervisorJob() + Dispatchers.Default)
    private val readings = ConcurrentHashMap<String, Reading>()
    private val publishes = Channel<Pair<Int, JsonObject>>(Channel.UNLIMITED)
    private val states = scope.launch {
        client.state.transformWhile { emit(it); it !is ClientState.Closed }.collect { report(0, "state", it.json()) }
    }

    init {
        scope.launch { for ((id, body) in publishes) attempt(id) { publish(id, body) } }
        scope.launch { client.outbox.outcomes().collect { report(0, "outcome", it.json()) } }
    }

    /** Begins a command. Only publishes wait for each other: they are handed over in the order in which they came. */
    fun run(id: Int, name: String, body: JsonObject) {
        if (name == "publish") publishes.trySend(id to body)
        else scope.launch(start = CoroutineStart.UNDISPATCHED) { attempt(id) { command(id, name, body) } }
    }

    private suspend fun command(id: Int, name: String, body: JsonObject) {
        when (name) {
            "giveToken" -> asked[body.number("ask") - 1].complete(body.text("token"))
            "refuseToken" -> asked[body.number("ask") - 1].completeExceptionally(Exception(body.text("detail")))
            "subscribe" -> subscribe(body)
            "acknowledge" -> if (readings[body.text("room")]?.acknowledge(id) == true) return
            "unsubscribe" -> readings.remove(body.text("room"))?.subscription?.close()
            "signal" -> signal(body)
            "history" -> return report(id, "historyPage", page(body))
            "focus" -> client.room(body.text("room")).focus(Focus.valueOf(body.text("level").uppercase()))
            "networkChanged" -> client.networkChanged()
            "enteredBackground" -> client.enteredBackground()
            "enteredForeground" -> client.enteredForeground()
            "refreshToken" -> client.refreshToken()
            "flush" -> client.flush()
            else -> return report(id, "failed", json("kind" to "unsupported"))
        }
        report(id, "done")
    }

    private suspend fun subscribe(body: JsonObject) {
        val room = client.room(body.text("room"))
        val subscription = room.subscribe(start(body), body.flag("withSignals"))
        val reading = Reading(room.name, subscription, body.flag("onCommand"), body.positive("batchMax") ?: 256)
        readings[room.name] = reading
        scope.launch { reading.run() }
        val states = subscription.state.transformWhile { emit(it); it !is RoomState.Ended }
        scope.launch { states.collect { report(0, "roomState", it.json(room.name)) } }
        if (!body.flag("withSignals")) return
        scope.launch { room.signals().collect { report(0, "signalChange", it.json(room.name)) } }
    }

    private fun start(body: JsonObject): Start = when (val start = body.text("start")) {
        "", "live" -> Start.Live
        "stored" -> Start.Stored
        "beginning" -> Start.Beginning
        "position" -> Start.At(Position(body.text("position")))
        "count" -> Start.Count(body.number("back"))
        "duration" -> Start.Back(body.number("back").milliseconds)
        else -> error("no start $start")
    }

    private suspend fun publish(id: Int, body: JsonObject) {
        val receipt = client.room(body.text("room")).send(body.text("type"), body.payload()) {
            body.word("lane")?.let { lane = Lane.valueOf(it.uppercase()) }
            transient = body.flag("transient")
            replicated = body.flag("replicated")
            key = body.text("key")
            contentType = body.text("contentType")
            headers = body["headers"]?.jsonObject.orEmpty().mapValues { it.value.jsonPrimitive.content }
            ttl = body.positive("ttlMs")?.milliseconds
            outboxTtl = body.positive("outboxTtlMs")?.milliseconds
        }
        report(id, "queued")
        scope.launch { attempt(id) { report(id, "stored", receipt.use { it.stored() }.json()) } }
    }

    private suspend fun signal(body: JsonObject) {
        val (room, type, key) = Triple(client.room(body.text("room")), body.text("type"), body.text("key"))
        if (body.flag("clear")) room.clearSignal(type, key)
        else room.signal(type, key, body.payload()) { ttl = body.positive("ttlMs")?.milliseconds }
    }

    private suspend fun page(body: JsonObject): JsonObject {
        val direction = if (body.flag("forward")) Direction.FORWARD else Direction.BACKWARD
        val lanes = body["lanes"]?.jsonArray.orEmpty().map { Lane.valueOf(it.jsonPrimitive.content.uppercase()) }
        val cursor = (body["cursor"] as? JsonObject)?.word("text")?.let(::Cursor)
        return client.room(body.text("room")).history(direction, lanes.toSet(), body.positive("limit"), cursor).first().json()
    }

    /** Closes the client. After that nothing of it is reported. */
    suspend fun end() {
        client.shutdown()
        states.join()
        scope.coroutineContext.job.cancelAndJoin()
    }
}

/** A subscription that is read in batches. */
private class Reading(val room: String, val subscription: Subscription, val onCommand: Boolean, val batchMax: Int) {
    private var told: CompletableDeferred<Int>? = null

    suspend fun run() = try {
        while (true) {
            val batch = subscription.nextBatch(batchMax)
            if (batch.isEmpty()) break
            // Waits before the items are told: the command that answers them may come at once.
            val command = if (onCommand) CompletableDeferred<Int>() else null
            synchronized(this) { told = command }
            batch.forEach { if (it is Event) report(0, "event", it.json()) else report(0, "gap", (it as Gap).json()) }
            val id = command?.await()
            subscription.acknowledge()
            report(0, "position", json("room" to room, "position" to subscription.position))
            id?.let { report(it, "done") }
        }
    } catch (_: LanecastException) {
        // The state tells why it ended.
    }

    /** Whether the reading answers the command itself. */
    fun acknowledge(command: Int) = synchronized(this) { told?.complete(command).also { told = null } } == true
}
