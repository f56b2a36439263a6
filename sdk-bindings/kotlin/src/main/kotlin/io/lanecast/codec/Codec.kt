package io.lanecast.codec

import io.lanecast.Body

/**
 * Turns values into payloads and back: the seam of [io.lanecast.Room.typed]. What it throws is an error of that value
 * or event alone. It may be called from several threads at a time.
 */
public interface Codec<T> {
    /** MIME type that published events bear. */
    public val contentType: String

    /** Encodes a value. Whatever it throws goes to the one who publishes. */
    public fun encode(value: T): Body

    /** Decodes a payload. Whatever it throws stands in [io.lanecast.TypedEvent.value] of that event. */
    public fun decode(body: Body): T
}
