internal import LanecastFFI

/// Why something ended.
public struct Cause: Sendable, Hashable, CustomStringConvertible {
    /// Number of the protocol's table of codes, also one that this version does not know; 0: no node gave one.
    public let codeNumber: UInt32
    /// For developers; never to be parsed.
    public let detail: String

    /// The row of the table; nil: no node gave one.
    public var code: Code? { codeNumber == 0 ? nil : Code(number: codeNumber) }

    public var description: String {
        let code = codeNumber == 0 ? "no code" : "code \(codeNumber)"
        return detail.isEmpty ? code : "\(code): \(detail)"
    }

    init(_ cause: LanecastFFI.Cause) {
        codeNumber = cause.code
        detail = cause.detail
    }
}

/// How a client stands.
///
/// ```
///  idle ──▶ connecting ──▶ connected
///              ▲   │           │
///              │   ▼           ▼
///             suspended ◀──────┘       closed: from each of them, for good
/// ```
public enum ClientState: Sendable, Hashable {
    /// Not started.
    case idle
    /// Opening a connection.
    case connecting
    /// Welcomed by a node.
    case connected
    /// Without a connection; the next attempt comes by itself.
    case suspended(Cause)
    /// Over for good: closed by the application, or with a code that forbids to come back.
    case closed(Cause)
    /// A state that this version does not know.
    case unknown

    init(_ state: LanecastFFI.ClientState) {
        switch state {
        case .idle: self = .idle
        case .connecting: self = .connecting
        case .connected: self = .connected
        case .suspended(let cause): self = .suspended(Cause(cause))
        case .closed(let cause): self = .closed(Cause(cause))
        case .unknown: self = .unknown
        }
    }
}

/// How a subscription stands.
public enum RoomState: Sendable, Hashable {
    /// Asked for and not answered, or without a connection.
    case subscribing
    /// Subscribed; events from before are still coming. `recovered`: it goes on where it was and no durable event is missing.
    case catchingUp(recovered: Bool)
    /// Subscribed, and everything up to the head at that time has come.
    case live(recovered: Bool)
    /// Subscribed, but the node cannot reach the room's log at present: durable events follow once it can.
    case degraded
    /// Over; without a cause: ended by the application.
    case ended(Cause?)
    /// A state that this version does not know.
    case unknown

    /// Whether the node has answered the subscription.
    public var isSubscribed: Bool {
        switch self {
        case .catchingUp, .live, .degraded: return true
        case .subscribing, .ended, .unknown: return false
        }
    }

    init(_ state: LanecastFFI.RoomState) {
        switch state {
        case .subscribing: self = .subscribing
        case .catchingUp(let recovered): self = .catchingUp(recovered: recovered)
        case .live(let recovered): self = .live(recovered: recovered)
        case .degraded: self = .degraded
        case .ended(let cause): self = .ended(cause.map(Cause.init))
        case .unknown: self = .unknown
        }
    }
}

