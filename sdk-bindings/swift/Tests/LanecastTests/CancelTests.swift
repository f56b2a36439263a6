import Foundation
import Lanecast
import LanecastFFI
import XCTest

final class CancelTests: XCTestCase, @unchecked Sendable {
    /// Events are read while they are published, by tasks that are cancelled after a millisecond: nothing is lost, nothing comes
    /// twice, and nothing is left behind.
    func testCancelledTasksLoseNothing() async throws {
        let count = 20_000
        let node = try Node()
        let before = live().objects
        do {
            let (reader, writer) = (try await connect(node, as: "alice"), try await connect(node, as: "bob"))
            let room = reader.room("chat.1")
            let filling = Task { try await fill(writer.room("chat.1"), count) }
            let seen = Notes<String>()
            var rounds = 0
            let deadline = ContinuousClock.now + .seconds(60)
            while seen.all.count < count, ContinuousClock.now < deadline {
                let task = Task {
                    for try await item in room.events(from: .beginning) { seen.add(item.event?.text ?? "a gap") }
                }
                try await Task.sleep(for: .milliseconds(1))
                task.cancel()
                _ = await task.result
                rounds += 1
            }
            try await filling.value
            XCTAssertEqual(seen.all, (1...count).map(String.init))
            XCTAssertGreaterThan(rounds, 100)
            print("\(count) events in \(rounds) rounds")
            try await reader.shutdown()
            try await writer.shutdown()
        }
        try await eventually("no call runs") { live().calls == 0 }
        try await eventually("no object is left") { live().objects == before }
    }

    /// The same with time-outs around single calls, whose results may be thrown away.
    func testTimeOutsLoseNothing() async throws {
        let count = 5_000
        let node = try Node()
        let (reader, writer) = (try await connect(node, as: "alice"), try await connect(node, as: "bob"))
        let subscription = try await reader.room("chat.1").subscribe(from: .beginning)
        let filling = Task { try await fill(writer.room("chat.1"), count) }
        var texts: [String] = []
        var (batch, timeOuts) = (Lanecast.Batch?.none, 0)
        let deadline = ContinuousClock.now + .seconds(60)
        while texts.count < count, ContinuousClock.now < deadline {
            let last = batch
            guard let next = try await within(.milliseconds(1), { try await subscription.nextBatch(after: last, max: 16) }) else {
                timeOuts += 1
                continue
            }
            texts += next.items.map { $0.event?.text ?? "a gap" }
            batch = next
        }
        try await filling.value
        XCTAssertEqual(texts, (1...count).map(String.init))
        print("\(count) events, \(timeOuts) time-outs")
    }

    func testEveryCallThatWaitsCanBeCancelled() async throws {
        let node = try Node()
        node.stop()
        let client = try await connect(node)
        let room = client.room("chat.1")
        let subscription = try await room.subscribe()
        let receipt = try await room.send(Message("msg", "waits"))
        let calls: [@Sendable () async throws -> Void] = [
            { try await client.connected() },
            { try await client.flush() },
            { _ = try await receipt.stored() },
            { _ = try await room.history().page() },
            { _ = try await subscription.nextBatch() },
            { try await subscription.ready() },
            { for try await _ in subscription {} },
            { for try await _ in room.signals {} },
            { for await _ in subscription.states {}; try Task.checkCancellation() },
            { for await _ in client.states {}; try Task.checkCancellation() },
            { for await _ in client.outbox.pendingChanges {}; try Task.checkCancellation() },
        ]
        for (index, call) in calls.enumerated() {
            let task = Task { try await call() }
            try await Task.sleep(for: .milliseconds(2))
            task.cancel()
            do {
                try await soon { try await task.value }
                XCTFail("call \(index) should have been cancelled")
            } catch is CancellationError {
            } catch {
                XCTFail("call \(index): \(error)")
            }
        }
        try await eventually("only the client's own calls run") { live().calls == 0 }
    }

    func testSubscribingAndCancellingStaysFlat() async throws {
        let node = try Node()
        let client = try await connect(node)
        try await client.connected()
        func round() async throws {
            let room = client.room("chat.1")
            let task = Task { for try await _ in room.events {} }
            let subscription = try await client.room("chat.2").subscribe(withSignals: true)
            try await subscription.ready()
            task.cancel()
            _ = await task.result
        }
        for _ in 1...100 { try await round() }
        let (objects, memory) = (live().objects, residentBytes())
        for _ in 1...1_000 { try await round() }
        try await eventually("as many objects as before") { live().objects <= objects }
        try await eventually("no call runs") { live().calls == 0 }
        let grown = residentBytes() - memory
        print("1,000 rounds: \(grown / 1024) KiB")
        XCTAssertLessThan(grown, 4 * 1024 * 1024)
    }
}

/// nil: it took longer, and was cancelled.
private func within<Result: Sendable>(
    _ time: Duration, _ body: @escaping @Sendable () async throws -> Result
) async throws -> Result? {
    try await withThrowingTaskGroup(of: Result?.self) { group in
        group.addTask(operation: body)
        group.addTask {
            try await Task.sleep(for: time)
            return nil
        }
        defer { group.cancelAll() }
        return try await group.next()!
    }
}

private func residentBytes() -> Int {
    let pages = (try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8))?.split(separator: " ")[1]
    return (pages.flatMap { Int($0) } ?? 0) * sysconf(Int32(_SC_PAGESIZE))
}
