internal import LanecastFFI

/// Hands out one by one what the core gives in batches, and knows what of it is handled.
///
/// It belongs to the subscription and not to an iterator: a task that is cancelled in the middle of a batch leaves the rest to
/// the next iterator, and an element that was on its way to the cancelled task, and so never handled, comes again.
final class Puller<Element: Sendable>: Sendable {
    /// The batch after the one with this number; an empty one: there are no more.
    typealias Pull = @Sendable (UInt64, Cancellation) async throws -> (number: UInt64, elements: [Element])

    private let pull: Pull
    private let window = Locked(Window<Element>())

    init(pull: @escaping Pull) {
        self.pull = pull
    }

    /// The last batch that is handled as a whole.
    var acknowledged: UInt64 { window.with { $0.acknowledged } }

    /// The first element that is not handled, and its number; nil: there are no more. The one numbered `last` was handled.
    ///
    /// It runs where its caller does. Most elements are there already, and two changes of the thread for each would cost ten
    /// times what the element does.
    func next(after last: UInt64?, isolation: isolated (any Actor)? = #isolation) async throws -> (UInt64, Element)? {
        if let last { window.with { $0.acknowledge(element: last) } }
        while true {
            // Before an element is handed out, so that a task which was cancelled leaves it to the next one.
            try Task.checkCancellation()
            switch window.with({ $0.step() }) {
            case .element(let number, let element): return (number, element)
            case .pull(let after):
                let batch = try await waiting { try await pull(after, $0) }
                if batch.elements.isEmpty { return nil }
                window.with { $0.put(batch.elements, number: batch.number) }
            }
        }
    }

    /// A batch is handled as a whole.
    func acknowledge(batch: UInt64) {
        window.with { $0.acknowledge(batch: batch) }
    }

    /// Everything that was handed out is handled. Returns the batch, if that is all of it.
    func acknowledgeAll() -> UInt64? {
        window.with { $0.acknowledgeAll() }
    }
}

/// A batch, and how far it is handled.
private struct Window<Element> {
    enum Step {
        case element(UInt64, Element)
        /// There is none; the next batch is the one after this.
        case pull(after: UInt64)
    }

    private var elements: [Element] = []
    /// The core's number of the batch.
    private var batch: UInt64 = 0
    /// Number of its first element, counted over all batches.
    private var first: UInt64 = 0
    /// How many of its elements are handled, and were handed out.
    private var handled = 0
    private var handedOut = 0
    private(set) var acknowledged: UInt64 = 0

    mutating func step() -> Step {
        guard handled < elements.count else { return .pull(after: acknowledged) }
        handedOut = handled + 1
        return .element(first + UInt64(handled), elements[handled])
    }

    mutating func put(_ next: [Element], number: UInt64) {
        // Two readers may have asked at once, and got the same one.
        guard number > batch else { return }
        first += UInt64(elements.count)
        (elements, batch, handled, handedOut) = (next, number, 0, 0)
    }

    mutating func acknowledge(element: UInt64) {
        guard element >= first, element < first + UInt64(elements.count) else { return }
        handled = max(handled, Int(element - first) + 1)
        if handled == elements.count { acknowledged = max(acknowledged, batch) }
    }

    mutating func acknowledge(batch number: UInt64) {
        acknowledged = max(acknowledged, number)
        if number == batch { handled = elements.count }
    }

    mutating func acknowledgeAll() -> UInt64? {
        handled = max(handled, handedOut)
        guard handled == elements.count, batch > acknowledged else { return nil }
        acknowledged = batch
        return batch
    }
}
