/** The driver of the conformance suite for this SDK: conformance/driver.md, in JSON over standard input and output. */
package io.lanecast.driver

import io.lanecast.*
import kotlinx.coroutines.*
import kotlinx.coroutines.flow.*
import kotlinx.coroutines.sync.*
import kotlinx.serialization.json.*
import java.io.DataInputStream
import java.io.EOFException
import java.util.concurrent.ConcurrentHashMap
import java.util.concurrent.CopyOnWriteArrayList
import kotlin.time.Duration.Companion.milliseconds

private val DONE = "done" to json()
private val UNSUPPORTED = "failed" to json("kind" to "unsupported")

fun main(): Unit = runBlocking(Dispatchers.Default) {
    val transports = listOf("websocket", "quic")
    report(0, "ready", json("sdk" to "lanecast-kotlin", "version" to Lanecast.VERSION, "transports" to transports))
    var session: Session? = null
    val input = DataInputStream(System.`in`.buffered())
    while (true) {
        val length = try { input.readInt() } catch (_: EOFException) { break }
        val command = Json.parseToJsonElement(input.readNBytes(length).decodeToString()).jsonObject
        val id = command.number("id")
        val name = command.keys.first { it != "id" }
        val body = command.part(name)
        when (name) {
            "connect" -> answer(id) { session = Session(connect(body)); DONE }
            "shutdown" -> answer(id) { session?.end(); session = null; DONE }
            else -> session?.begin(id, name, body) ?: answer(id) { UNSUPPORTED }
        }
    }
    session?.end()
}

/** Carries a command out and reports how it ended; null: something else reports it later. */
private suspend fun answer(id: Int, command: suspend () -> Pair<String, Any>?) = try {
    command()?.let { (kind, words) -> report(id, kind, words) }
} catch (failed: LanecastException) {
    report(id, "failed", failed)
}

/** The tokens that clients asked for, by the number of the question. */
private val asked = CopyOnWriteArrayList<CompletableDeferred<String>>()

private suspend fun connect(body: JsonObject) = Lanecast.connect(body.text("url")) {
    if (!body.flag("asksForTokens")) token(body.text("token"))
    else token { request ->
        val answer = CompletableDeferred<String>().also { asked += it }
        report(0, "tokenWanted", json("ask" to asked.indexOf(answer) + 1, "refused" to (request.refused != null)))
        answer.await()
    }
    body.word("outboxFile")?.let { outboxFile(it) }
    positionsFile = body.word("positionsFile")
    val (items, bytes) = body.positive("outboxItemsMax") to body.positive("outboxBytesMax")
    if (items != null || bytes != null) outbox(items ?: 10_000, bytes?.toLong() ?: (16L shl 20))
    outboxTtl = body.time("outboxTtlMs")
    body.word("certificateSha256")?.let { certificateHash(it.hexToByteArray()) }
    body.word("extraRoot")?.let { extraRoot(it) }
    device = body.word("device")
    app(body.text("app"), body.text("appVersion"))
}

/** A client, and what is read of it. */
private class Session(private val client: Client) {
    private val scope = CoroutineScope(SupervisorJob() + Dispatchers.Default)
    private val readers = CoroutineScope(SupervisorJob() + Dispatchers.Default)
    private val subscriptions = ConcurrentHashMap<String, Subscription>()
    private val publishing = Mutex()

    /** By room: readers that have reported a batch, and want the id of `acknowledge`. */
    private val waiting = ConcurrentHashMap<String, CompletableDeferred<Int>>()

    init {
        client.state.tell("state")
        client.outbox.outcomes().tell("outcome")
    }

    /** Reports everything of a flow, to its end or a last state. */
    private fun Flow<Any>.tell(name: String, room: String? = null) =
        transformWhile { emit(it); it !is ClientState.Closed && it !is RoomState.Ended }
            .onEach { report(0, name, json("room" to room, more = it)) }.launchIn(scope)

    /** Carries a command out up to where it has to wait, and from there on beside those that come after it. */
    fun begin(id: Int, name: String, body: JsonObject) =
        scope.launch(start = CoroutineStart.UNDISPATCHED) { answer(id) { command(id, name, body) } }

