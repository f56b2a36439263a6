import XCTest

@testable import Lanecast

final class PullerTests: XCTestCase, @unchecked Sendable {
    /// A core that has so many elements, and gives the same batch again until it is acknowledged.
    private func puller(_ count: UInt64, batch: UInt64) -> Puller<UInt64> {
        let calls = Notes<UInt64>()
        return Puller { after, _ in
            calls.add(after)
            guard calls.all.count < 10_000 else { throw NodeError("it asks in a circle") }
            let first = after * batch + 1
            return (after + 1, first > count ? [] : Array(first...min(count, first + batch - 1)))
        }
    }

    /// Readers that go away at random take nothing along, and what was handed to one that did not come back comes again.
    func testEveryElementIsHandledOnce() async throws {
        for seed in 1...50 as ClosedRange<UInt64> {
            var random = Seeded(state: seed)
            let puller = puller(200, batch: UInt64.random(in: 1...9, using: &random))
            var (handled, last): ([UInt64], UInt64?) = ([], nil)
            while let (number, element) = try await puller.next(after: last) {
                if Int.random(in: 0..<4, using: &random) == 0 {
                    // A new reader; this one did not handle what it got.
                    last = nil
                } else {
                    handled.append(element)
                    last = number
                    if Int.random(in: 0..<8, using: &random) == 0 { _ = puller.acknowledgeAll() }
                }
            }
            XCTAssertEqual(handled, Array(1...200), "seed \(seed)")
        }
    }

    /// What is there already is handed to a reader where it runs: the main actor is never let go.
    @MainActor
    func testElementsThatAreThereDoNotLeaveTheActor() async throws {
        let puller = puller(200, batch: 200)
        var last = try await puller.next(after: nil)?.0
        let others = Notes<String>()
        let other = Task { @MainActor in others.add("ran") }
        while let at = last, at < 199 { last = try await puller.next(after: at)?.0 }
        XCTAssertEqual(last, 199)
        XCTAssertEqual(others.all, [])
        await other.value
        XCTAssertEqual(others.all, ["ran"])
    }

    func testACancelledReaderGetsNothing() async throws {
        let puller = puller(3, batch: 3)
        let task = Task {
            withUnsafeCurrentTask { $0?.cancel() }
            return try await puller.next(after: nil)?.1
        }
        do {
            _ = try await task.value
            XCTFail("it was cancelled")
        } catch is CancellationError {}
        let next = try await puller.next(after: nil)
        XCTAssertEqual(next?.1, 1)
    }
}

/// Numbers that a seed repeats.
private struct Seeded: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return state ^ (state >> 29)
    }
}
