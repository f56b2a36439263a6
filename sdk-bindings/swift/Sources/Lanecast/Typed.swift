import Foundation

/// Turns values into payloads and back, for ``Room/typed(_:)-swift.method``.
public protocol Codec<Value>: Sendable {
    /// What the payloads mean.
    associatedtype Value: Sendable

    /// MIME type of the payloads.
    var contentType: String { get }

    /// The payload of a value.
    func encode(_ value: Value) throws -> Body

    /// The value of a payload.
    func decode(_ body: Body) throws -> Value
}

/// A codec of `Codable` values as JSON texts.
public struct JSON<Value: Codable & Sendable>: Codec {
    public let contentType = "application/json"

    public init() {}

    public func encode(_ value: Value) throws -> Body {
        .text(String(decoding: try JSONEncoder().encode(value), as: UTF8.self))
    }

    public func decode(_ body: Body) throws -> Value {
        try JSONDecoder().decode(Value.self, from: body.data)
    }
}

/// A codec of protobuf messages, whose library is the application's own choice. With swift-protobuf:
///
/// ```swift
/// let lines = room.typed(Protobuf<Chat_Line>(encode: { try $0.serializedData() }, decode: { try Chat_Line(serializedBytes: $0) }))
/// ```
public struct Protobuf<Value: Sendable>: Codec {
    public let contentType = "application/protobuf"
    private let toData: @Sendable (Value) throws -> Data
    private let fromData: @Sendable (Data) throws -> Value

    public init(
        encode: @escaping @Sendable (Value) throws -> Data, decode: @escaping @Sendable (Data) throws -> Value
    ) {
        toData = encode
        fromData = decode
    }

    public func encode(_ value: Value) throws -> Body {
        .data(try toData(value))
    }

    public func decode(_ body: Body) throws -> Value {
        try fromData(body.data)
    }
}

/// A room whose payloads are values: from ``Room/typed(_:)-swift.method``.
public struct TypedRoom<C: Codec>: Sendable {
    /// The room.
    public let room: Room
    /// How its payloads are read and written.
    public let codec: C

    /// Publishes a value, and waits until it is stored: see ``Room/publish(_:)``. `configure` sets what is not as the defaults say.
    ///
    /// - Throws: What the codec throws, and ``LanecastError``.
    @discardableResult
    public func publish(
        _ type: String, _ value: C.Value, configure: (inout Message) -> Void = { _ in }
    ) async throws -> Published {
        try await room.publish(message(type, value, configure))
    }

    /// Queues a value: see ``Room/send(_:)``.
    ///
    /// - Throws: What the codec throws, and ``LanecastError``.
    public func send(
        _ type: String, _ value: C.Value, configure: (inout Message) -> Void = { _ in }
    ) async throws -> Receipt {
        try await room.send(message(type, value, configure))
    }

    /// The room's events with their values, and its gaps: see ``Room/events(from:)``.
    public func events(from start: Start? = nil) -> TypedItems<C, Events> {
        TypedItems(items: room.events(from: start), codec: codec)
    }

    /// Reads a subscription of the room.
    public func read(_ subscription: Subscription) -> TypedItems<C, Subscription> {
        TypedItems(items: subscription, codec: codec)
    }

    private func message(_ type: String, _ value: C.Value, _ configure: (inout Message) -> Void) throws -> Message {
        var message = Message(type, try codec.encode(value), contentType: codec.contentType)
        configure(&message)
        return message
    }
}

/// An event with its value. That a payload does not fit says nothing about the events after it, so it ends no sequence.
public struct TypedEvent<Value: Sendable>: Sendable {
    /// The event.
    public let event: Event
    /// Its value, or what the codec threw.
    public let value: Result<Value, any Error>
}

/// An event with its value, or a gap.
public enum TypedItem<Value: Sendable>: Sendable {
    case event(TypedEvent<Value>)
    case gap(Gap)
}

/// Events with their values, and gaps.
public struct TypedItems<C: Codec, Items: AsyncSequence & Sendable>: AsyncSequence, Sendable where Items.Element == Item {
    public typealias Element = TypedItem<C.Value>

    let items: Items
    let codec: C

    public func makeAsyncIterator() -> Iterator {
        Iterator(items: items.makeAsyncIterator(), codec: codec)
    }

    /// Reads ``TypedItems``.
    public struct Iterator: AsyncIteratorProtocol {
        var items: Items.AsyncIterator
        let codec: C

        /// The next event or gap, as the sequence below has it.
        @available(macOS 15, iOS 18, tvOS 18, watchOS 11, visionOS 2, *)
        public mutating func next(isolation: isolated (any Actor)?) async throws -> TypedItem<C.Value>? {
            try await items.next(isolation: isolation).map(typed)
        }

        /// The same from a task of no actor.
        public mutating func next() async throws -> TypedItem<C.Value>? {
            try await items.next().map(typed)
        }

        private func typed(_ item: Item) -> TypedItem<C.Value> {
            switch item {
            case .event(let event): return .event(TypedEvent(event: event, value: Result { try codec.decode(event.body) }))
            case .gap(let gap): return .gap(gap)
            }
        }
    }
}
