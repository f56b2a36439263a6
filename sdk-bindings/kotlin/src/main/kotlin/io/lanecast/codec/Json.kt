package io.lanecast.codec

import io.lanecast.Body
import kotlinx.serialization.KSerializer
import kotlinx.serialization.json.Json
import kotlinx.serialization.serializer

/**
 * Values as JSON text, by kotlinx.serialization (`kotlinx-serialization-json`, which the application brings).
 *
 * @param serializer reads and writes the values
 * @param format how; the default is strict, so a field that this version does not know is an error of that event
 */
public class JsonCodec<T>(private val serializer: KSerializer<T>, private val format: Json = Json) : Codec<T> {
    override val contentType: String get() = "application/json"

    override fun encode(value: T): Body = Body.Text(format.encodeToString(serializer, value))

    override fun decode(body: Body): T =
        format.decodeFromString(serializer, requireNotNull(body.text) { "the payload is not UTF-8" })
}

/** `room.typed(json<Line>())`: see [JsonCodec]. */
public inline fun <reified T> json(format: Json = Json): JsonCodec<T> = JsonCodec(serializer<T>(), format)
