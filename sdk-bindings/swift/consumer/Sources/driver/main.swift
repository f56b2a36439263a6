// The driver of this SDK for the conformance suite: conformance/driver.md, in JSON over standard input and output.
import Foundation
import Lanecast

struct Refusal: Error { let why: String }

/// Has one client at a time. All that reports runs here, so that reports come one after the other.
actor Driver {
    private var client: Client?
    private var subscriptions: [String: Subscription] = [:]
    /// By room: acknowledges the batch that was reported last, where that is done on command.
    private var acknowledgements: [String: () -> Void] = [:]
    /// Who waits for a token, by the number of the question: one at most, since the client gives up the one before.
    private var asking: [Int: CheckedContinuation<String, any Error>] = [:]
    private var asks = 0
    /// What still reports of the client.
    private let reporting = DispatchGroup()

    func tell(_ report: Report, of command: Int = 0) {
        let body = try! JSONSerialization.data(withJSONObject: json(report.merging(["command": command]) { $1 }))
        let length = withUnsafeBytes(of: UInt32(body.count).bigEndian) { Data($0) }
        // Fails when the suite is gone, and then nobody minds.
        try? FileHandle.standardOutput.write(contentsOf: length + body)
    }

    /// Runs what reports while other commands are carried out. Unless it is of a command, a state tells why it ends.
    private func report(of command: Int? = nil, _ body: @escaping () async throws -> Void) {
        reporting.enter()
        Task {
            do { try await body() } catch { if let command { tell(["failed": error], of: command) } }
            reporting.leave()
        }
    }

    func obey(_ command: Command) async {
        do { try await carryOut(command) } catch { tell(["failed": error], of: command.id) }
    }

    private func carryOut(_ command: Command) async throws {
        let id = command.id
        if command.name == "connect" { return try await connect(command) }
        guard let client else { throw Refusal(why: "\(command.name) without a client") }
        let room = client.room(command["room"])
        switch command.name {
        case "giveToken": asking.removeValue(forKey: command.number("ask") ?? 0)?.resume(returning: command["token"])
        case "refuseToken":
            asking.removeValue(forKey: command.number("ask") ?? 0)?.resume(throwing: Refusal(why: command["detail"]))
        case "subscribe": try await subscribe(to: room, command)
        case "acknowledge": acknowledgements.removeValue(forKey: room.name)?()
        case "unsubscribe":
            acknowledgements[room.name] = nil
            subscriptions.removeValue(forKey: room.name)?.cancel()
        case "publish":
            let receipt = try await room.send(command.message)
            tell(["queued": Report()], of: id)
            return report(of: id) { self.tell(["stored": try await receipt.stored()], of: id) }
        case "history":
            return report(of: id) { self.tell(["historyPage": try await room.history(command.query).page()], of: id) }
        case "flush": return report(of: id) { try await client.flush(); self.tell(["done": Report()], of: id) }
        case "signal" where command.flag("clear"): try await room.clearSignal(command["type"], key: command["key"])
        case "signal":
            try await room.signal(command["type"], key: command["key"], command.body, ttl: command.duration("ttlMs"))
        case "focus": try await room.focus(command.focus)
        case "networkChanged": try await client.networkChanged()
        case "enteredBackground": try await client.enteredBackground()
        case "enteredForeground": try await client.enteredForeground()
        case "refreshToken": try await client.refreshToken()
        case "shutdown":
            try await client.shutdown()
            (self.client, subscriptions, acknowledgements) = (nil, [:], [:])
            await withCheckedContinuation { over in reporting.notify(queue: .global()) { over.resume() } }
        default: throw Refusal(why: "there is no \(command.name)")
        }
        tell(["done": Report()], of: id)
    }

    private func connect(_ command: Command) async throws {
        let client = try await Client.connect(command.configuration(asking: self))
        self.client = client
        tell(["done": Report()], of: command.id)
        report { for await state in client.states { self.tell(["state": state]) } }
        guard let outcomes = client.outbox.outcomes() else { return }
        report { for try await outcome in outcomes { self.tell(["outcome": outcome]) } }
    }

    func token(refused: Bool) async throws -> String {
        for former in asking.values { former.resume(throwing: CancellationError()) }
        asks += 1
        tell(["tokenWanted": ["ask": asks, "refused": refused] as Report])
        return try await withCheckedThrowingContinuation { asking = [asks: $0] }
    }

    private func subscribe(to room: Room, _ command: Command) async throws {
        let subscription = try await room.subscribe(from: command.start, withSignals: command.flag("withSignals"))
        let name = room.name
        subscriptions[name] = subscription
        report { try await self.read(subscription, command) }
        report { for await state in subscription.states { self.tell(["roomState": merged(["room": name], state)]) } }
        guard command.flag("withSignals") else { return }
        report { for try await change in room.signals { self.tell(["signalChange": merged(["room": name], change)]) } }
    }

    /// Reports a batch, acknowledges it at once or on command, then goes on with the next.
    private func read(_ subscription: Subscription, _ command: Command, after last: Batch? = nil) async throws {
        let room = subscription.room
        let batch = try await subscription.nextBatch(after: last, max: command.number("batchMax") ?? 256)
        guard !batch.items.isEmpty, subscriptions[room] === subscription else { return }
        for item in batch.items { tell(fields(of: item) ?? [:]) }
        let acknowledge = {
            subscription.acknowledge(batch)
            self.tell(["position": ["room": room, "position": subscription.position]])
            self.report { try await self.read(subscription, command, after: batch) }
        }
        if command.flag("onCommand") { acknowledgements[room] = acknowledge } else { acknowledge() }
    }
}

