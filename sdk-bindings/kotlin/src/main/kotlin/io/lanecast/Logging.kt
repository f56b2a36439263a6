package io.lanecast

import io.lanecast.ffi.setLogSink
import kotlinx.coroutines.CoroutineExceptionHandler
import io.lanecast.ffi.LogLevel as FfiLogLevel
import io.lanecast.ffi.LogSink as FfiLogSink

/** How much a line of the SDK's log matters. */
public enum class LogLevel {
    /** Something failed that should not. */
    ERROR,

    /** Something is wrong outside. */
    WARN,

    /** What an operator wants to know. */
    INFO,

    /** What a developer of the application wants to know. */
    DEBUG,

    /** What a developer of the SDK wants to know. */
    TRACE,
}

/** Where the SDK's log goes: see [Lanecast.logTo]. */
public fun interface LogSink {
    /**
     * Takes a line, of at most 2,048 bytes. Called from a thread of the SDK's, one line at a time. 1,024 lines wait;
     * beyond them the oldest is dropped, and how many were is a line of its own. What it throws is dropped.
     */
    public fun log(level: LogLevel, target: String, line: String)
}

internal object Logging {
    @Volatile
    private var sink: LogSink? = null

    /**
     * Faults of the SDK's own coroutines: a line of the log, where an uncaught exception would end an Android process.
     */
    val faults: CoroutineExceptionHandler = CoroutineExceptionHandler { _, thrown ->
        sink?.let { tell(it, LogLevel.ERROR, "lanecast::kotlin", thrown.stackTraceToString()) }
    }

    fun to(level: LogLevel, sink: LogSink?) {
        this.sink = sink
        val core = sink?.let {
            object : FfiLogSink {
                override fun log(level: FfiLogLevel, target: String, line: String) =
                    tell(it, level.lift(), target, line)
            }
        }
        lifting { setLogSink(level.lower(), core) }
    }

    /** Also an `Error` of the application ends here: the line's thread is the native library's. */
    @Suppress("TooGenericExceptionCaught", "SwallowedException")
    private fun tell(sink: LogSink, level: LogLevel, target: String, line: String) {
        try {
            sink.log(level, target, line)
        } catch (_: Throwable) {
            // There is nobody else to tell.
        }
    }

    private fun FfiLogLevel.lift() = when (this) {
        FfiLogLevel.ERROR -> LogLevel.ERROR
        FfiLogLevel.WARN -> LogLevel.WARN
        FfiLogLevel.INFO -> LogLevel.INFO
        FfiLogLevel.DEBUG -> LogLevel.DEBUG
        FfiLogLevel.TRACE -> LogLevel.TRACE
    }

    private fun LogLevel.lower() = when (this) {
        LogLevel.ERROR -> FfiLogLevel.ERROR
        LogLevel.WARN -> FfiLogLevel.WARN
        LogLevel.INFO -> FfiLogLevel.INFO
        LogLevel.DEBUG -> FfiLogLevel.DEBUG
        LogLevel.TRACE -> FfiLogLevel.TRACE
    }
}
