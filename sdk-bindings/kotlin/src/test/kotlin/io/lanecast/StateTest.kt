package io.lanecast

import org.junit.jupiter.api.Test
import kotlin.test.assertEquals

/** What is written by hand has the names of the one source of all SDKs. */
class StateTest {
    @Test
    fun `states have the names that they have in all SDKs`() {
        assertEquals(StateNames.client.toSet(), names(ClientState::class.java))
        assertEquals(StateNames.room.toSet(), names(RoomState::class.java))
    }

    private fun names(states: Class<*>) = states.declaredClasses.map { it.simpleName }.toSet()
}