/// What the suite says, read field by field: what is empty is absent. Nothing changes it, so tasks may share it.
struct Command: @unchecked Sendable {
    let id: Int
    let name: String
    private let fields: [String: Any]

    /// The next one; nil: the input ended. A frame is a length of 4 bytes, big-endian, then so many bytes.
    static func next() -> Command? {
        guard let length = try? FileHandle.standardInput.read(upToCount: 4)?.reduce(0, { $0 << 8 | Int($1) }),
            let frame = try? FileHandle.standardInput.read(upToCount: length),
            let command = try? JSONSerialization.jsonObject(with: frame) as? [String: Any],
            let (name, fields) = command.first(where: { $0.key != "id" }) else { return nil }
        return Command(id: command["id"] as? Int ?? 0, name: name, fields: fields as? [String: Any] ?? [:])
    }

    subscript(name: String) -> String { fields[name] as? String ?? "" }
    func flag(_ name: String) -> Bool { fields[name] as? Bool ?? false }
    func number(_ name: String) -> Int? { (fields[name] as? Int).flatMap { $0 == 0 ? nil : $0 } }
    func duration(_ name: String) -> Duration? { number(name).map { .milliseconds($0) } }
    private func file(_ name: String) -> URL? { self[name].isEmpty ? nil : URL(fileURLWithPath: self[name]) }
    private func part(_ name: String) -> [String: String] { fields[name] as? [String: String] ?? [:] }
    private func lane(_ name: String) -> Lane { ["urgent": .urgent, "bulk": .bulk][name] ?? .normal }
    var focus: Focus { ["foreground": .foreground, "background": .background][self["level"]] ?? .default }

    func configuration(asking driver: Driver) -> Configuration {
        let scheme = ["websocket": "wss:", "quic": "quic:"][self["transport"]] ?? "https:"
        var to = Configuration(url: self["url"].replacingOccurrences(of: "https:", with: scheme))
        to.token = .fixed(self["token"])
        if flag("asksForTokens") { to.token { try await driver.token(refused: $0.refused != 0) } }
        (to.device, to.app, to.appVersion) = (self["device"], self["app"], self["appVersion"])
        (to.outboxFile, to.positionsFile) = (file("outboxFile"), file("positionsFile"))
        to.outboxTTL = duration("outboxTtlMs")
        to.outbox.itemsMax = number("outboxItemsMax") ?? to.outbox.itemsMax
        to.outbox.bytesMax = number("outboxBytesMax") ?? to.outbox.bytesMax
        let digits = self["certificateSha256"].compactMap(\.hexDigitValue).map { UInt8($0) }
        if !digits.isEmpty { to.certificateHash = Data((0..<32).map { digits[2 * $0] << 4 | digits[2 * $0 + 1] }) }
        to.extraRoots = [self["extraRoot"]].filter { !$0.isEmpty }
        return to
    }

    /// nil: where the file of positions says.
    var start: Start? {
        ["": .live, "live": .live, "beginning": .beginning, "position": .position(self["position"]),
         "count": .count(UInt32(number("back") ?? 0)), "duration": .back(duration("back") ?? .zero)][self["start"]]
    }

    var message: Message {
        let delivery: Delivery = flag("transient") ? .transient : flag("replicated") ? .replicated : .stored
        return Message(self["type"], body, lane: lane(self["lane"]), delivery: delivery, key: self["key"],
                       headers: part("headers"), contentType: self["contentType"], ttl: duration("ttlMs"),
                       outboxTTL: duration("outboxTtlMs"))
    }

