import Foundation
import Lanecast
import XCTest

final class ClientTests: XCTestCase, @unchecked Sendable {
    func testStatesAreTold() async throws {
        let node = try Node()
        let client = try await connect(node)
        try await client.connected()
        XCTAssertEqual(client.state, .connected)
        let states = Notes<ClientState>()
        let watcher = Task { for await state in client.states { states.add(state) } }
        try await eventually("the watcher sees the first state") { states.all == [.connected] }
        node.stop()
        try await eventually("the watcher sees the loss") { states.all.count > 1 }
        try node.start()
        try await soon { try await client.connected() }
        try await client.shutdown()
        await watcher.value
        guard case .closed? = states.all.last else { return XCTFail("the last state is closed: \(states.all)") }
        _ = await assertThrows(.closed) { try await client.connected() }
        _ = await assertThrows(.closed) { try await client.room("chat.1").publish("msg", "late") }
    }

    func testAThrowInTheTokenProviderDoesNotHang() async throws {
        let node = try Node()
        let asked = Notes<UInt32>()
        let client = try await Client.connect(node.url) {
            $0.token { request in
                asked.add(request.refused)
                switch asked.all.count {
                case 1: throw Failure()
                case 2: return "dev:"
                default: return "dev:alice"
                }
            }
        }
        try await soon { try await client.connected() }
        XCTAssertEqual(asked.all.count, 3)
        XCTAssertEqual(asked.all[0], 0)
        XCTAssertNotEqual(asked.all[2], 0, "the second token was refused")
    }

    func testATokenThatExpiresIsReplaced() async throws {
        let node = try Node()
        let asked = Notes<UInt32>()
        let client = try await Client.connect(node.url) {
            $0.token { request in
                asked.add(request.refused)
                return try node.mint("alice", seconds: 3)
            }
        }
        try await soon { try await client.connected() }
        try await eventually("a second token is wanted") { asked.all.count > 1 }
        try await client.refreshToken()
        try await eventually("one more, because it was asked for") { asked.all.count > 2 }
        try await client.room("chat.1").publish("msg", "still here")
    }

    func testARefusalHasItsCode() async throws {
        let node = try Node()
        let token = try node.mint("alice", seconds: 60)
        let client = try await Client.connect(node.url) { $0.token = .fixed(token) }
        let error = await assertThrows(.refused) { try await client.room("other").publish("msg", "no right") }
        XCTAssertEqual(error?.code, .forbidden)
        XCTAssertEqual(error?.codeNumber, 4302)
        XCTAssertEqual(error?.retryable, false)
        let refused = await assertThrows(.refused) { try await client.room("other").subscribe().ready() }
        XCTAssertEqual(refused?.code, .forbidden)
        _ = await assertThrows(.invalid) { try await client.room("").publish("msg", "no name") }
    }

    func testARefusedTokenClosesTheClient() async throws {
        let node = try Node()
        let client = try await Client.connect(node.url) { $0.token = .fixed("nonsense") }
        let error = await assertThrows(.closed) { try await soon { try await client.connected() } }
        XCTAssertNotEqual(error?.codeNumber, 0)
    }

    func testWhatCannotBeUsedIsSaid() async throws {
        _ = await assertThrows(.badURL) { try await Client.connect("gopher://x") }
        _ = await assertThrows(.invalid) {
            try await Client.connect("wss://x") { $0.certificateHash = Data([1]) }
        }
        _ = await assertThrows(.certificates) { try await Client.connect("wss://x") { $0.extraRoots = ["no PEM"] } }
        _ = await assertThrows(.badURL) { try await Client.connect("wss://x") { $0.httpProxy = "ftp://x" } }
    }

