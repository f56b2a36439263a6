internal import LanecastFFI

/// What the SDK has to say, for the whole process.
public enum Log {
    /// How much a line matters.
    public enum Level: Sendable, Hashable {
        /// Something failed that should not.
        case error
        /// Something is wrong outside.
        case warn
        /// What an operator wants to know.
        case info
        /// What a developer of the application wants to know.
        case debug
        /// What a developer of the SDK wants to know.
        case trace
    }

    /// Hands the SDK's lines of this level, and those that matter more, to a function, which takes the place of the one before.
    /// It is called from a thread of the SDK's, one line at a time, with the part of the SDK that speaks; a slow one loses the
    /// oldest of more than 1,024 lines, and is told how many.
    ///
    /// - Throws: ``LanecastError`` of kind `libraryVersion`; `invalid` if the process has another subscriber of Rust's `tracing`.
    public static func write(
        _ level: Level = .info, to sink: @escaping @Sendable (_ level: Level, _ target: String, _ line: String) -> Void
    ) throws {
        try set(level, sink: Sink(sink))
    }

    /// Hands the lines to nobody.
    ///
    /// - Throws: As ``write(_:to:)``.
    public static func off() throws {
        try set(.error, sink: nil)
    }

    private static func set(_ level: Level, sink: Sink?) throws {
        try Library.check()
        do {
            try setLogSink(level: level.core, sink: sink)
        } catch let error as FfiError {
            throw LanecastError(error)
        }
    }
}

private final class Sink: LogSink {
    private let write: @Sendable (Log.Level, String, String) -> Void

    init(_ write: @escaping @Sendable (Log.Level, String, String) -> Void) {
        self.write = write
    }

    func log(level: LogLevel, target: String, line: String) throws {
        write(Log.Level(level), target, line)
    }
}

extension Log.Level {
    fileprivate init(_ level: LogLevel) {
        switch level {
        case .error: self = .error
        case .warn: self = .warn
        case .info: self = .info
        case .debug: self = .debug
        case .trace: self = .trace
        }
    }

    fileprivate var core: LogLevel {
        switch self {
        case .error: return .error
        case .warn: return .warn
        case .info: return .info
        case .debug: return .debug
        case .trace: return .trace
        }
    }
}
