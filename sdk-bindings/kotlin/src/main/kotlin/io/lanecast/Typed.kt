package io.lanecast

import io.lanecast.codec.Codec
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.map

/** What a room of values hands over: a [TypedEvent], or a [Gap] in the place of events that will not come. */
public sealed interface TypedItem<out T>

/**
 * An event with its value.
 *
 * @property event the event
 * @property value its value, or what the codec threw: that a payload does not fit says nothing about the events after
 *   it
 */
public class TypedEvent<out T>(public val event: Event, public val value: Result<T>) : TypedItem<T>

/**
 * A room whose payloads are values of one type. From [Room.typed].
 *
 * @property room the room
 */
public class TypedRoom<T> internal constructor(public val room: Room, private val codec: Codec<T>) {
    /** Publishes a value: as [Room.publish]. What the codec throws is thrown on. */
    public suspend fun publish(type: String, value: T, configure: PublishOptions.() -> Unit = {}): Published =
        room.publish(type, codec.encode(value)) { typed(configure) }

    /** Hands a value to the client: as [Room.send]. What the codec throws is thrown on. */
    public suspend fun send(type: String, value: T, configure: PublishOptions.() -> Unit = {}): Receipt =
        room.send(type, codec.encode(value)) { typed(configure) }

    /** The room's events with their values, and gaps: as [Room.events]. */
    public fun events(from: Start = Start.Stored, batchMax: Int = BATCH_MAX): Flow<TypedItem<T>> =
        decoded(room.events(from, batchMax))

    /** Reads a subscription of the room, or any other flow of its items. */
    public fun decoded(items: Flow<RoomItem>): Flow<TypedItem<T>> = items.map { item ->
        when (item) {
            is Event -> TypedEvent(item, decode(item))
            is Gap -> item
        }
    }

    /** Reads the payload of an event. */
    public fun decode(event: Event): Result<T> = runCatching { codec.decode(event.body) }

    private fun PublishOptions.typed(configure: PublishOptions.() -> Unit) {
        contentType = codec.contentType
        configure()
    }
}
