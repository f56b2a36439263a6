/** What the suite and the SDK hand over, as words of JSON. */
package io.lanecast.driver

import io.lanecast.*
import kotlinx.serialization.json.*
import java.io.DataOutputStream
import java.util.Base64
import kotlin.time.Duration.Companion.milliseconds
import kotlin.time.Instant

private val output = DataOutputStream(System.out)

/** Sends a frame: one at a time, whichever coroutine reports. */
internal fun report(command: Int, name: String, words: Any = json()) {
    val frame = json("command" to command, name to words).toString().encodeToByteArray()
    synchronized(output) { output.run { writeInt(frame.size); write(frame); flush() } }
}

/** A message of these fields, without those that are null, and of what [more] is as a message. */
internal fun json(vararg fields: Pair<String, Any?>, more: Any? = null): JsonObject {
    val told = fields.filter { it.second != null }.associate { (name, value) -> name to element(value) }
    return JsonObject(told + more?.let(::element)?.jsonObject.orEmpty())
}

private fun element(of: Any?): JsonElement = when (of) {
    is JsonElement -> of
    is Boolean -> JsonPrimitive(of)
    is Number -> JsonPrimitive(of)
    is Enum<*> -> JsonPrimitive(of.name.lowercase())
    is Instant -> JsonPrimitive(of.toEpochMilliseconds())
    is Map<*, *> -> JsonObject(of.entries.associate { "${it.key}" to element(it.value) })
    is List<*> -> JsonArray(of.map(::element))
    is ClientState.Suspended -> json("name" to "suspended", more = of.cause)
    is ClientState.Closed -> json("name" to "closed", more = of.cause)
    is RoomState.CatchingUp -> json("name" to "catching_up", "recovered" to of.recovered)
    is RoomState.Live -> json("name" to "live", "recovered" to of.recovered)
    is RoomState.Ended -> json("name" to "ended", "code" to of.cause?.code)
    is ClientState, is RoomState -> json("name" to of.toString().lowercase())
    is Cause -> json("code" to of.code, "codeName" to of.knownCode?.name, "detail" to of.detail)
    is LanecastException ->
        json("kind" to of.javaClass.simpleName, "retryable" to of.retryable, more = Cause(of.code, of.detail))
    is Event -> json(
        "room" to of.room, "lane" to of.lane, "epoch" to of.epoch, "seq" to of.seq, "order" to of.order,
        "type" to of.type, "key" to of.key, "contentType" to of.contentType, "headers" to of.headers, "body" to of.body,
        "user" to of.from.user, "service" to of.from.service, "instance" to of.from.instance, "timeMs" to of.time,
        "expiresAtMs" to of.expiresAt,
    )
    is Gap -> json(
        "room" to of.room, "lane" to of.lane, "cause" to of.cause, "refillable" to of.refillable, more = of.missing,
    )
    is Missing.Seqs -> json("epoch" to of.epoch, "from" to of.from, "to" to of.to)
    is Missing.Transients -> json("count" to of.count)
    is Body.Text -> json("text" to of.text)
    is Body.Bytes -> json("data" to Base64.getEncoder().encodeToString(of.bytes))
    is SignalChange.Live -> json("body" to of.body, "expiresAtMs" to of.expiresAt, more = signal(of))
    is SignalChange.Gone -> json("gone" to true, "expired" to of.expired, more = signal(of))
    is Published ->
        json("lane" to of.lane, "epoch" to of.epoch, "seq" to of.seq, "order" to of.order, "duplicate" to of.duplicate)
    is Page -> json("events" to of.events, "gaps" to of.gaps, "next" to of.next, "head" to of.head)
    is Cursor -> json("text" to of.text)
    is Outcome -> json("room" to of.room, "lane" to of.lane, "type" to of.type, "key" to of.key, more = of.result)
    is Result<*> -> json("stored" to of.getOrNull(), "failed" to of.exceptionOrNull())
    else -> JsonPrimitive(of.toString())
}

private fun signal(of: SignalChange) =
    json("user" to of.from.user, "instance" to of.from.instance, "type" to of.type, "key" to of.key)

internal fun JsonObject.text(name: String): String = get(name)?.jsonPrimitive?.content.orEmpty()
internal fun JsonObject.word(name: String): String? = text(name).ifEmpty { null }
internal fun JsonObject.number(name: String): Int = get(name)?.jsonPrimitive?.int ?: 0
internal fun JsonObject.positive(name: String): Int? = number(name).takeIf { it > 0 }
internal fun JsonObject.time(name: String) = positive(name)?.milliseconds
internal fun JsonObject.flag(name: String): Boolean = get(name)?.jsonPrimitive?.boolean ?: false
internal fun JsonObject.part(name: String): JsonObject = get(name) as? JsonObject ?: json()
internal fun JsonObject.payload(): Body = part("body").run {
    if ("text" in this) Body.Text(text("text")) else Body.Bytes(Base64.getDecoder().decode(text("data")))
}
