import Foundation
import Lanecast
import LanecastFFI
import XCTest

/// A token provider's or an application's own failure.
struct Failure: Error, Equatable {}

/// What tasks of a test write down.
final class Notes<Value>: @unchecked Sendable {
    private let lock = NSLock()
    private var values: [Value] = []

    func add(_ value: Value) {
        lock.lock()
        defer { lock.unlock() }
        values.append(value)
    }

    var all: [Value] {
        lock.lock()
        defer { lock.unlock() }
        return values
    }
}

/// Nothing in these tests takes this long unless it hangs.
private let patience = Duration.seconds(20)

/// Runs something that ends soon, or the test fails. It does not wait for what hangs.
func soon<Result: Sendable>(_ body: @escaping @Sendable () async throws -> Result) async throws -> Result {
    let race = Race<Result>()
    let work = Task { race.finish(await Swift.Result { try await body() }) }
    let alarm = Task {
        try await Task.sleep(for: patience)
        race.finish(.failure(NodeError("it should not take so long")))
    }
    defer {
        work.cancel()
        alarm.cancel()
    }
    return try await race.result()
}

/// The first of several results.
private final class Race<Value: Sendable>: @unchecked Sendable {
    private let lock = NSLock()
    private var first: Result<Value, any Error>?
    private var waiting: CheckedContinuation<Value, any Error>?

    func finish(_ result: Result<Value, any Error>) {
        lock.lock()
        defer { lock.unlock() }
        guard first == nil else { return }
        first = result
        waiting?.resume(with: result)
    }

    func result() async throws -> Value {
        try await withCheckedThrowingContinuation { continuation in
            lock.lock()
            defer { lock.unlock() }
            if let first { continuation.resume(with: first) } else { waiting = continuation }
        }
    }
}

extension Result where Failure == any Error {
    fileprivate init(_ body: () async throws -> Success) async {
        do { self = .success(try await body()) } catch { self = .failure(error) }
    }
}

/// Waits until something holds, which nothing tells of.
func eventually(_ what: String, _ holds: () -> Bool) async throws {
    let deadline = ContinuousClock.now + patience
    while !holds() {
        guard ContinuousClock.now < deadline else { throw NodeError("never: \(what)") }
        try await Task.sleep(for: .milliseconds(5))
    }
}

/// A client of the node, as a user.
func connect(_ node: Node, as user: String = "alice") async throws -> Lanecast.Client {
    try await Lanecast.Client.connect(node.url) { $0.token = .fixed("dev:\(user)") }
}

extension Lanecast.Item {
    var event: Lanecast.Event? {
        if case .event(let event) = self { return event }
        return nil
    }

    var gap: Lanecast.Gap? {
        if case .gap(let gap) = self { return gap }
        return nil
    }
}

/// The first items of a sequence.
func first<Items: AsyncSequence & Sendable>(_ count: Int, of items: Items) async throws -> [Items.Element]
where Items.Element: Sendable {
    try await soon {
        var taken: [Items.Element] = []
        for try await item in items {
            taken.append(item)
            if taken.count == count { break }
        }
        return taken
    }
}

/// Publishes texts "1" to "count", many at a time.
func fill(_ room: Lanecast.Room, _ count: Int) async throws {
    for number in 1...count {
        _ = try await room.send(Message("msg", .text("\(number)")))
        // Well inside the bounds of the outbox.
        if number % 5_000 == 0 { try await room.client.flush() }
    }
    try await room.client.flush()
}

func assertThrows<Result>(
    _ kind: LanecastError.Kind, _ body: () async throws -> Result, file: StaticString = #filePath, line: UInt = #line
) async -> LanecastError? {
    do {
        _ = try await body()
        XCTFail("it should have failed", file: file, line: line)
    } catch let error as LanecastError {
        XCTAssertEqual(error.kind, kind, file: file, line: line)
        return error
    } catch {
        XCTFail("not a LanecastError: \(error)", file: file, line: line)
    }
    return nil
}
