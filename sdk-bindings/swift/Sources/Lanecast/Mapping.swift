import Foundation
internal import LanecastFFI

// The core's values as this package's. The core is always of the same version, so each of its cases is known here.

extension Sender {
    init(_ sender: LanecastFFI.Sender) {
        self.init(user: sender.user, service: sender.service, instance: sender.instance)
    }
}

extension Body {
    init(_ body: LanecastFFI.Body) {
        switch body {
        case .text(let text): self = .text(text)
        case .bytes(let bytes): self = .data(bytes)
        }
    }

    var core: LanecastFFI.Body {
        switch self {
        case .text(let text): return .text(text: text)
        case .data(let data): return .bytes(bytes: data)
        }
    }
}

extension Event {
    init(_ event: LanecastFFI.Event, room: String) {
        self.init(
            room: room,
            lane: Lane(event.lane),
            epoch: event.epoch,
            seq: event.seq,
            order: event.order,
            from: Sender(event.from),
            time: Date(milliseconds: event.timeMs),
            expiresAt: event.expiresAtMs.map(Date.init(milliseconds:)),
            type: event.type,
            key: event.key,
            contentType: event.contentType,
            headers: event.headers,
            body: Body(event.body))
    }
}

extension Gap {
    init(_ gap: LanecastFFI.Gap, room: String) {
        self.init(room: room, missing: Missing(gap.missing), cause: GapCause(gap.cause), refillable: gap.refillable)
    }
}

extension Gap.Missing {
    init(_ missing: LanecastFFI.Missing) {
        switch missing {
        case .seqs(let lane, let epoch, let from, let to): self = .seqs(lane: Lane(lane), epoch: epoch, from: from, to: to)
        case .transients(let lane, let count): self = .transients(lane: lane.map(Lane.init), count: count)
        }
    }
}

extension Item {
    init(_ item: LanecastFFI.Item, room: String) {
        switch item {
        case .event(let event): self = .event(Event(event, room: room))
        case .gap(let gap): self = .gap(Gap(gap, room: room))
        }
    }
}

extension Lane {
    init(_ lane: LanecastFFI.Lane) {
        switch lane {
        case .urgent: self = .urgent
        case .normal: self = .normal
        case .bulk: self = .bulk
        }
    }

    var core: LanecastFFI.Lane {
        switch self {
        case .urgent: return .urgent
        case .normal, .unknown: return .normal
        case .bulk: return .bulk
        }
    }
}

extension GapCause {
    init(_ cause: LanecastFFI.GapCause) {
        switch cause {
        case .trimmed: self = .trimmed
        case .expired: self = .expired
        case .erased: self = .erased
        case .rolledBack: self = .rolledBack
        case .dropped: self = .dropped
        case .missed: self = .missed
        case .unknown: self = .unknown
        }
    }
}
