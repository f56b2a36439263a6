package io.lanecast.codec

import com.google.protobuf.MessageLite
import com.google.protobuf.Parser
import io.lanecast.Body

/**
 * Values as protobuf messages, by the classes that protoc generates (`protobuf-javalite` or `protobuf-java`, which the
 * application brings): `room.typed(ProtobufCodec(Line.parser()))`.
 *
 * @param parser of the message
 */
public class ProtobufCodec<T : MessageLite>(private val parser: Parser<T>) : Codec<T> {
    override val contentType: String get() = "application/protobuf"

    override fun encode(value: T): Body = Body.Bytes(value.toByteArray())

    override fun decode(body: Body): T = parser.parseFrom(body.bytes)
}
