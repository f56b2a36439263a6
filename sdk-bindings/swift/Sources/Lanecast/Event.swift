import Foundation

/// Who sent an event or a signal: said by the node, never by the sender.
public struct Sender: Sendable, Hashable, CustomStringConvertible {
    /// The user; empty for a service.
    public let user: String
    /// The service that published over HTTP; empty for a user.
    public let service: String
    /// The instance of the client; empty for a service.
    public let instance: String

    /// The user, or the service.
    public var description: String { user.isEmpty ? service : user }
}

/// A payload.
public enum Body: Sendable, Hashable {
    case text(String)
    case data(Data)

    /// The payload as text; nil if it is bytes that are not UTF-8.
    public var text: String? {
        switch self {
        case .text(let text): return text
        case .data(let data): return String(data: data, encoding: .utf8)
        }
    }

    /// The payload as bytes, whichever it is.
    public var data: Data {
        switch self {
        case .text(let text): return Data(text.utf8)
        case .data(let data): return data
        }
    }
}

extension Body: ExpressibleByStringLiteral {
    public init(stringLiteral text: String) {
        self = .text(text)
    }
}

/// An event.
public struct Event: Sendable, Hashable {
    /// The room.
    public let room: String
    /// The lane, in which it travelled and in which `seq` counts.
    public let lane: Lane
    /// The life of the room's log in which `seq` and `order` count.
    public let epoch: UInt64
    /// Number within room and lane, contiguous from 1; 0: transient.
    public let seq: UInt64
    /// Number within the room across lanes, contiguous from 1: for sorting; 0: transient.
    public let order: UInt64
    /// Who sent it.
    public let from: Sender
    /// When the node received it, by the node's clock.
    public let time: Date
    /// When it stops being worth anything, by the node's clock (``Client/nodeTime``); nil: never.
    public let expiresAt: Date?
    /// Chosen by the publisher; those that begin with `$` are the system's own.
    public let type: String
    /// Chosen by the publisher; empty: none.
    public let key: String
    /// MIME type of the payload; empty: text/plain for text, application/octet-stream for bytes.
    public let contentType: String
    /// Headers of the publisher.
    public let headers: [String: String]
    /// The payload.
    public let body: Body

    /// Whether it is stored in the room's log.
    public var isDurable: Bool { seq != 0 }

    /// The payload as text; nil if it is bytes that are not UTF-8.
    public var text: String? { body.text }
}

/// Events that will not come: the only way past a seq that is not an event.
///
/// Of cause ``GapCause/rolledBack`` it also revokes: seqs in its range that were delivered are no longer in the log.
public struct Gap: Sendable, Hashable, CustomStringConvertible {
    /// What is missing.
    public enum Missing: Sendable, Hashable {
        /// The durable events with these seqs of a lane and epoch; `to` is nil where the log does not know the epoch any
        /// more, so that there is no upper end.
        case seqs(lane: Lane, epoch: UInt64, from: UInt64, to: UInt64?)
        /// Transient events, of any lane if it is nil, and so many of them, or an unknown number.
        case transients(lane: Lane?, count: UInt64?)
    }

    /// The room.
    public let room: String
    /// What is missing.
    public let missing: Missing
    /// Why.
    public let cause: GapCause
    /// Whether ``Room/history(_:)`` may still have them.
    public let refillable: Bool

    /// How many events are missing; nil: an unknown number.
    public var count: UInt64? {
        switch missing {
        case .seqs(_, _, let from, let to): return to.map { $0 + 1 - from }
        case .transients(_, let count): return count
        }
    }

    public var description: String {
        switch missing {
        case .seqs(let lane, let epoch, let from, let to):
            return "\(lane) \(from) \(to.map { "to \($0)" } ?? "and on") of epoch \(epoch) \(cause)"
        case .transients(_, let count):
            return "\(count.map(String.init) ?? "some") transient events \(cause)"
        }
    }
}

/// What a room hands over: an event, or a gap in the place of events that will not come.
public enum Item: Sendable, Hashable {
    case event(Event)
    case gap(Gap)
}
