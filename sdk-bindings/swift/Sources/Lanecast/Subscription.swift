import Foundation
internal import LanecastFFI

/// Where a subscription begins. After a reconnect it always goes on where it was.
public enum Start: Sendable, Hashable {
    /// With what is published from now on.
    case live
    /// With the oldest event that the log still has.
    case beginning
    /// After a position: ``Subscription/position`` of an earlier run.
    case position(String)
    /// So many durable events back, counted across lanes.
    case count(UInt32)
    /// With what was published in this time before now.
    case back(Duration)

    var core: LanecastFFI.Start {
        switch self {
        case .live: return .live
        case .beginning: return .beginning
        case .position(let position): return .position(position: position)
        case .count(let events): return .count(events: events)
        case .back(let duration): return .duration(backMs: duration.inMilliseconds)
        }
    }
}

/// Events and gaps of a room that came together.
public struct Batch: Sendable {
    /// Urgent before normal before bulk, and in the order of their seqs within a lane. Empty: the subscription is over.
    public let items: [Item]
    /// Where to go on after a restart once this batch was handled: to be stored together with what handling it brought about.
    public let position: String?
    let number: UInt64
}

/// A subscription of a room: a sequence of events, and of gaps in the place of events that will not come.
///
/// Two ways to read, one reader at a time: item by item as a sequence, or with ``nextBatch(after:max:)``. In both, asking for
/// more says that what was handed out before is handled: then ``position`` moves over it, at the latest at the end of the batch.
/// A task that is cancelled at any moment loses nothing: the next iterator begins with the first item that is not handled.
///
/// An application that does not read costs a bounded amount of memory: behind 1,024 items or 1 MiB the client leaves the room
/// and resumes from the log once half of that was taken. Dropping the subscription unsubscribes.
public final class Subscription: AsyncSequence, Sendable {
    public typealias Element = Item

    /// Items in a batch of the sequence: enough to make the way between the languages cheap.
    private static let batchMax: UInt32 = 256

    /// Name of the room.
    public let room: String
    private let core: LanecastFFI.Subscription
    private let client: Client
    private let puller: Puller<Item>

    init(_ core: LanecastFFI.Subscription, room: String, client: Client) {
        self.core = core
        self.room = room
        self.client = client
        puller = Puller { after, cancellation in
            let batch = try await core.nextBatch(afterBatch: after, max: Self.batchMax, cancellation: cancellation)
            return (batch.number, batch.items.map { Item($0, room: room) })
        }
    }

    /// The batch after another one, or the first one that is not acknowledged: at least one item and at most `max`. Giving the
    /// batch before says that it was handled. Cancelled, or with its result thrown away, it takes nothing along: the same call
    /// gives the same items.
    ///
    /// - Throws: ``LanecastError`` of kind `invalid` if `max` is 0 or the batch is not the last one; `CancellationError`.
    public func nextBatch(after batch: Batch? = nil, max: Int = 256) async throws -> Batch {
        if let batch { acknowledge(batch) }
        let after = puller.acknowledged
        let next = try await waiting { [core] in
            try await core.nextBatch(afterBatch: after, max: UInt32(clamping: max), cancellation: $0)
        }
        return Batch(items: next.items.map { Item($0, room: room) }, position: next.position, number: next.number)
    }

    /// Says that a batch was handled, without asking for more.
    public func acknowledge(_ batch: Batch) {
        core.acknowledge(batch: batch.number)
        puller.acknowledge(batch: batch.number)
    }

    /// Says that everything which the sequence has handed out is handled, without asking for more.
    public func acknowledge() {
        if let batch = puller.acknowledgeAll() { core.acknowledge(batch: batch) }
    }

    /// Where to go on after a restart, as text: behind every batch that was handled. nil before the node has answered for the
    /// first time.
    public var position: String? { core.position() }

    /// How the subscription stands.
    public var state: RoomState { RoomState(core.state()) }

    /// How the subscription stands, as it changes: first the present state. Ends after `ended`.
    public var states: Changes<RoomState> {
        Changes(of: core, as: { RoomState($0) }) { try await $0.nextState(after: $1, cancellation: $2) }
    }

    /// Waits until the node has answered.
    ///
    /// - Throws: ``LanecastError`` of kind `refused`, with the node's code, if it refused; `closed` if the client ended.
    public func ready() async throws {
        try await waiting { [core] in try await core.ready(cancellation: $0) }
    }

    /// Unsubscribes. Who reads comes to the end; what was not handled does not count as handled.
    public func cancel() {
        core.cancel()
    }

    public func makeAsyncIterator() -> Iterator {
        Iterator(subscription: self)
    }

    /// Reads a ``Subscription``.
    public struct Iterator: AsyncIteratorProtocol {
        let subscription: Subscription
        /// Number of the item that was handed out last.
        private var last: UInt64?

        init(subscription: Subscription) {
            self.subscription = subscription
        }

        /// The next event or gap; nil: the application ended the subscription. Asking says that the one before is handled.
        ///
        /// - Throws: ``LanecastError`` of kind `refused` or `closed` if it was not the application that ended it;
        ///   `CancellationError`.
        public mutating func next(isolation: isolated (any Actor)?) async throws -> Item? {
            if let (number, item) = try await subscription.puller.next(after: last) {
                last = number
                return item
            }
            if case .ended(let cause?) = subscription.state { throw LanecastError(ending: cause) }
            return nil
        }

        /// The same from a task of no actor.
        public mutating func next() async throws -> Item? {
            try await next(isolation: nil)
        }
    }
}

extension LanecastError {
    init(ending cause: Cause) {
        self.init(
            kind: cause.codeNumber == 0 ? .closed : .refused, codeNumber: cause.codeNumber, detail: cause.detail,
            retryable: Code.isRetryable(number: cause.codeNumber), retryAfter: nil)
    }
}
