import Foundation
internal import LanecastFFI

/// How much a room matters to the user now.
public enum Focus: Sendable, Hashable {
    /// The user looks at it: what waits of it at the node comes before that of the same lane in other rooms.
    case foreground
    /// As the lane says.
    case `default`
    /// The user does not look: it comes behind the other rooms.
    case background
}

/// A room of a client: a named place to publish to and to subscribe to. Making one does nothing.
public final class Room: Sendable {
    /// The name.
    public let name: String
    /// The client, which lives for as long as one of its rooms does.
    public let client: Client
    let core: LanecastFFI.Room
    /// The subscription that ``events(from:)`` share.
    private let shared = Locked<Task<Subscription, any Error>?>(nil)

    init(name: String, client: Client) {
        self.name = name
        self.client = client
        core = client.core.room(name: name)
    }

    /// The room's events and gaps: `events()`.
    public var events: Events { events() }

    /// The room's events and gaps.
    ///
    /// The first iteration subscribes, and begins where `start` says. The subscription then lasts until ``leave()``, or until
    /// nobody holds the room any more, so that a task which is cancelled loses nothing: the next iteration goes on after the
    /// last item that the former one has handled, wherever its own `start` is. An item counts as handled when the next one is
    /// asked for.
    ///
    /// - Parameter start: nil: where the file of positions says (``Configuration/positionsFile``), else from now on.
    public func events(from start: Start? = nil) -> Events {
        Events(room: self, start: start)
    }

    /// Ends the subscription of ``events(from:)``; who iterates comes to the end. The next iteration subscribes anew.
    public func leave() async {
        let task = shared.with { shared in
            defer { shared = nil }
            return shared
        }
        try? await task?.value.cancel()
    }

    /// Subscribes. Returns once the client has taken the subscription on, also without a connection. A client has one
    /// subscription of a room at a time, that of ``events(from:)`` included.
    ///
    /// - Parameters:
    ///   - start: Where it begins; nil: where the file of positions says, else from now on. After a reconnect it always goes on
    ///     where it was.
    ///   - withSignals: Also gets the room's signals: see ``signals``, which asks for them by itself.
    /// - Throws: ``LanecastError`` of kind `invalid`, `alreadySubscribed`, `tooManyRooms` or `closed`.
    public func subscribe(from start: Start? = nil, withSignals: Bool = false) async throws -> Subscription {
        let options = SubscribeOptions(start: start?.core, signals: withSignals)
        let subscription = try await waiting { [core] in try await core.subscribe(options: options, cancellation: $0) }
        return Subscription(subscription, room: name, client: client)
    }

    /// Publishes, and waits until the node has stored the event; of a transient one: passed it on. Without a connection it waits
    /// in the outbox, and is sent again until it is answered. After cancelling it may have been published or not.
    ///
    /// - Throws: ``LanecastError`` of kind `invalid`, `outboxFull`, `notKept`, `notConnected`, `tooMany`, `refused`, `givenUp` or
    ///   `closed`.
    @discardableResult
    public func publish(_ message: Message) async throws -> Published {
        try await send(message).stored()
    }

    /// Publishes a text: see ``publish(_:)``.
    @discardableResult
    public func publish(_ type: String, _ text: String, lane: Lane = .normal) async throws -> Published {
        try await publish(Message(type, .text(text), lane: lane))
    }

    /// Queues an event without waiting for the node: when this returns it is in the outbox, or its file if there is one, and is
    /// sent whatever becomes of the receipt. Cancelled before, nothing was published.
    ///
    /// - Throws: ``LanecastError`` of kind `invalid` or `closed`; with an outbox file also `outboxFull` and `notKept`.
    public func send(_ message: Message) async throws -> Receipt {
        let publication = message.publication
        return Receipt(core: try await waiting { [core] in
            try await core.publish(publication: publication, cancellation: $0)
        })
    }

    /// Sends a signal, a lossy message of which only the newest of its type and key matters: typing, a cursor. Returns when the
    /// client has taken it; nothing answers a signal.
    ///
    /// - Parameters:
    ///   - type: 1 to 128 bytes.
    ///   - key: 1 to 256 bytes.
    ///   - ttl: How long it lives if nothing newer comes; nil: 10 s.
    /// - Throws: ``LanecastError`` of kind `invalid` or `closed`.
    public func signal(
        _ type: String, key: String, _ body: Body = "", contentType: String = "", ttl: Duration? = nil
    ) async throws {
        let ttlMs = ttl.map(\.inMilliseconds)
        let signal = SignalToSend(type: type, key: key, body: body.core, contentType: contentType, ttlMs: ttlMs)
        try await call { try await core.signal(signal: signal) }
    }

