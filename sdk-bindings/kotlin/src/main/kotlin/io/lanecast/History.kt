package io.lanecast

import io.lanecast.ffi.HistoryRequest
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.flow
import io.lanecast.ffi.Direction as FfiDirection

/** Which way to read a room's past. */
public enum class Direction {
    /** Newest first. */
    BACKWARD,

    /** Oldest first. */
    FORWARD,
    ;

    internal fun lower() = when (this) {
        BACKWARD -> FfiDirection.BACKWARD
        FORWARD -> FfiDirection.FORWARD
    }
}

/**
 * A place in a room's past.
 *
 * @property text its text form, made to be stored
 */
@JvmInline
public value class Cursor(public val text: String) {
    override fun toString(): String = text
}

/**
 * A page of a room's past.
 *
 * @property events the events, merged over the lanes by [Event.order], in the direction asked for
 * @property gaps what is missing inside the page's range
 * @property next where the next page begins; null: there is nothing further
 * @property head the head when the first page was read: subscribe from there after the last page, and nothing is missed
 */
public class Page(
    public val events: List<Event>,
    public val gaps: List<Gap>,
    public val next: Cursor?,
    public val head: Position?,
)

internal fun pagesOf(
    room: Room,
    direction: Direction,
    lanes: Set<Lane>,
    pageSize: Int?,
    cursor: Cursor?,
): Flow<Page> = flow {
    require(pageSize == null || pageSize > 0) { "a page holds at least one event" }
    var at = cursor?.text
    var head: String? = null
    do {
        val request = HistoryRequest(direction.lower(), lanes.map { it.lower() }, pageSize?.toUInt(), at)
        val page = room.client.onRoom(room.name) { it.historyPage(request, null) }
        head = head ?: page.head
        val events = page.events.map { it.lift(room.name) }
        emit(Page(events, page.gaps.map { it.lift(room.name) }, page.next?.let(::Cursor), head?.let(::Position)))
        // A page that leads nowhere new would lead round in a circle.
        val goesOn = page.next != null && page.next != at
        at = page.next
    } while (goesOn)
}
