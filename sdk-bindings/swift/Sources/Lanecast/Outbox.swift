internal import LanecastFFI

/// The outbox of a client: a view of the durable publishes that are not settled.
public struct Outbox: Sendable {
    let core: LanecastFFI.Client

    /// Whether it is in a file, and outlives the process.
    public var hasFile: Bool { core.outboxHasFile() }

    /// How many durable publishes are not settled, those that wait in a file from before included.
    public var pending: Int { Int(clamping: core.outboxPending()) }

    /// How many durable publishes are not settled, as it changes: first the present number.
    public var pendingChanges: Changes<Int> {
        Changes(of: core, as: { Int(clamping: $0) }) { try await $0.nextOutboxPending(after: $1, cancellation: $2) }
    }

    /// How many publishes of an earlier run were in the file.
    public var restored: Int { Int(clamping: core.outboxRestored()) }

    /// How the publishes of an earlier run end, which no ``Receipt`` waits for. Each comes once; the sequence ends after the last,
    /// or with the client. It goes to one reader: nil if it was asked for before. What nobody reads waits here, at most
    /// ``restored`` items.
    public func outcomes() -> Outcomes? {
        core.outboxOutcomes().map(Outcomes.init)
    }
}

/// How a publish of an earlier run ended.
public struct Outcome: Sendable {
    /// The room.
    public let room: String
    /// The lane.
    public let lane: Lane
    /// The event's type.
    public let type: String
    /// The event's key.
    public let key: String
    /// The payload.
    public let body: Body
    /// Where it is stored, or why it is not: as a ``Receipt`` would have said.
    public let result: Result<Published, LanecastError>

    init(_ outcome: LanecastFFI.Outcome) {
        room = outcome.room
        lane = Lane(outcome.lane)
        type = outcome.type
        key = outcome.key
        body = Body(outcome.body)
        if let published = outcome.published {
            result = .success(Published(published))
        } else {
            let failure = outcome.failure.map { LanecastError($0) }
            result = .failure(failure ?? LanecastError(.internalFault, "an outcome without a result"))
        }
    }
}

/// A sequence of ``Outcome``s, from ``Outbox/outcomes()``. A task that is cancelled loses none: the next iterator begins with the
/// first one that is not handled. One counts as handled when the next one is asked for.
public final class Outcomes: AsyncSequence, Sendable {
    public typealias Element = Outcome

    /// Outcomes in a batch.
    private static let batchMax: UInt32 = 64

    private let puller: Puller<Outcome>

    init(_ core: LanecastFFI.Outcomes) {
        puller = Puller { after, cancellation in
            let batch = try await core.nextBatch(afterBatch: after, max: Self.batchMax, cancellation: cancellation)
            return (batch.number, batch.outcomes.map(Outcome.init))
        }
    }

    public func makeAsyncIterator() -> Iterator {
        Iterator(outcomes: self)
    }

    /// Reads ``Outcomes``.
    public struct Iterator: AsyncIteratorProtocol {
        let outcomes: Outcomes
        /// Number of the outcome that was handed out last.
        private var last: UInt64?

        init(outcomes: Outcomes) {
            self.outcomes = outcomes
        }

        /// The next outcome; nil: there are no more.
        ///
        /// - Throws: `CancellationError`.
        public mutating func next(isolation: isolated (any Actor)?) async throws -> Outcome? {
            guard let (number, outcome) = try await outcomes.puller.next(after: last) else { return nil }
            last = number
            return outcome
        }

        /// The same from a task of no actor.
        public mutating func next() async throws -> Outcome? {
            try await next(isolation: nil)
        }
    }
}