    /// Takes a signal back: typing stopped.
    ///
    /// - Throws: ``LanecastError`` of kind `invalid` or `closed`.
    public func clearSignal(_ type: String, key: String) async throws {
        try await call { try await core.clearSignal(type: type, key: key) }
    }

    /// The room's signals: those that live, then every change. Each iteration is a reader of its own. Subscribes to the room if
    /// nobody has.
    public var signals: Signals { Signals(room: self) }

    /// Raises or lowers the room among the others of this client, for as long as it is subscribed, over reconnects. Nothing
    /// happens in a room that is not subscribed, or at a node that does not serve it.
    public func focus(_ focus: Focus) async throws {
        try await call { try await core.focus(focus: focus.core) }
    }

    /// The past of the room, page by page.
    public func history(_ query: HistoryQuery = HistoryQuery()) -> History {
        History(room: self, query: query)
    }

    /// The room with values in place of payloads.
    public func typed<C: Codec>(_ codec: C) -> TypedRoom<C> {
        TypedRoom(room: self, codec: codec)
    }

    /// The room with values of a `Codable` type, as JSON.
    public func typed<Value: Codable & Sendable>(_ type: Value.Type) -> TypedRoom<JSON<Value>> {
        typed(JSON<Value>())
    }

    /// The subscription of ``events(from:)``, which the first one begins. Not by the task that asks: should that be cancelled,
    /// the next one still finds it.
    func subscription(from start: Start?) async throws -> Subscription {
        let task = shared.with { shared in
            if let task = shared { return task }
            // Weak, because a subscription must not keep the room that keeps it.
            let task = Task { [weak self] in
                guard let self else { throw CancellationError() }
                return try await self.subscribe(from: start)
            }
            shared = task
            return task
        }
        do {
            return try await task.value
        } catch {
            forget(task)
            throw error
        }
    }

    /// The subscription is over, so the next iteration begins one.
    func forget(_ subscription: Subscription) async {
        guard let task = shared.with({ $0 }), let present = try? await task.value, present === subscription else { return }
        forget(task)
    }

    private func forget(_ task: Task<Subscription, any Error>) {
        shared.with { if $0 == task { $0 = nil } }
    }
}

/// Events and gaps of a room: from ``Room/events(from:)``.
public struct Events: AsyncSequence, Sendable {
    public typealias Element = Item

    let room: Room
    let start: Start?

    public func makeAsyncIterator() -> Iterator {
        Iterator(room: room, start: start)
    }

    /// Reads ``Events``.
    public struct Iterator: AsyncIteratorProtocol {
        let room: Room
        let start: Start?
        private var reader: (subscription: Subscription, iterator: Subscription.Iterator)?

        init(room: Room, start: Start?) {
            self.room = room
            self.start = start
        }

        /// The next event or gap; nil: the room was left.
        ///
        /// - Throws: ``LanecastError`` of kind `refused` or `closed` if it was not the application that ended the subscription;
        ///   those of ``Room/subscribe(from:withSignals:)``; `CancellationError`.
        public mutating func next(isolation: isolated (any Actor)?) async throws -> Item? {
            if reader == nil {
                let subscription = try await room.subscription(from: start)
                reader = (subscription, subscription.makeAsyncIterator())
            }
            do {
                if let item = try await reader?.iterator.next(isolation: isolation) { return item }
            } catch let error as LanecastError {
                await over(isolation: isolation)
                throw error
            }
            await over(isolation: isolation)
            return nil
        }

        /// The same from a task of no actor.
        public mutating func next() async throws -> Item? {
            try await next(isolation: nil)
        }

        private func over(isolation: isolated (any Actor)?) async {
            if let reader { await room.forget(reader.subscription) }
        }
    }
}

extension Focus {
    fileprivate var core: LanecastFFI.Focus {
        switch self {
        case .foreground: return .foreground
        case .default: return .default
        case .background: return .background
        }
    }
}
