package io.lanecast

import io.lanecast.support.Node
import io.lanecast.support.eventually
import io.lanecast.support.test
import kotlinx.coroutines.runBlocking
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.nio.file.Path
import java.util.concurrent.CopyOnWriteArrayList
import java.util.concurrent.TimeUnit
import kotlin.io.path.writeText
import kotlin.test.assertEquals
import kotlin.test.assertTrue

/** Tries to connect, and says what came of it. Another process, since a library is loaded once. */
object Probe {
    @JvmStatic
    fun main(arguments: Array<String>) = runBlocking {
        // Twice: what failed once fails in the same way again.
        repeat(2) {
            val failure = runCatching { Lanecast.connect("ws://127.0.0.1:1") { token("dev:alice") } }.exceptionOrNull()
            println("${failure?.javaClass?.simpleName}: ${failure?.message}")
        }
    }
}

class LibraryTest {
    @TempDir
    lateinit var folder: Path

    @Test
    fun `no library is an error that says so`() {
        assertSays("Library: the native library cannot be used: lanecast_ffi cannot be loaded")
    }

    @Test
    fun `a library of another layout is an error and no crash`() {
        // The layout's version is the first thing that is asked for.
        val source = folder.resolve("other.rs")
        val function = "extern \"C\" fn ffi_lanecast_ffi_uniffi_contract_version() -> u32 { 1 }"
        source.writeText("#[unsafe(no_mangle)] pub $function")
        val library = "$folder/liblanecast_ffi.so"
        val compiling = ProcessBuilder("rustc", "--edition=2024", "--crate-type=cdylib", "-o", library, "$source")
        assertEquals(0, compiling.inheritIO().start().waitFor())
        assertSays("is not that of version ${Lanecast.VERSION}")
    }

    @Test
    fun `a library of another version is named`() {
        assertEquals(null, Library.mismatch(Lanecast.VERSION))
        assertEquals("it is of version 9.8.7, and these classes of ${Lanecast.VERSION}", Library.mismatch("9.8.7"))
    }

    private fun assertSays(sentence: String) {
        val java = "${System.getProperty("java.home")}/bin/java"
        val classes = System.getProperty("java.class.path")
        val command = listOf(java, "-cp", classes, "-Djna.library.path=$folder", "io.lanecast.Probe")
        val probing = ProcessBuilder(command).redirectErrorStream(true).start()
        val said = probing.inputStream.bufferedReader().readText()
        assertTrue(probing.waitFor(60, TimeUnit.SECONDS) && probing.exitValue() == 0, said)
        val lines = said.trim().lines()
        assertEquals(2, lines.filter { sentence in it }.size, said)
    }

    @Test
    fun `the log goes to its sink, whatever that throws`() = test {
        val lines = CopyOnWriteArrayList<String>()
        Lanecast.logTo(LogLevel.TRACE) { level, target, line ->
            lines += "$level $target $line"
            throw NotImplementedError("a fault of the application")
        }
        try {
            Node().use { node -> node.client().use { it.connected() } }
            eventually("lines of the log") { lines.size > 1 }
        } finally {
            Lanecast.logTo(LogLevel.ERROR, null)
        }
    }
}
