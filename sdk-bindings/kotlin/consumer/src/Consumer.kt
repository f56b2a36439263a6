/** Publishes and receives with the packaged SDK, whose library comes out of the JAR: `Consumer URL`. */
package chat

import io.lanecast.Event
import io.lanecast.Lanecast
import io.lanecast.Start
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout

object Consumer {
    @JvmStatic
    fun main(arguments: Array<String>): Unit = runBlocking {
        withTimeout(20_000) {
            Lanecast.connect(arguments.first()) { token("dev:consumer") }.use { client ->
                val room = client.room("chat.consumer")
                val published = room.publish("msg", "hello")
                val event = room.events(Start.Beginning).first { it is Event && it.seq == published.seq } as Event
                check(event.text == "hello") { "$event" }
                println("the consumer received ${event.text} as ${event.order}")
            }
        }
    }
}
