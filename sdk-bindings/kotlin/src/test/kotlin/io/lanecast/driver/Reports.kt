/** What the SDK hands over, as the driver's messages. */
package io.lanecast.driver

import io.lanecast.*
import kotlinx.serialization.json.*
import java.io.DataOutputStream
import java.util.Base64

private val output = DataOutputStream(System.out)

/** Sends a frame: one at a time, whichever coroutine reports. */
internal fun report(command: Int, name: String, value: JsonObject = json()) {
    val frame = json("command" to command, name to value).toString().encodeToByteArray()
    synchronized(output) { output.run { writeInt(frame.size); write(frame); flush() } }
}

internal fun json(vararg fields: Pair<String, Any?>): JsonObject =
    JsonObject(fields.filter { it.second != null }.associate { (name, value) -> name to element(value) })

private fun element(value: Any?): JsonElement = when (value) {
    is JsonElement -> value
    is Boolean -> JsonPrimitive(value)
    is Number -> JsonPrimitive(value)
    is Enum<*> -> JsonPrimitive(value.name.lowercase())
    is Map<*, *> -> JsonObject(value.entries.associate { "${it.key}" to element(it.value) })
    is List<*> -> JsonArray(value.map(::element))
    else -> JsonPrimitive(value.toString())
}

internal fun JsonObject.text(name: String): String = get(name)?.jsonPrimitive?.content.orEmpty()
internal fun JsonObject.word(name: String): String? = text(name).ifEmpty { null }
internal fun JsonObject.number(name: String): Int = get(name)?.jsonPrimitive?.int ?: 0
internal fun JsonObject.positive(name: String): Int? = number(name).takeIf { it > 0 }
internal fun JsonObject.flag(name: String): Boolean = get(name)?.jsonPrimitive?.boolean ?: false

internal fun JsonObject.payload(): Body {
    val body = get("body") as? JsonObject ?: return Body.Bytes(byteArrayOf())
    return body.word("data")?.let { Body.Bytes(Base64.getDecoder().decode(it)) } ?: Body.Text(body.text("text"))
}

private fun Body.json() = when (this) {
    is Body.Text -> json("text" to text)
    is Body.Bytes -> json("data" to Base64.getEncoder().encodeToString(bytes))
}

internal fun LanecastException.json() = json(
    "kind" to javaClass.simpleName, "code" to code, "codeName" to knownCode?.name, "retryable" to retryable,
    "detail" to detail,
)

private fun Any.name() = javaClass.simpleName.replace("gU", "g_u").lowercase()

internal fun ClientState.json(): JsonObject {
    val cause: Cause? = (this as? ClientState.Suspended)?.cause ?: (this as? ClientState.Closed)?.cause
    val known = cause?.knownCode?.name
    return json("name" to name(), "code" to cause?.code, "codeName" to known, "detail" to cause?.detail)
}

internal fun RoomState.json(room: String): JsonObject {
    val recovered = (this as? RoomState.CatchingUp)?.recovered ?: (this as? RoomState.Live)?.recovered
    val code = (this as? RoomState.Ended)?.cause?.code
    return json("room" to room, "name" to name(), "recovered" to recovered, "code" to code)
}

internal fun Event.json() = json(
    "room" to room, "lane" to lane, "epoch" to epoch, "seq" to seq, "order" to order, "type" to type, "key" to key,
    "contentType" to contentType, "headers" to headers, "body" to body.json(), "user" to from.user,
    "service" to from.service, "instance" to from.instance, "timeMs" to time.toEpochMilliseconds(),
    "expiresAtMs" to expiresAt?.toEpochMilliseconds(),
)

internal fun Gap.json(): JsonObject {
    val about = arrayOf("room" to room, "lane" to lane, "cause" to cause, "refillable" to refillable)
    return when (val missing = missing) {
        is Missing.Seqs -> json(*about, "epoch" to missing.epoch, "from" to missing.from, "to" to missing.to)
        is Missing.Transients -> json(*about, "count" to missing.count)
    }
}

internal fun SignalChange.json(room: String): JsonObject {
    val about = arrayOf("room" to room, "user" to from.user, "instance" to from.instance, "type" to type, "key" to key)
    return when (this) {
        is SignalChange.Live -> json(*about, "body" to body.json(), "expiresAtMs" to expiresAt.toEpochMilliseconds())
        is SignalChange.Gone -> json(*about, "gone" to true, "expired" to expired)
    }
}

internal fun Published.json() =
    json("lane" to lane, "epoch" to epoch, "seq" to seq, "order" to order, "duplicate" to duplicate)

internal fun Page.json() = json(
    "events" to events.map { it.json() }, "gaps" to gaps.map { it.json() },
    "next" to next?.let { json("text" to it.text) }, "head" to head,
)

internal fun Outcome.json() = json(
    "room" to room, "lane" to lane, "type" to type, "key" to key, "stored" to result.getOrNull()?.json(),
    "failed" to (result.exceptionOrNull() as? LanecastException)?.json(),
)
