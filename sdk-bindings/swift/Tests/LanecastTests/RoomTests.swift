import Foundation
import Lanecast
import XCTest

final class RoomTests: XCTestCase, @unchecked Sendable {
    func testWhatIsPublishedArrives() async throws {
        let node = try Node()
        let (alice, bob) = (try await connect(node, as: "alice"), try await connect(node, as: "bob"))
        let subscription = try await alice.room("chat.1").subscribe()
        try await subscription.ready()
        let message = Message(
            "msg", .data(Data([0, 255])), lane: .urgent, key: "k", headers: ["h": "v"], contentType: "a/b", ttl: .seconds(60))
        let published = try await bob.room("chat.1").publish(message)
        try await bob.room("chat.1").publish("note", "hé")

        let events = try await first(2, of: subscription).compactMap(\.event)
        let urgent = try XCTUnwrap(events.first { $0.lane == .urgent })
        XCTAssertEqual([urgent.seq, urgent.epoch, urgent.order], [published.seq, published.epoch, published.order])
        XCTAssertEqual([urgent.room, urgent.type, urgent.key, urgent.contentType], ["chat.1", "msg", "k", "a/b"])
        XCTAssertEqual(urgent.body, .data(Data([0, 255])))
        XCTAssertEqual(urgent.headers["h"], "v")
        XCTAssertEqual(urgent.from.user, "bob")
        XCTAssertTrue(urgent.isDurable)
        XCTAssertEqual(urgent.time.timeIntervalSince(alice.nodeTime), 0, accuracy: 60)
        XCTAssertNotNil(urgent.expiresAt)
        let note = try XCTUnwrap(events.first { $0.type == "note" })
        XCTAssertEqual(note.text, "hé")
        XCTAssertNil(note.expiresAt)
        try await alice.shutdown()
        try await bob.shutdown()
    }

    func testATransientEventIsPassedOn() async throws {
        let node = try Node()
        let client = try await connect(node)
        let room = client.room("chat.1")
        let subscription = try await room.subscribe()
        try await subscription.ready()
        let published = try await room.publish(Message("now", "here", delivery: .transient))
        XCTAssertEqual(published.seq, 0)
        let event = try await first(1, of: subscription)[0].event
        XCTAssertEqual(event?.isDurable, false)
    }

    func testAReceiptMayBeAskedAgain() async throws {
        let node = try Node()
        let client = try await connect(node)
        let receipt = try await client.room("chat.1").send(Message("msg", "hello"))
        let (once, again) = (try await receipt.stored(), try await receipt.stored())
        XCTAssertEqual(once, again)
        XCTAssertEqual(once.seq, 1)
    }

    func testABatchIsAcknowledgedByAskingForTheNext() async throws {
        let node = try Node()
        let client = try await connect(node)
        let room = client.room("chat.1")
        try await fill(room, 5)
        let subscription = try await room.subscribe(from: .beginning)
        let batch = try await soon { try await subscription.nextBatch(max: 1) }
        XCTAssertEqual(batch.items.compactMap(\.event?.text), ["1"])
        let before = subscription.position
        let same = try await soon { try await subscription.nextBatch(max: 1) }
        XCTAssertEqual(same.items.compactMap(\.event?.text), ["1"], "it was not acknowledged")
        XCTAssertEqual(subscription.position, before)
        let next = try await soon { try await subscription.nextBatch(after: batch, max: 1) }
        XCTAssertEqual(next.items.compactMap(\.event?.text), ["2"])
        XCTAssertEqual(subscription.position, batch.position)
        subscription.acknowledge(next)
        XCTAssertEqual(subscription.position, next.position)

        // The sequence goes on where the batches were, and the next client where the position is.
        let rest = try await first(3, of: subscription)
        XCTAssertEqual(rest.compactMap(\.event?.text), ["3", "4", "5"])
        subscription.acknowledge()
        let position = try XCTUnwrap(subscription.position)
        XCTAssertNotEqual(position, next.position)
        subscription.cancel()
        XCTAssertEqual(subscription.position, position, "it is still known")
        let other = try await connect(node, as: "bob").room("chat.1").subscribe(from: .position(next.position ?? ""))
        let again = try await first(1, of: other)
        XCTAssertEqual(again[0].event?.text, "3")
    }

