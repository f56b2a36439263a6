import Foundation
import Lanecast

/// A message of the suite's protocol in its JSON form, or a part of one.
typealias Report = [String: Any]

/// Frames on standard input and output: a length of 4 bytes, big-endian, then so many bytes.
enum Frames {
    /// The commands that come, until the input ends. Reading blocks, so it has a thread of its own.
    static func read() -> AsyncStream<Fields> {
        AsyncStream { commands in
            Thread.detachNewThread {
                while let head = take(4), let frame = take(head.reduce(0) { $0 << 8 | Int($1) }),
                    let values = try? JSONSerialization.jsonObject(with: frame) as? Report { commands.yield(Fields(values: values)) }
                commands.finish()
            }
        }
    }

    private static func take(_ count: Int) -> Data? {
        var data = Data()
        while data.count < count {
            guard let more = try? FileHandle.standardInput.read(upToCount: count - data.count), !more.isEmpty else { return nil }
            data += more
        }
        return data
    }

    private static let lock = NSLock()

    static func write(_ report: Report) throws {
        let body = try JSONSerialization.data(withJSONObject: report)
        let length = withUnsafeBytes(of: UInt32(body.count).bigEndian) { Data($0) }
        try lock.withLock { try FileHandle.standardOutput.write(contentsOf: length + body) }
    }
}

/// What the suite says, read field by field. Nothing changes it, so tasks may share it.
struct Fields: @unchecked Sendable {
    let values: Report

    subscript(name: String) -> String { values[name] as? String ?? "" }
    /// nil: absent or 0.
    func number(_ name: String) -> UInt32? { (values[name] as? NSNumber).flatMap { $0 == 0 ? nil : $0.uint32Value } }
    func flag(_ name: String) -> Bool { values[name] as? Bool ?? false }
    func part(_ name: String) -> Fields? { (values[name] as? Report).map(Fields.init) }
    func duration(_ name: String) -> Duration? { number(name).map { .milliseconds($0) } }
    func file(_ name: String) -> URL? { self[name].isEmpty ? nil : URL(fileURLWithPath: self[name]) }

    func configure(_ to: inout Configuration, _ asks: Asks) {
        to.token = .fixed(self["token"])
        if flag("asksForTokens") { to.token { try await asks.ask(refused: $0.refused != 0) } }
        let scheme = ["websocket": "wss", "quic": "quic"][self["transport"]]
        if let scheme, to.url.hasPrefix("https:") { to.url = scheme + to.url.dropFirst("https".count) }
        (to.device, to.app, to.appVersion) = (self["device"], self["app"], self["appVersion"])
        (to.outboxFile, to.positionsFile, to.outboxTTL) = (file("outboxFile"), file("positionsFile"), duration("outboxTtlMs"))
        if let items = number("outboxItemsMax") { to.outbox.itemsMax = Int(items) }
        if let bytes = number("outboxBytesMax") { to.outbox.bytesMax = Int(bytes) }
        let digits = self["certificateSha256"].compactMap(\.hexDigitValue)
        let hash = stride(from: 0, to: digits.count, by: 2).map { UInt8(digits[$0] << 4 | digits[$0 + 1]) }
        to.certificateHash = hash.isEmpty ? nil : Data(hash)
        to.extraRoots = self["extraRoot"].isEmpty ? [] : [self["extraRoot"]]
    }

    var start: Start? {
        switch self["start"] {
        case "beginning": .beginning
        case "position": .position(self["position"])
        case "count": .count(number("back") ?? 0)
        case "duration": .back(duration("back") ?? .zero)
        case "stored": nil
        default: .live
        }
    }

    var message: Message {
        Message(
            self["type"], body, lane: lane(self["lane"]),
            delivery: flag("transient") ? .transient : flag("replicated") ? .replicated : .stored, key: self["key"],
            headers: values["headers"] as? [String: String] ?? [:], contentType: self["contentType"],
            ttl: duration("ttlMs"), outboxTTL: duration("outboxTtlMs"))
    }

    var body: Body {
        if let text = part("body")?.values["text"] as? String { return .text(text) }
        return .data(Data(base64Encoded: part("body")?["data"] ?? "") ?? Data())
    }

    var query: HistoryQuery {
        HistoryQuery(
            direction: flag("forward") ? .forward : .backward, lanes: (values["lanes"] as? [String] ?? []).map(lane),
            pageSize: number("limit"), cursor: part("cursor")?["text"])
    }
}

