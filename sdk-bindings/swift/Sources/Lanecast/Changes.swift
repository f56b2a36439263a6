internal import LanecastFFI

/// A value as it changes: first the present one, then each that differs. A slow reader skips what was in between, never the
/// last one. It ends when the value will not change any more, and when its task is cancelled.
public struct Changes<Value: Sendable>: AsyncSequence, Sendable {
    public typealias Element = Value

    /// Makes a reader, which returns the next value; nil: it will not change any more.
    private let reader: @Sendable () -> @Sendable () async throws -> Value?

    /// Changes of a value of the core.
    ///
    /// - Parameters:
    ///   - owner: What has the value.
    ///   - convert: Makes it one of this package.
    ///   - next: The value, once it is not the given one.
    init<Owner: Sendable, Raw: Sendable>(
        of owner: Owner,
        as convert: @escaping @Sendable (Raw) -> Value,
        next: @escaping @Sendable (Owner, Raw?, Cancellation) async throws -> Raw?
    ) {
        reader = {
            let last = Locked<Raw?>(nil)
            return {
                let after = last.with { $0 }
                let value = try await waiting { try await next(owner, after, $0) }
                last.with { $0 = value }
                return value.map(convert)
            }
        }
    }

    public func makeAsyncIterator() -> Iterator {
        Iterator(read: reader())
    }

    /// Reads ``Changes``.
    public struct Iterator: AsyncIteratorProtocol {
        let read: @Sendable () async throws -> Value?
        private var isOver = false

        init(read: @escaping @Sendable () async throws -> Value?) {
            self.read = read
        }

        public mutating func next() async -> Value? {
            if !isOver, let value = try? await read() { return value }
            isOver = true
            return nil
        }
    }
}
