package io.lanecast

import io.lanecast.codec.Codec
import io.lanecast.ffi.SubscribeOptions
import kotlinx.coroutines.flow.Flow
import io.lanecast.ffi.Focus as FfiFocus

/** A room of a client: a name and a handle, cheap to make. From [Client.room]. */
public class Room internal constructor(internal val client: Client, public val name: String) {
    /**
     * The room's events, and gaps in the place of events that will not come: subscribes when it is collected, and
     * unsubscribes when the collector ends. A later collector of the *same* flow goes on where the one before stopped,
     * so a screen that comes and goes misses nothing: keep the flow, in a view model for example. What has been asked
     * of a collector that is cancelled, and of operators with buffers, stands at [Subscription.events].
     *
     * For its state and position see [subscribe].
     *
     * @param from where the first collector begins
     * @param batchMax items that are asked for at a time: 1 to 4,096
     * @throws LanecastException in the collector: as [subscribe], and [Refused][LanecastException.Refused] if the node
     *   ended the subscription
     */
    public fun events(from: Start = Start.Stored, batchMax: Int = BATCH_MAX): Flow<RoomItem> =
        RoomEvents(this, from, batchMax).flow

    /**
     * Subscribes. Resolves once the client has taken the subscription on, also without a connection; what the node says
     * to it is told by [Subscription.ready] and [Subscription.state]. A client has one subscription of a room at a
     * time.
     *
     * @param from where to begin
     * @param withSignals also gets the room's signals, for [signals]
     * @throws LanecastException [Invalid][LanecastException.Invalid],
     *   [AlreadySubscribed][LanecastException.AlreadySubscribed], [TooManyRooms][LanecastException.TooManyRooms] or
     *   [Closed][LanecastException.Closed]
     */
    public suspend fun subscribe(from: Start = Start.Stored, withSignals: Boolean = false): Subscription {
        val options = SubscribeOptions(from.lower(), withSignals)
        return client.onRoom(name) { Subscription(this, it.subscribe(options, null)) }
    }

    /**
     * Publishes text, and waits until the node has **stored** it; of a transient event: passed it on. Publishes of a
     * room and lane reach the log in the order in which they were handed to the client. Those without an answer are
     * sent again after a reconnect, and stored once. Cancelling takes nothing back.
     *
     * @param type chosen by the application, at most 128 bytes; those that begin with `$` are the system's own
     * @throws LanecastException as [send] and [Receipt.stored]
     */
    public suspend fun publish(type: String, text: String, configure: PublishOptions.() -> Unit = {}): Published =
        publish(type, Body.Text(text), configure)

    /** Publishes a payload: as the other [publish]. */
    public suspend fun publish(type: String, body: Body, configure: PublishOptions.() -> Unit = {}): Published =
        send(type, body, configure).use { it.stored() }

    /**
     * Hands text to the client without waiting for the node: the way to have many on their way at a time. With an
     * outbox file it is **queued** when this returns: it is sent even if the process is killed now.
     *
     * @throws LanecastException [Invalid][LanecastException.Invalid] or [Closed][LanecastException.Closed]; with an
     *   outbox file also [OutboxFull][LanecastException.OutboxFull] and [NotKept][LanecastException.NotKept], which
     *   without one [Receipt.stored] throws
     */
    public suspend fun send(type: String, text: String, configure: PublishOptions.() -> Unit = {}): Receipt =
        send(type, Body.Text(text), configure)

    /** Hands a payload to the client: as the other [send]. */
    public suspend fun send(type: String, body: Body, configure: PublishOptions.() -> Unit = {}): Receipt {
        val publication = PublishOptions().apply(configure).publication(type, body)
        return client.onRoom(name) { Receipt(it.publish(publication, null)) }
    }

    /**
     * Sends a signal, a lossy message of which only the newest of its [type] and [key] matters: typing, a cursor. It is
     * conflated, paced to the node's limit, and forgotten when its time to live is over. Nothing answers it.
     *
     * @param type 1 to 128 bytes
     * @param key 1 to 256 bytes
     * @throws LanecastException [Invalid][LanecastException.Invalid] or [Closed][LanecastException.Closed]
     */
    public suspend fun signal(
        type: String,
        key: String,
        text: String = "",
        configure: SignalOptions.() -> Unit = {},
    ): Unit = signal(type, key, Body.Text(text), configure)

    /** Sends a signal with a payload: as the other [signal]. */
    public suspend fun signal(type: String, key: String, body: Body, configure: SignalOptions.() -> Unit = {}) {
        val signal = SignalOptions().apply(configure).signal(type, key, body)
        client.onRoom(name) { it.signal(signal) }
    }

    /**
     * Takes a signal back: typing stopped.
     *
     * @throws LanecastException as [signal]
     */
    public suspend fun clearSignal(type: String, key: String): Unit = client.onRoom(name) { it.clearSignal(type, key) }

    /**
     * The room's signals: those that live, then every change. A collector that is slow sees the newest state of each
     * key, never a backlog. Subscribes to the room if nobody has. Ends with the room's subscription, or with the
     * client.
     *
     * @throws LanecastException in the collector: [Invalid][LanecastException.Invalid],
     *   [TooManyRooms][LanecastException.TooManyRooms] or [Closed][LanecastException.Closed]
     */
    public fun signals(): Flow<SignalChange> = signalsOf(this)

    /**
     * The room's past, a page for each item: the next page is asked for when the collector has taken the one before, so
     * `take` and `first` cost what they take.
     *
     * @param direction newest first, or oldest first
     * @param lanes only these; none: all
     * @param pageSize events in a page; the node's limit, 200 unless set, holds above it; null: as many as the node
     *   likes
     * @param cursor where to begin: [Page.next] of an earlier page
     * @throws LanecastException in the collector: [Invalid][LanecastException.Invalid],
     *   [TooMany][LanecastException.TooMany], [Refused][LanecastException.Refused] or
     *   [Closed][LanecastException.Closed]
     */
    public fun history(
        direction: Direction = Direction.BACKWARD,
        lanes: Set<Lane> = emptySet(),
        pageSize: Int? = null,
        cursor: Cursor? = null,
    ): Flow<Page> = pagesOf(this, direction, lanes, pageSize, cursor)

    /**
     * Raises or lowers the room among the others of this client, for as long as it is subscribed: what waits of it at
     * the node comes before, or after, that of the same lane in other rooms. Kept over reconnects.
     */
    public suspend fun focus(focus: Focus): Unit = client.onRoom(name) { it.focus(focus.lower()) }

    /** The room with payloads of one type: `room.typed(json<Line>())`. */
    public fun <T> typed(codec: Codec<T>): TypedRoom<T> = TypedRoom(this, codec)
}

/** How much a room matters to the user now. */
public enum class Focus {
    /** The user looks at it. */
    FOREGROUND,

    /** As the lane says. */
    DEFAULT,

    /** The user does not look. */
    BACKGROUND,
    ;

    internal fun lower() = when (this) {
        FOREGROUND -> FfiFocus.FOREGROUND
        DEFAULT -> FfiFocus.DEFAULT
        BACKGROUND -> FfiFocus.BACKGROUND
    }
}
