/** A chat in the terminal, in the room of the page that a node for development serves: `chat NAME [URL]`. */
package chat

import io.lanecast.Event
import io.lanecast.Gap
import io.lanecast.Lane
import io.lanecast.Lanecast
import io.lanecast.LanecastException
import io.lanecast.Receipt
import io.lanecast.Room
import io.lanecast.RoomItem
import io.lanecast.SignalChange
import io.lanecast.Start
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.cancelChildren
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.flow.asFlow
import kotlinx.coroutines.flow.flowOn
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking

fun main(arguments: Array<String>) = runBlocking {
    val name = arguments.getOrElse(0) { "kotlin" }
    val client = Lanecast.connect(arguments.getOrElse(1) { "ws://127.0.0.1:8080" }) {
        // Asked again when the token expires or is refused: ask your own backend here.
        token { "dev:$name" }
        app("terminal chat", Lanecast.VERSION)
    }
    client.use {
        val room = client.room("demo")
        launch { client.state.collect { println("-- $it") } }
        launch { room.events(from = Start.Count(20)).collect(::show) }
        launch { room.signals().collect(::show) }
        coroutineScope {
            generateSequence(::readlnOrNull).asFlow().flowOn(Dispatchers.IO).collect { line ->
                val receipt = say(room, line) // Handed over in order; the answers come when they come.
                launch { told(receipt) }
            }
        }
        coroutineContext.cancelChildren()
    }
}

/** A line that begins with `!` overtakes everything else, in every queue up to whoever reads it. */
suspend fun say(room: Room, line: String): Receipt =
    room.send("msg", line.removePrefix("!")) { if (line.startsWith("!")) lane = Lane.URGENT }

suspend fun told(receipt: Receipt) = try {
    println("-- stored as ${receipt.use { it.stored() }.order}")
} catch (failed: LanecastException) {
    println("-- not sent: ${failed.message}")
}

fun show(item: RoomItem) = when (item) {
    is Event -> if (item.type == "bulk") Unit else println("${item.from}: ${item.text ?: "${item.bytes.size} bytes"}")
    is Gap -> println("-- missing: $item")
}

fun show(change: SignalChange) =
    if (change is SignalChange.Live && change.type == "typing") println("-- ${change.from} types") else Unit
