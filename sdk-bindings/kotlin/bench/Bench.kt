/** Reads a room that was filled before, and prints how many events a second it took: `Bench URL ROOM EVENTS ROUNDS`. */
package bench

import io.lanecast.Event
import io.lanecast.Lanecast
import io.lanecast.Start
import kotlinx.coroutines.flow.take
import kotlinx.coroutines.runBlocking

object Bench {
    @JvmStatic
    fun main(arguments: Array<String>): Unit = runBlocking {
        val (url, room) = arguments
        val (events, rounds) = arguments.drop(2).map { it.toInt() }
        // Each round has a client of its own; the first ones also warm the virtual machine.
        repeat(rounds) { println(read(url, room, events)) }
    }

    private suspend fun read(url: String, room: String, events: Int): Long =
        Lanecast.connect(url) { token("dev:kotlin") }.use { client ->
            client.connected()
            val begin = System.nanoTime()
            var bytes = 0L
            val items = client.room(room).events(Start.Beginning, batchMax = 1024).take(events)
            items.collect { bytes += (it as Event).bytes.size }
            events * 1_000_000_000L / (System.nanoTime() - begin)
        }
}
