import Foundation
import XCTest

/// A real node as a process of its own.
final class Node: @unchecked Sendable {
    /// Retention for what is tested, and reconnects that take no test's time.
    private static let configuration = """
        [reconnect]
        min_ms = 2
        max_ms = 20

        [tokens]
        hs256_secret = "a secret of at least thirty-two bytes"
        leeway_ms = 0

        [[policies]]
        rooms = "trim.**"
        retention_events = 10

        [[policies]]
        rooms = "**"
        retention_events = 30_000
        """

    /// Of WebSocket.
    let url: String
    private let folder: URL
    private let address: String
    private var process: Process

    init() throws {
        folder = FileManager.default.temporaryDirectory.appendingPathComponent("lanecast-swift-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        try Self.configuration.write(to: folder.appendingPathComponent("lanecast.toml"), atomically: true, encoding: .utf8)
        (process, address) = try Self.spawn(folder: folder, listen: "127.0.0.1:0")
        url = "ws://\(address)"
    }

    deinit {
        stop()
        try? FileManager.default.removeItem(at: folder)
    }

    /// A file in the node's folder, which is gone with the node.
    func file(_ name: String) -> String {
        folder.appendingPathComponent(name).path
    }

    func stop() {
        guard process.isRunning else { return }
        kill(process.processIdentifier, SIGKILL)
        process.waitUntilExit()
    }

    /// A new life at the same address, with empty rooms.
    func start() throws {
        (process, _) = try Self.spawn(folder: folder, listen: address)
    }

    /// Makes a token for rooms `chat.**` that holds so many seconds.
    func mint(_ user: String, seconds: Int) throws -> String {
        let process = Process()
        process.executableURL = try Self.binary()
        process.arguments = ["token", "--user", user, "--rights", "subscribe,publish@chat.**", "--ttl", "\(seconds)s",
                             "--config", file("lanecast.toml")]
        let output = Pipe()
        process.standardOutput = output
        try process.run()
        let token = output.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        return String(decoding: token, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)
    }

    private static func binary() throws -> URL {
        guard let binary = ProcessInfo.processInfo.environment["LANECAST_BIN"] else {
            throw NodeError("LANECAST_BIN has to name the node's binary")
        }
        return URL(fileURLWithPath: binary)
    }

    /// Starts a node and returns once it says where it listens.
    private static func spawn(folder: URL, listen: String) throws -> (Process, String) {
        let process = Process()
        process.executableURL = try binary()
        process.arguments = ["serve", "--dev", "--listen", listen, "--quic", "127.0.0.1:0", "--config",
                             folder.appendingPathComponent("lanecast.toml").path]
        let output = Pipe()
        process.standardOutput = output
        process.standardError = FileHandle.nullDevice
        process.standardInput = FileHandle.nullDevice
        try process.run()
        var said = Data()
        while true {
            let more = output.fileHandleForReading.availableData
            guard !more.isEmpty else {
                process.waitUntilExit()
                throw NodeError("the node ended: \(String(decoding: said, as: UTF8.self))")
            }
            said += more
            let lines = String(decoding: said, as: UTF8.self).split(separator: "\n").dropLast()
            let begin = "listening on http://"
            if let line = lines.first(where: { $0.hasPrefix(begin) }) {
                // It goes on printing, and must not wait for a reader.
                output.fileHandleForReading.readabilityHandler = { _ = $0.availableData }
                return (process, line.dropFirst(begin.count).trimmingCharacters(in: ["/"]))
            }
        }
    }
}

struct NodeError: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) {
        self.description = description
    }
}