    func testAnOutboxFileOutlivesItsClient() async throws {
        let node = try Node()
        let file = URL(fileURLWithPath: node.file("outbox"))
        let configure: @Sendable (inout Configuration) -> Void = {
            $0.token = .fixed("dev:alice")
            $0.outboxFile = file
            $0.outboxSync = .disk
        }
        node.stop()
        let former = try await Client.connect(node.url, configure: configure)
        for number in 1...3 { _ = try await former.room("chat.1").send(Message("msg", .text("\(number)"), key: "k")) }
        XCTAssertEqual(former.outbox.pending, 3)
        XCTAssertTrue(former.outbox.hasFile)
        _ = await assertThrows(.outboxLocked) { try await Client.connect(node.url, configure: configure) }
        try await former.shutdown()
        try node.start()

        let client = try await Client.connect(node.url, configure: configure)
        XCTAssertEqual(client.outbox.restored, 3)
        let outcomes = try XCTUnwrap(client.outbox.outcomes())
        XCTAssertNil(client.outbox.outcomes(), "they go to one reader")
        let all = try await first(4, of: outcomes)
        XCTAssertEqual(all.map(\.body.text), ["1", "2", "3"])
        XCTAssertEqual(try all.map { try $0.result.get().seq }, [1, 2, 3])
        XCTAssertEqual(all.map(\.key), ["k", "k", "k"])
        let page = try await client.room("chat.1").history(HistoryQuery(direction: .forward)).page()
        XCTAssertEqual(page.events.compactMap(\.text), ["1", "2", "3"])
        for await pending in client.outbox.pendingChanges where pending == 0 { break }
        try await client.shutdown()
    }

    func testAFileOfPositionsOutlivesItsClient() async throws {
        let node = try Node()
        let file = URL(fileURLWithPath: node.file("positions"))
        let configure: @Sendable (inout Configuration) -> Void = {
            $0.token = .fixed("dev:alice")
            $0.positionsFile = file
        }
        let former = try await Client.connect(node.url, configure: configure)
        try await fill(former.room("chat.1"), 5)
        let subscription = try await former.room("chat.1").subscribe(from: .beginning)
        let batch = try await soon { try await subscription.nextBatch(max: 1) }
        _ = try await soon { try await subscription.nextBatch(after: batch, max: 1) }
        XCTAssertEqual(batch.position, subscription.position)
        _ = await assertThrows(.positionsLocked) { try await Client.connect(node.url, configure: configure) }
        try await former.enteredBackground()
        try await former.enteredForeground()
        try await former.shutdown()

        let client = try await Client.connect(node.url, configure: configure)
        let rest = try await first(4, of: client.room("chat.1").events)
        XCTAssertEqual(rest.compactMap(\.event?.text), ["2", "3", "4", "5"], "what was not acknowledged comes again")
        try await client.shutdown()
    }

    func testAFullOutboxIsAnError() async throws {
        let node = try Node()
        node.stop()
        let client = try await Client.connect(node.url) {
            $0.token = .fixed("dev:alice")
            $0.outbox = .init(itemsMax: 2, bytesMax: 1024)
            $0.outboxTTL = .seconds(3600)
        }
        let room = client.room("chat.1")
        for _ in 1...2 { _ = try await room.send(Message("msg", "waits", outboxTTL: .seconds(60))) }
        let error = await assertThrows(.outboxFull) { try await room.publish("msg", "one too many") }
        XCTAssertEqual(error?.retryable, true)
        let gone = await assertThrows(.notConnected) { try await room.publish(Message("m", "", delivery: .transient)) }
        XCTAssertEqual(gone?.codeNumber, 0)
        let given = Message("msg", "soon too late", outboxTTL: .milliseconds(1))
        _ = await assertThrows(.outboxFull) { try await room.publish(given) }
    }

    func testAHintReconnectsAtOnce() async throws {
        let node = try Node()
        let client = try await connect(node)
        try await client.connected()
        try await client.networkChanged()
        try await client.room("chat.1").publish("msg", "still here")
        try await client.flush()
    }

    func testTheLogIsHandedOver() async throws {
        let node = try Node()
        let lines = Notes<String>()
        try Log.write(.trace) { _, target, line in lines.add("\(target): \(line)") }
        let client = try await connect(node)
        try await client.connected()
        node.stop()
        try await eventually("the SDK says something") { !lines.all.isEmpty }
        try Log.off()
        XCTAssertTrue(lines.all.allSatisfy { $0.hasPrefix("lanecast") })
    }
}
