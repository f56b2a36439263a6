package io.lanecast

import org.junit.jupiter.api.Test
import java.io.File
import kotlin.test.assertEquals
import kotlin.test.assertTrue

class ReadmeTest {
    @Test
    fun `the README shows the sample, which is short`() {
        val begin = "<!-- sample/Chat.kt -->\n```kotlin\n"
        val shown = File("README.md").readText().substringAfter(begin).substringBefore("\n```")
        val sample = File("sample/Chat.kt").readText().trim()
        assertEquals(sample, shown)
        assertTrue(sample.lines().size <= 60, "${sample.lines().size} lines")
    }

    @Test
    fun `the version is the one of the project`() {
        val project = File("pom.xml").readLines().first { it.startsWith("  <version>") }
        assertEquals("  <version>${Lanecast.VERSION}</version>", project)
    }
}