    var body: Body {
        part("body")["text"].map { .text($0) } ?? .data(Data(base64Encoded: part("body")["data"] ?? "") ?? Data())
    }

    var query: HistoryQuery {
        HistoryQuery(
            direction: flag("forward") ? .forward : .backward, lanes: (fields["lanes"] as? [String] ?? []).map(lane),
            pageSize: number("limit").map(UInt32.init), cursor: part("cursor")["text"])
    }
}

/// What the driver says, or a part of it. What is nil is left out.
typealias Report = [String: Any?]

func merged(_ report: Report, _ value: Any) -> Report { report.merging(fields(of: value) ?? [:]) { $1 } }

/// Something as the suite's protocol writes it.
func json(_ value: Any) -> Any {
    switch value {
    case let report as Report: report.compactMapValues { $0.map(json) }
    case let list as [Any]: list.map(json)
    case let time as Date: UInt64((time.timeIntervalSince1970 * 1000).rounded())
    case is Lane, is GapCause: word(value)
    default: fields(of: value).map(json) ?? value
    }
}

/// What the suite wants to know of something that the SDK tells; nil: it is a plain value.
func fields(of value: Any) -> Report? {
    switch value {
    case let ClientState.suspended(cause), let ClientState.closed(cause):
        ["name": word(value), "code": cause.codeNumber, "codeName": cause.code?.name, "detail": cause.detail]
    case let RoomState.catchingUp(intact), let RoomState.live(intact): ["name": word(value), "recovered": intact]
    case let RoomState.ended(cause): ["name": word(value), "code": cause?.codeNumber]
    case is ClientState, is RoomState: ["name": word(value)]
    case let Item.event(event): ["event": event]
    case let Item.gap(gap): ["gap": gap]
    case let event as Event:
        ["room": event.room, "lane": event.lane, "epoch": event.epoch, "seq": event.seq, "order": event.order,
         "type": event.type, "key": event.key, "contentType": event.contentType, "timeMs": event.time,
         "headers": event.headers, "body": event.body, "user": event.from.user, "service": event.from.service,
         "instance": event.from.instance, "expiresAtMs": event.expiresAt]
    case let Body.text(text): ["text": text]
    case let Body.data(data): ["data": data.base64EncodedString()]
    case let gap as Gap: merged(["room": gap.room, "cause": gap.cause, "refillable": gap.refillable], gap.missing)
    case let Gap.Missing.seqs(lane, epoch, from, to): ["lane": lane, "epoch": epoch, "from": from, "to": to]
    case let Gap.Missing.transients(lane, count): ["lane": lane, "count": count]
    case let SignalChange.live(signal):
        ["user": signal.from.user, "instance": signal.from.instance, "type": signal.type, "key": signal.key,
         "body": signal.body, "expiresAtMs": signal.expiresAt]
    case let SignalChange.gone(from, type, key, expired):
        ["user": from.user, "instance": from.instance, "type": type, "key": key, "gone": true, "expired": expired]
    case let one as Published:
        ["lane": one.lane, "epoch": one.epoch, "seq": one.seq, "order": one.order, "duplicate": one.duplicate]
    case let page as Page:
        ["events": page.events, "gaps": page.gaps, "next": page.next.map { ["text": $0] }, "head": page.head]
    case let outcome as Outcome:
        merged(["room": outcome.room, "lane": outcome.lane, "type": outcome.type, "key": outcome.key], outcome.result)
    case let Result<Published, LanecastError>.success(published): ["stored": published]
    case let Result<Published, LanecastError>.failure(error): ["failed": error]
    case let error as LanecastError:
        ["kind": error.kind.rawValue, "code": error.codeNumber, "codeName": error.code?.name,
         "retryable": error.retryable, "detail": error.detail]
    case let error as any Error: ["kind": "unsupported", "detail": "\(error)"]
    default: nil
    }
}

/// The case of an enumeration as the suite names it: `catching_up` of `catchingUp(…)`.
private func word(_ value: Any) -> String {
    "\(value)".prefix(while: \.isLetter).map { $0.isUppercase ? "_\($0.lowercased())" : "\($0)" }.joined()
}

let driver = Driver()
let ready: Report = ["sdk": "lanecast-swift", "version": "0.1.0", "transports": ["websocket", "quic"]]
await driver.tell(["ready": ready])
// Reading blocks, and has the main thread for itself.
while let command = Command.next() { await driver.obey(command) }