    func testARoomIsSubscribedOnceAndEndsByLeaving() async throws {
        let node = try Node()
        let client = try await connect(node)
        let room = client.room("chat.1")
        XCTAssertTrue(room === client.room("chat.1"))
        try await fill(room, 3)
        let seen = try await first(2, of: room.events(from: .beginning))
        XCTAssertEqual(seen.compactMap(\.event?.text), ["1", "2"])
        _ = await assertThrows(.alreadySubscribed) { try await room.subscribe() }

        // Broken out of at the second one, which was not said to be handled.
        let rest = try await first(2, of: room.events)
        XCTAssertEqual(rest.compactMap(\.event?.text), ["2", "3"])
        let reader = Task { try await first(9, of: room.events).count }
        try await room.publish("msg", "4")
        try await eventually("the reader takes up what waits") { room.client.outbox.pending == 0 }
        await room.leave()
        let count = try await reader.value
        XCTAssertLessThanOrEqual(count, 2)
        let anew = try await first(4, of: room.events(from: .beginning))
        XCTAssertEqual(anew.compactMap(\.event?.text), ["1", "2", "3", "4"])
    }

    func testWhatIsTrimmedIsAGap() async throws {
        let node = try Node()
        let client = try await connect(node)
        let room = client.room("trim.1")
        try await fill(room, 3)
        let subscription = try await room.subscribe(from: .beginning)
        _ = try await first(3, of: subscription)
        subscription.acknowledge()
        let position = try XCTUnwrap(subscription.position)
        subscription.cancel()
        try await fill(room, 30)
        let later = try await first(11, of: try await room.subscribe(from: .position(position)))
        let gap = try XCTUnwrap(later.first?.gap)
        XCTAssertEqual(gap.cause, .trimmed)
        XCTAssertEqual(gap.count, 20)
        XCTAssertEqual(later.compactMap(\.event?.text), (21...30).map(String.init))
    }

    func testALostLogIsAGap() async throws {
        let node = try Node()
        let client = try await connect(node)
        let room = client.room("chat.1")
        try await fill(room, 2)
        let seen = try await first(2, of: room.events(from: .beginning))
        XCTAssertEqual(seen.count, 2)
        node.stop()
        try node.start()
        // The second one was not said to be handled, so it comes again; then what became of the log.
        let later = try await first(2, of: room.events)
        XCTAssertEqual(later.last?.gap?.cause, .rolledBack)
    }

    func testHistoryComesInPages() async throws {
        let node = try Node()
        let client = try await connect(node)
        let room = client.room("chat.1")
        try await fill(room, 25)
        var texts: [String] = []
        var pages = 0
        for try await page in room.history(HistoryQuery(direction: .forward, pageSize: 10)) {
            texts += page.events.compactMap(\.text)
            pages += 1
            XCTAssertNotNil(page.head)
        }
        XCTAssertEqual(texts, (1...25).map(String.init))
        XCTAssertGreaterThanOrEqual(pages, 3)
        let newest = try await room.history(HistoryQuery(lanes: [.normal], pageSize: 2)).page()
        XCTAssertEqual(newest.events.compactMap(\.text), ["25", "24"])
        let older = try await room.history(HistoryQuery(pageSize: 1, cursor: newest.next)).page()
        XCTAssertEqual(older.events.first?.text, "23")
        _ = await assertThrows(.invalid) { try await room.history(HistoryQuery(cursor: "nonsense")).page() }
    }

    func testSignalsComeAndGo() async throws {
        let node = try Node()
        let (alice, bob) = (try await connect(node, as: "alice"), try await connect(node, as: "bob"))
        let room = alice.room("chat.1")
        try await room.signal("typing", key: "k", "one")
        var changes = bob.room("chat.1").signals.makeAsyncIterator()
        guard case .live(let signal)? = try await changes.next() else { return XCTFail("a signal lives") }
        XCTAssertEqual([signal.type, signal.key, signal.body.text, signal.from.user], ["typing", "k", "one", "alice"])
        let live = try await bob.room("chat.1").signals.live()
        XCTAssertEqual(live, [signal])
        try await room.clearSignal("typing", key: "k")
        guard case .gone(let from, _, "k", false)? = try await changes.next() else { return XCTFail("it was taken back") }
        XCTAssertEqual(from.user, "alice")
        _ = await assertThrows(.invalid) { try await room.signal("typing", key: "") }
    }

    func testFocusIsTaken() async throws {
        let node = try Node()
        let client = try await connect(node)
        let room = client.room("chat.1")
        let subscription = try await room.subscribe()
        try await subscription.ready()
        for focus in [Focus.foreground, .default, .background] { try await room.focus(focus) }
        try await room.publish("msg", "still served")
        let event = try await first(1, of: subscription)
        XCTAssertEqual(event[0].event?.text, "still served")
    }
}
