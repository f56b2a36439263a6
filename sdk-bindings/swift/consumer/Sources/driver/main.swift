// The driver of the Swift SDK for the conformance suite (conformance/driver.md): does with the client what it is told, and
// reports what that did.
import Foundation
import Lanecast

struct Unsupported: Error {
    let what: String
}

/// Tokens that the client wants and the suite gives.
actor Asks {
    private var waiting: [UInt32: CheckedContinuation<String, any Error>] = [:]
    private var count: UInt32 = 0

    func ask(refused: Bool) async throws -> String {
        count += 1
        let ask = count
        try Frames.write(["tokenWanted": ["ask": ask, "refused": refused] as Report])
        return try await withCheckedThrowingContinuation { waiting[ask] = $0 }
    }

    func answer(_ fields: Fields, _ answer: Result<String, any Error>) {
        waiting.removeValue(forKey: fields.number("ask") ?? 0)?.resume(with: answer)
    }
}

/// Reads a subscription batch by batch, and acknowledges at once or on command.
actor Reader {
    let subscription: Subscription
    private var order: CheckedContinuation<UInt32?, Never>?
    private var isOver = false

    init(_ subscription: Subscription) {
        self.subscription = subscription
    }

    func read(max: Int, onCommand: Bool) async throws {
        var batch = try await subscription.nextBatch(max: max)
        while !batch.items.isEmpty && !isOver {
            for item in batch.items { try Frames.write(report(item)) }
            let id = onCommand ? await withCheckedContinuation { order = $0 } : nil
            if isOver { return }
            subscription.acknowledge(batch)
            try Frames.write(["position": ["room": subscription.room, "position": subscription.position ?? ""]])
            if let id { try Frames.write(["command": id, "done": Report()]) }
            batch = try await subscription.nextBatch(after: batch, max: max)
        }
    }

    /// Returns whether a batch waits for it, whose reader then reports that it is done.
    func acknowledge(_ id: UInt32?) -> Bool {
        defer { order = nil }
        order?.resume(returning: id)
        return order != nil
    }

    func end() {
        isOver = true
        subscription.cancel()
        _ = acknowledge(nil)
    }
}

/// A client, and the tasks that report of it, which are at their end before it counts as closed.
struct Session {
    let client: Client
    var tasks: [Task<Void, any Error>] = []
    var readers: [String: Reader] = [:]

    mutating func run(_ body: @escaping @Sendable () async throws -> Void) {
        tasks.append(Task(operation: body))
    }

    /// Reports what a command comes to, later: it keeps no other one from being begun.
    mutating func answer(_ id: UInt32, _ body: @escaping @Sendable () async throws -> Report) {
        run {
            do { try Frames.write(["command": id].with(try await body())) } catch { try fail(id, error) }
        }
    }
}

func begin(_ fields: Fields, _ asks: Asks) async throws -> Session {
    let client = try await Client.connect(fields["url"]) { fields.configure(&$0, asks) }
    var session = Session(client: client)
    session.run { for await state in client.states { try Frames.write(report(state)) } }
    guard let outcomes = client.outbox.outcomes() else { return session }
    session.run { for try await outcome in outcomes { try Frames.write(report(outcome)) } }
    return session
}

/// Returns whether that is all: false, if something else reports the end of the command.
func carryOut(_ name: String, _ fields: Fields, _ id: UInt32, _ session: inout Session) async throws -> Bool {
    let (client, room) = (session.client, session.client.room(fields["room"]))
    switch name {
    case "subscribe":
        let subscription = try await room.subscribe(from: fields.start, withSignals: fields.flag("withSignals"))
        let (reader, max, onCommand) = (Reader(subscription), fields.number("batchMax") ?? 256, fields.flag("onCommand"))
        session.readers[room.name] = reader
        session.run { for await state in subscription.states { try Frames.write(report(state, room: room.name)) } }
        session.run { try await reader.read(max: Int(max), onCommand: onCommand) }
        guard fields.flag("withSignals") else { return true }
        session.run { for try await change in room.signals { try Frames.write(report(change, room: room.name)) } }
    case "acknowledge": return await session.readers[room.name]?.acknowledge(id) != true
    case "unsubscribe": await session.readers.removeValue(forKey: room.name)?.end()
    case "publish":
        let receipt = try await room.send(fields.message)
        try Frames.write(["command": id, "queued": Report()])
        session.answer(id) { ["stored": report(try await receipt.stored())] }
        return false
    case "history":
        session.answer(id) { ["historyPage": report(try await room.history(fields.query).page())] }
        return false
    case "flush":
        session.answer(id) { try await client.flush(); return ["done": Report()] }
        return false
    case "signal" where fields.flag("clear"): try await room.clearSignal(fields["type"], key: fields["key"])
    case "signal": try await room.signal(fields["type"], key: fields["key"], fields.body, ttl: fields.duration("ttlMs"))
    case "focus": try await room.focus(["foreground": .foreground, "background": .background][fields["level"]] ?? .default)
    case "networkChanged": try await client.networkChanged()
    case "enteredBackground": try await client.enteredBackground()
    case "enteredForeground": try await client.enteredForeground()
    case "refreshToken": try await client.refreshToken()
    case "shutdown":
        try await client.shutdown()
        for reader in session.readers.values { await reader.end() }
        for task in session.tasks { _ = await task.result }
    default: throw Unsupported(what: name)
    }
    return true
}

try Frames.write(["ready": ["sdk": "lanecast-swift", "version": "0.1.0", "transports": ["websocket", "quic"]] as Report])
let asks = Asks()
var session: Session?
for await command in Frames.read() {
    let id = command.number("id") ?? 0
    guard let name = command.values.keys.first(where: { $0 != "id" }), let fields = command.part(name) else { continue }
    do {
        switch name {
        case "connect": session = try await begin(fields, asks)
        case "giveToken": await asks.answer(fields, .success(fields["token"]))
        case "refuseToken": await asks.answer(fields, .failure(Unsupported(what: fields["detail"])))
        default:
            guard var present = session else { throw Unsupported(what: "\(name) without a client") }
            defer { session = name == "shutdown" ? nil : present }
            guard try await carryOut(name, fields, id, &present) else { continue }
        }
        try Frames.write(["command": id, "done": Report()])
    } catch {
        try fail(id, error)
    }
}