    private suspend fun command(id: Int, name: String, body: JsonObject): Pair<String, Any>? {
        val room = client.room(body.text("room"))
        when (name) {
            "giveToken" -> asked[body.number("ask") - 1].complete(body.text("token"))
            "refuseToken" -> asked[body.number("ask") - 1].completeExceptionally(Exception(body.text("detail")))
            "subscribe" -> subscribe(room, body)
            "acknowledge" -> if (waiting.remove(room.name)?.complete(id) == true) return null
            "unsubscribe" -> subscriptions.remove(room.name)?.also { waiting.remove(room.name) }?.close()
            "publish" -> return "stored" to publish(id, room, body)
            "signal" ->
                if (body.flag("clear")) room.clearSignal(body.text("type"), body.text("key"))
                else room.signal(body.text("type"), body.text("key"), body.payload()) { ttl = body.time("ttlMs") }
            "history" -> return "historyPage" to room.history(
                if (body.flag("forward")) Direction.FORWARD else Direction.BACKWARD,
                body["lanes"]?.jsonArray.orEmpty().map { Lane.valueOf(it.jsonPrimitive.content.uppercase()) }.toSet(),
                body.positive("limit"),
                body.part("cursor").word("text")?.let(::Cursor),
            ).first()
            "focus" -> room.focus(Focus.valueOf(body.text("level").uppercase()))
            "networkChanged" -> client.networkChanged()
            "enteredBackground" -> client.enteredBackground()
            "enteredForeground" -> client.enteredForeground()
            "refreshToken" -> client.refreshToken()
            "flush" -> client.flush()
            else -> return UNSUPPORTED
        }
        return DONE
    }

    private suspend fun subscribe(room: Room, body: JsonObject) {
        val start = when (body.text("start")) {
            "stored" -> Start.Stored
            "beginning" -> Start.Beginning
            "position" -> Start.At(Position(body.text("position")))
            "count" -> Start.Count(body.number("back"))
            "duration" -> Start.Back(body.number("back").milliseconds)
            else -> Start.Live
        }
        val subscription = room.subscribe(start, body.flag("withSignals"))
        subscriptions[room.name] = subscription
        readers.launch { read(room.name, subscription, body) }
        subscription.state.tell("roomState", room.name)
        if (body.flag("withSignals")) room.signals().tell("signalChange", room.name)
    }

    private suspend fun read(room: String, subscription: Subscription, body: JsonObject) = try {
        while (true) {
            val batch = subscription.nextBatch(body.positive("batchMax") ?: 256).ifEmpty { break }
            // Waits before the items are told: the command that answers them may come at once.
            val command = if (body.flag("onCommand")) CompletableDeferred<Int>().also { waiting[room] = it } else null
            batch.forEach { report(0, if (it is Event) "event" else "gap", it) }
            val id = command?.await()
            subscription.acknowledge()
            report(0, "position", json("room" to room, "position" to subscription.position))
            id?.let { answer(it) { DONE } }
        }
    } catch (_: LanecastException) {
        // The state tells why it ended.
    }

    /** Hands over one at a time, in the order in which they came; that they are stored is waited for side by side. */
    private suspend fun publish(id: Int, room: Room, body: JsonObject) = publishing.withLock {
        room.send(body.text("type"), body.payload()) {
            body.word("lane")?.let { lane = Lane.valueOf(it.uppercase()) }
            transient = body.flag("transient")
            replicated = body.flag("replicated")
            key = body.text("key")
            contentType = body.text("contentType")
            headers = body.part("headers").mapValues { it.value.jsonPrimitive.content }
            ttl = body.time("ttlMs")
            outboxTtl = body.time("outboxTtlMs")
        }.also { report(id, "queued") }
    }.use { it.stored() }

    /** Closes the client. What reports, but for readers that wait, ends by itself then, and nothing comes after it. */
    suspend fun end() {
        client.shutdown()
        readers.coroutineContext.job.cancelAndJoin()
        scope.coroutineContext.job.children.forEach { it.join() }
    }
}
