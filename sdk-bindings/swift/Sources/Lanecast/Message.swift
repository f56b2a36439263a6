import Foundation
internal import LanecastFFI

/// What becomes of a published event.
public enum Delivery: Sendable, Hashable {
    /// Not stored: reaches who is subscribed now, and is sent now or not at all.
    case transient
    /// Stored in the room's log.
    case stored
    /// Stored, and counts as such only when a replica of the log has it too.
    case replicated
}

/// An event to publish.
public struct Message: Sendable, Hashable {
    /// Chosen by the application, at most 128 bytes; those that begin with `$` are the system's own.
    public var type: String
    /// The payload.
    public var body: Body
    /// Urgent overtakes normal, normal overtakes bulk, in every queue up to the subscriber.
    public var lane: Lane
    /// What counts as delivered.
    public var delivery: Delivery
    /// Of the application's choice, at most 256 bytes; empty: none.
    public var key: String
    /// At most 32; `traceparent` and `tracestate` carry the trace context.
    public var headers: [String: String]
    /// MIME type of the payload; empty: text/plain for text, application/octet-stream for bytes.
    public var contentType: String
    /// Not to be delivered later than this after the node took it, nor kept in the outbox for longer; nil: no limit.
    public var ttl: Duration?
    /// How long it may wait for its node in the outbox; nil: as the client's configuration says.
    public var outboxTTL: Duration?

    public init(
        _ type: String, _ body: Body, lane: Lane = .normal, delivery: Delivery = .stored, key: String = "",
        headers: [String: String] = [:], contentType: String = "", ttl: Duration? = nil, outboxTTL: Duration? = nil
    ) {
        self.type = type
        self.body = body
        self.lane = lane
        self.delivery = delivery
        self.key = key
        self.headers = headers
        self.contentType = contentType
        self.ttl = ttl
        self.outboxTTL = outboxTTL
    }
}

/// Where a published event stands.
public struct Published: Sendable, Hashable {
    /// The life of the room's log in which the numbers count; 0: transient.
    public let epoch: UInt64
    /// The lane in which it travels.
    public let lane: Lane
    /// Number within room and lane; 0: transient, or a duplicate whose numbers the log no longer knows.
    public let seq: UInt64
    /// Number within the room across lanes; 0 as above.
    public let order: UInt64
    /// It was stored before, by a sending whose answer was lost.
    public let duplicate: Bool

    init(_ published: LanecastFFI.Published) {
        epoch = published.epoch
        lane = Lane(published.lane)
        seq = published.seq
        order = published.order
        duplicate = published.duplicate
    }
}

/// The answer to a publish, to come. Dropping it takes nothing back.
public struct Receipt: Sendable {
    let core: LanecastFFI.Receipt

    /// Waits until the node has stored the event; of a transient one: passed it on. May be asked again, with the same result;
    /// cancelling takes nothing back.
    ///
    /// - Throws: ``LanecastError`` of kind `outboxFull`, `notConnected`, `tooMany`, `refused`, `givenUp` or `closed`.
    @discardableResult
    public func stored() async throws -> Published {
        Published(try await waiting { [core] in try await core.stored(cancellation: $0) })
    }
}

extension Message {
    var publication: Publication {
        Publication(
            type: type,
            body: body.core,
            lane: lane.core,
            delivery: delivery.core,
            key: key,
            headers: headers,
            contentType: contentType,
            ttlMs: ttl.map(\.inMilliseconds),
            outboxTtlMs: outboxTTL.map(\.inMilliseconds)
        )
    }
}

extension Delivery {
    fileprivate var core: LanecastFFI.Delivery {
        switch self {
        case .transient: return .transient
        case .stored: return .stored
        case .replicated: return .replicated
        }
    }
}
