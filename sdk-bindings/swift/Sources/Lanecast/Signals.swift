import Foundation
internal import LanecastFFI

/// A signal that lives.
public struct Signal: Sendable, Hashable {
    /// Who sent it.
    public let from: Sender
    /// Its type.
    public let type: String
    /// Its key: with sender and type, what the newest one replaces.
    public let key: String
    /// MIME type of the payload.
    public let contentType: String
    /// The payload.
    public let body: Body
    /// When it dies, by the node's clock (``Client/nodeTime``).
    public let expiresAt: Date

    init(_ signal: LanecastFFI.Signal) {
        from = Sender(signal.from)
        type = signal.type
        key = signal.key
        contentType = signal.contentType
        body = Body(signal.body)
        expiresAt = Date(milliseconds: signal.expiresAtMs)
    }
}

/// A change of a room's signals.
public enum SignalChange: Sendable, Hashable {
    /// A signal is new, or has a new value.
    case live(Signal)
    /// A signal is gone: its time ran out (`expired`), or its sender took it back.
    case gone(from: Sender, type: String, key: String, expired: Bool)

    init(_ change: LanecastFFI.SignalChange) {
        switch change {
        case .live(let signal): self = .live(Signal(signal))
        case .gone(let from, let type, let key, let expired):
            self = .gone(from: Sender(from), type: type, key: key, expired: expired)
        }
    }
}

/// The signals of a room: first those that live, then every change. A reader that is slow sees the newest state of each key,
/// never a backlog. Ends when the room's subscription ended or the client closed.
public struct Signals: AsyncSequence, Sendable {
    public typealias Element = SignalChange

    let room: Room

    /// The signals that live now.
    ///
    /// - Throws: ``LanecastError`` of kind `invalid`, `tooManyRooms` or `closed`.
    public func live() async throws -> [Signal] {
        try await open(room).live().map(Signal.init)
    }

    public func makeAsyncIterator() -> Iterator {
        Iterator(room: room)
    }

    /// Reads ``Signals``. While it lives the room is subscribed.
    public struct Iterator: AsyncIteratorProtocol {
        private static let batchMax: UInt32 = 64

        let room: Room
        private var core: LanecastFFI.Signals?
        private var batch: UInt64 = 0
        private var changes = [LanecastFFI.SignalChange]()[...]

        init(room: Room) {
            self.room = room
        }

        /// The next change; nil: over.
        ///
        /// - Throws: ``LanecastError`` of kind `invalid`, `tooManyRooms` or `closed`; `CancellationError`.
        public mutating func next(isolation: isolated (any Actor)?) async throws -> SignalChange? {
            if changes.isEmpty { try await pull(isolation: isolation) }
            return changes.popFirst().map(SignalChange.init)
        }

        /// The same from a task of no actor.
        public mutating func next() async throws -> SignalChange? {
            try await next(isolation: nil)
        }

        private mutating func pull(isolation: isolated (any Actor)?) async throws {
            let signals: LanecastFFI.Signals
            if let core { signals = core } else { signals = try await open(room) }
            core = signals
            let after = batch
            let next = try await waiting {
                try await signals.nextBatch(afterBatch: after, max: Self.batchMax, cancellation: $0)
            }
            batch = next.number
            changes = next.changes[...]
        }
    }
}

private func open(_ room: Room) async throws -> LanecastFFI.Signals {
    try await waiting { try await room.core.signals(cancellation: $0) }
}
