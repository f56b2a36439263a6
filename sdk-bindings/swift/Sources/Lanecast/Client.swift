import Foundation
internal import LanecastFFI

/// A client: one connection at a time to a node, kept up until ``shutdown()``, or until nothing refers to the client, its rooms
/// and its subscriptions any more.
///
/// ```swift
/// let client = try await Client.connect("https://chat.example") { $0.token { try await backend.token() } }
/// let room = client.room("chat.42")
/// try await room.publish("msg", "hello")
/// for try await item in room.events { … }
/// ```
public final class Client: Sendable {
    let core: LanecastFFI.Client
    private let rooms = Locked([String: WeakRoom]())

    /// Makes a client, which begins to connect. Does not wait for the connection: see ``connected()``.
    ///
    /// - Parameters:
    ///   - url: The node's address: `https://` (QUIC or WebSocket), `quic://`, `wss://`, `ws://` or `http://`.
    ///   - configure: Sets what is not as the defaults say.
    /// - Throws: ``LanecastError`` of kind `libraryVersion`, `invalid`, `badURL`, `unsupportedScheme`, `certificates` or
    ///   `noRuntime`; with an outbox file also `outboxLocked`, `outboxDamaged`, `outboxVersion` and `outboxFile`, and with a file
    ///   of positions the same of `positions…`.
    public static func connect(
        _ url: String, configure: (inout Configuration) throws -> Void = { _ in }
    ) async throws -> Client {
        var configuration = Configuration(url: url)
        try configure(&configuration)
        return try await connect(configuration)
    }

    /// Makes a client, which begins to connect. Does not wait for the connection: see ``connected()``.
    ///
    /// - Throws: As ``connect(_:configure:)``.
    public static func connect(_ configuration: Configuration) async throws -> Client {
        try Library.check()
        let options = configuration.options
        let core = try await waiting { try await LanecastFFI.connect(options: options, cancellation: $0) }
        if let requests = core.tokenRequests(), case .provider(let provider) = configuration.token {
            Task { await answer(requests, with: provider) }
        }
        return Client(core)
    }

    private init(_ core: LanecastFFI.Client) {
        self.core = core
    }

    /// A room by its name. The same name gives the same object, for as long as somebody holds it. A name that is none is an
    /// error of the first operation.
    public func room(_ name: String) -> Room {
        rooms.with { rooms in
            if let room = rooms[name]?.room { return room }
            // Who is gone makes room for who comes.
            rooms = rooms.filter { $0.value.room != nil }
            let room = Room(name: name, client: self)
            rooms[name] = WeakRoom(room: room)
            return room
        }
    }

    /// How the client stands.
    public var state: ClientState { ClientState(core.state()) }

    /// How the client stands, as it changes: first the present state. Ends after `closed`.
    public var states: Changes<ClientState> {
        Changes(of: core, as: { ClientState($0) }) { try await $0.nextState(after: $1, cancellation: $2) }
    }

    /// Waits until there is a connection.
    ///
    /// - Throws: ``LanecastError`` of kind `closed`, with the node's code, if the client is over.
    public func connected() async throws {
        try await waiting { [core] in try await core.connected(cancellation: $0) }
    }

    /// The durable publishes that are not settled.
    public var outbox: Outbox { Outbox(core: core) }

    /// Waits until every publish that was handed to the client before is settled: stored, refused or given up.
    ///
    /// - Throws: ``LanecastError`` of kind `closed` if the client ends before, `tooMany` if 1,024 callers wait.
    public func flush() async throws {
        try await waiting { [core] in try await core.flush(cancellation: $0) }
    }

    /// Says that the network changed: another Wi-Fi, a new address. The connection is checked, or made anew, at once.
    public func networkChanged() async throws {
        try await call { try await core.networkChanged() }
    }

    /// Says that the application is no longer in front of its user, and may soon be frozen or ended. Returns when everything that
    /// the outbox file and the file of positions hold is on the disk.
    public func enteredBackground() async throws {
        try await call { try await core.enteredBackground() }
    }

    /// Says that the application is in front of its user again: the connection is checked, or made anew, at once.
    public func enteredForeground() async throws {
        try await call { try await core.enteredForeground() }
    }

    /// Asks the token provider for a new token now and hands it to the node, which goes on with its rights. Nothing happens
    /// without a connection, with a fixed token, or where the node does not serve it.
    public func refreshToken() async throws {
        try await call { try await core.refreshToken() }
    }

    /// The node's clock, as far as it is known: use it to judge ``Event/expiresAt``, not the device's.
    public var nodeTime: Date { Date(milliseconds: core.nodeTimeMs()) }

    /// Closes the client, and waits until its connection is gone and its outbox file unlocked. Publishes that are not settled
    /// end with an error: ``flush()`` first. Subscriptions end after what they still hold. Cancelling does not stop it.
    public func shutdown() async throws {
        try await call { try await core.shutdown() }
    }
}

private struct WeakRoom {
    weak var room: Room?
}
