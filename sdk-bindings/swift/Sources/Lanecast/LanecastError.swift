import Foundation
internal import LanecastFFI

/// Why an operation failed.
///
/// ``kind`` is for `switch`, ``code`` names the row of the protocol's table if a node refused, ``detail`` is one sentence for
/// developers and never to be parsed, and ``retryable`` says whether the same call may succeed later. A call that was ended by
/// cancelling its task throws `CancellationError` instead.
public struct LanecastError: Error, Sendable, Hashable {
    /// What failed.
    public enum Kind: String, Sendable, Hashable, CaseIterable {
        /// Something that was given cannot be used: a room name, a type, a key, a position.
        case invalid
        /// The address, or that of the proxy, is none that can be used.
        case badURL
        /// The scheme needs a transport with which the library was not built.
        case unsupportedScheme
        /// The certificates to believe cannot be used.
        case certificates
        /// The client cannot run here: no threads, or no randomness.
        case noRuntime
        /// The client is closed; `code` says why.
        case closed
        /// Another client, in this process or another, has the outbox file open.
        case outboxLocked
        /// The outbox file was damaged and was repaired: connecting again goes on with what is intact.
        case outboxDamaged
        /// The outbox file is of a format that this version does not know. It was not touched.
        case outboxVersion
        /// The outbox file cannot be read or written, or is no outbox.
        case outboxFile
        /// Another client has the file of positions open.
        case positionsLocked
        /// The file of positions was damaged and was repaired: connecting again goes on with what is intact.
        case positionsDamaged
        /// The file of positions is of a format that this version does not know. It was not touched.
        case positionsVersion
        /// The file of positions cannot be read or written, or is none.
        case positionsFile
        /// The outbox is full. Nothing that it holds was dropped.
        case outboxFull
        /// The outbox file could not be written. The event is not queued.
        case notKept
        /// A transient event found no connection.
        case notConnected
        /// Too many calls of this kind wait.
        case tooMany
        /// The node refused, or ended the subscription; `code` says why.
        case refused
        /// An event's time in the outbox ran out. If it was sent before, it may be stored all the same.
        case givenUp
        /// This client has a subscription of the room, and a room's events go to one reader.
        case alreadySubscribed
        /// More rooms than a client may have.
        case tooManyRooms
        /// The call was ended, though its task was not cancelled.
        case cancelled
        /// A fault of this SDK. `detail` helps whoever mends it.
        case internalFault
        /// The Rust library that was found is of another version than this package.
        case libraryVersion
    }

    /// What failed.
    public let kind: Kind
    /// Number of the protocol's table of codes, also one that this version does not know; 0: no node was involved.
    public let codeNumber: UInt32
    /// One sentence for developers; may be empty.
    public let detail: String
    /// Whether the same call may succeed later.
    public let retryable: Bool
    /// After what time the node said that it may be asked again; nil: it said nothing.
    public let retryAfter: Duration?

    /// The row of the table; nil: no node was involved.
    public var code: Code? { codeNumber == 0 ? nil : Code(number: codeNumber) }
}

extension LanecastError: CustomStringConvertible, LocalizedError {
    public var description: String {
        let code = codeNumber == 0 ? "" : " [\(codeNumber)]"
        return "\(kind.rawValue)\(code)\(detail.isEmpty ? "" : ": \(detail)")"
    }

    public var errorDescription: String? { description }
}

extension LanecastError {
    init(_ kind: Kind, _ detail: String) {
        self.init(kind: kind, codeNumber: 0, detail: detail, retryable: false, retryAfter: nil)
    }

    init(_ error: FfiError) {
        switch error {
        case .Failed(let kind, let code, let detail, let retryable, let retryAfterMs):
            let retryAfter = retryAfterMs.map { Duration.milliseconds($0) }
            self.init(kind: Kind(kind), codeNumber: code, detail: detail, retryable: retryable, retryAfter: retryAfter)
        }
    }
}

extension LanecastError.Kind {
    init(_ kind: ErrorKind) {
        switch kind {
        case .invalid: self = .invalid
        case .badUrl: self = .badURL
        case .unsupportedScheme: self = .unsupportedScheme
        case .certificates: self = .certificates
        case .noRuntime: self = .noRuntime
        case .closed: self = .closed
        case .outboxLocked: self = .outboxLocked
        case .outboxDamaged: self = .outboxDamaged
        case .outboxVersion: self = .outboxVersion
        case .outboxFile: self = .outboxFile
        case .positionsLocked: self = .positionsLocked
        case .positionsDamaged: self = .positionsDamaged
        case .positionsVersion: self = .positionsVersion
        case .positionsFile: self = .positionsFile
        case .outboxFull: self = .outboxFull
        case .notKept: self = .notKept
        case .notConnected: self = .notConnected
        case .tooMany: self = .tooMany
        case .refused: self = .refused
        case .givenUp: self = .givenUp
        case .alreadySubscribed: self = .alreadySubscribed
        case .tooManyRooms: self = .tooManyRooms
        case .cancelled: self = .cancelled
        case .internal: self = .internalFault
        }
    }
}

/// Runs a call of the core, whose errors become this package's.
func call<Result: Sendable>(_ body: () async throws -> Result) async throws -> Result {
    do {
        return try await body()
    } catch let error as FfiError {
        throw translated(error)
    }
}

/// Runs a call of the core that waits, and ends it when the present task is cancelled: what Swift cancels does not reach Rust
/// by itself.
func waiting<Result: Sendable>(_ body: (Cancellation) async throws -> Result) async throws -> Result {
    let cancellation = Cancellation()
    return try await withTaskCancellationHandler {
        try await call { try await body(cancellation) }
    } onCancel: {
        cancellation.cancel()
    }
}

private func translated(_ error: FfiError) -> any Error {
    let error = LanecastError(error)
    return error.kind == .cancelled && Task.isCancelled ? CancellationError() : error
}