private func lane(_ name: String) -> Lane {
    ["urgent": .urgent, "bulk": .bulk][name] ?? .normal
}

func fail(_ id: UInt32, _ error: any Error) throws {
    try Frames.write(["command": id, "failed": report(error)])
}

func report(_ error: any Error) -> Report {
    if let error = error as? Unsupported { return ["kind": "unsupported", "detail": error.what] }
    guard let error = error as? LanecastError else { return ["kind": "\(error)"] }
    return ["kind": error.kind.rawValue, "code": error.codeNumber, "codeName": error.code?.name ?? "",
            "retryable": error.retryable, "detail": error.detail]
}

func report(_ state: ClientState) -> Report {
    let (name, cause): (String, Cause?) = switch state {
    case .suspended(let cause): ("suspended", cause)
    case .closed(let cause): ("closed", cause)
    default: ("\(state)", nil)
    }
    return ["state": ["name": name, "code": cause?.codeNumber ?? 0, "codeName": cause?.code?.name ?? "",
                      "detail": cause?.detail ?? ""] as Report]
}

func report(_ state: RoomState, room: String) -> Report {
    let said: Report = switch state {
    case .catchingUp(let recovered): ["name": "catching_up", "recovered": recovered]
    case .live(let recovered): ["name": "live", "recovered": recovered]
    case .ended(let cause): ["name": "ended", "code": cause?.codeNumber ?? 0]
    default: ["name": "\(state)"]
    }
    return ["roomState": said.with(["room": room])]
}

func report(_ item: Item) -> Report {
    switch item {
    case .event(let event): ["event": report(event)]
    case .gap(let gap): ["gap": report(gap)]
    }
}

private func report(_ event: Event) -> Report {
    ["room": event.room, "lane": "\(event.lane)", "epoch": event.epoch, "seq": event.seq, "order": event.order,
     "type": event.type, "key": event.key, "contentType": event.contentType, "headers": event.headers,
     "body": report(event.body), "user": event.from.user, "service": event.from.service,
     "instance": event.from.instance, "timeMs": ms(event.time), "expiresAtMs": event.expiresAt.map(ms) ?? 0]
}

private func report(_ gap: Gap) -> Report {
    let said: Report = switch gap.missing {
    case .seqs(let lane, let epoch, let from, let to): ["lane": "\(lane)", "epoch": epoch, "from": from, "to": to ?? 0]
    case .transients(let lane, let count): ["lane": lane.map { "\($0)" } ?? "", "count": count ?? 0]
    }
    let cause = gap.cause == .rolledBack ? "rolled_back" : "\(gap.cause)"
    return said.with(["room": gap.room, "cause": cause, "refillable": gap.refillable])
}

func report(_ change: SignalChange, room: String) -> Report {
    let said: Report = switch change {
    case .live(let signal):
        ["user": signal.from.user, "instance": signal.from.instance, "type": signal.type, "key": signal.key,
         "body": report(signal.body), "expiresAtMs": ms(signal.expiresAt)]
    case .gone(let from, let type, let key, let expired):
        ["user": from.user, "instance": from.instance, "type": type, "key": key, "gone": true, "expired": expired]
    }
    return ["signalChange": said.with(["room": room])]
}

func report(_ one: Published) -> Report {
    ["lane": "\(one.lane)", "epoch": one.epoch, "seq": one.seq, "order": one.order, "duplicate": one.duplicate]
}

func report(_ page: Page) -> Report {
    let said: Report = ["events": page.events.map(report), "gaps": page.gaps.map(report), "head": page.head ?? ""]
    return page.next.map { said.with(["next": ["text": $0]]) } ?? said
}

func report(_ outcome: Outcome) -> Report {
    let result: Report = switch outcome.result {
    case .success(let published): ["stored": report(published)]
    case .failure(let error): ["failed": report(error)]
    }
    let said = result.with(["room": outcome.room, "lane": "\(outcome.lane)", "type": outcome.type, "key": outcome.key])
    return ["outcome": said]
}

private func report(_ body: Body) -> Report {
    if case .text(let text) = body { ["text": text] } else { ["data": body.data.base64EncodedString()] }
}

private func ms(_ time: Date) -> UInt64 {
    UInt64((time.timeIntervalSince1970 * 1000).rounded())
}

extension Report {
    func with(_ more: Report) -> Report {
        merging(more) { $1 }
    }
}
