import Foundation
internal import LanecastFFI

/// What a token provider is told.
public struct TokenRequest: Sendable, Hashable {
    /// Number of the code with which a node refused the token before, so that a cached one must not be given again; 0: this is
    /// the first one, or the present one will expire.
    public let refused: UInt32
}

/// Gets a token. What it throws counts as a failed attempt, which is repeated with backoff; while connected the old token is
/// kept for as long as it holds. It has 10 s, then its task is cancelled when the next one is asked for.
public typealias TokenProvider = @Sendable (TokenRequest) async throws -> String

/// What a client is made with.
public struct Configuration: Sendable {
    /// Where tokens come from.
    public enum Token: Sendable {
        /// A fixed one. When a node refuses it the client is closed with the node's code.
        case fixed(String)
        /// A function: asked before the first connection, before the token expires, and after a node refused it.
        case provider(TokenProvider)
    }

    /// Bounds of the outbox of durable publishes. Beyond them a publish is an error; nothing that it holds is dropped.
    public struct Outbox: Sendable, Hashable {
        /// Publishes in it.
        public var itemsMax: Int
        /// Bytes in it.
        public var bytesMax: Int

        public init(itemsMax: Int = 10_000, bytesMax: Int = 16 * 1024 * 1024) {
            self.itemsMax = itemsMax
            self.bytesMax = bytesMax
        }
    }

    /// When a publish counts as queued in the outbox file.
    public enum OutboxSync: Sendable, Hashable {
        /// Once the operating system has it: it survives the end of the process.
        case process
        /// Once it is on the disk: it survives a loss of power as well.
        case disk
    }

    /// The node's address: `https://` (QUIC or WebSocket), `quic://`, `wss://`, `ws://` or `http://`.
    public var url: String
    /// Where tokens come from; none by default.
    public var token = Token.fixed("")
    /// Name of the user's device, at most 128 bytes. A token that names one wins.
    public var device: String?
    /// Name of the application, for the node's logs.
    public var app: String?
    /// Its version.
    public var appVersion: String?
    /// Bounds of the outbox: 10,000 publishes and 16 MiB unless told otherwise.
    public var outbox = Outbox()
    /// How long a durable publish may wait for its node: 12 h unless told otherwise.
    public var outboxTTL: Duration?
    /// Keeps the outbox in this file, so that it outlives the process. Its folder must exist; keep it out of backups.
    public var outboxFile: URL?
    /// When a publish counts as queued in that file.
    public var outboxSync = OutboxSync.process
    /// Keeps in this file how far every room was read, so that a subscription which names no start goes on there after a restart.
    /// Its folder must exist; keep it out of backups.
    public var positionsFile: URL?
    /// PEM texts: believes certificates of these roots beside those that the system believes.
    public var extraRoots: [String] = []
    /// SHA-256 of the one certificate that is taken, 32 bytes, whatever its name and issuer: for a node in development.
    public var certificateHash: Data?
    /// An HTTP proxy, `http://[user:password@]host[:port]`. It carries no QUIC.
    public var httpProxy: String?
    /// The UDP port where an `https://` address is tried over QUIC: 8443 unless told otherwise.
    public var quicPort: UInt16?

    /// As the defaults say, for the node at this address.
    public init(url: String) {
        self.url = url
    }

    /// Gets tokens from a function.
    public mutating func token(from provider: @escaping TokenProvider) {
        token = .provider(provider)
    }

    /// Gets tokens from a function that does not care why one is wanted.
    public mutating func token(from provider: @escaping @Sendable () async throws -> String) {
        token = .provider { _ in try await provider() }
    }
}

extension Configuration {
    var options: Options {
        var fixed: String?
        if case .fixed(let token) = token { fixed = token }
        return Options(
            sdk: "lanecast-swift",
            url: url,
            token: fixed,
            device: device,
            app: app,
            appVersion: appVersion,
            outbox: OutboxBounds(itemsMax: UInt64(max(0, outbox.itemsMax)), bytesMax: UInt64(max(0, outbox.bytesMax))),
            outboxTtlMs: outboxTTL.map(\.inMilliseconds),
            outboxFile: outboxFile?.path,
            outboxSync: outboxSync == .disk ? .disk : .process,
            positionsFile: positionsFile?.path,
            extraRoots: extraRoots,
            certificateHash: certificateHash,
            httpProxy: httpProxy,
            quicPort: quicPort.map(UInt32.init)
        )
    }
}

extension Duration {
    /// Whole milliseconds; what is negative is none, and what does not fit is as much as fits.
    var inMilliseconds: UInt64 {
        let (seconds, attoseconds) = components
        guard seconds >= 0, attoseconds >= 0 else { return 0 }
        let (whole, overflow) = UInt64(seconds).multipliedReportingOverflow(by: 1000)
        return overflow ? .max : whole + UInt64(attoseconds / 1_000_000_000_000_000)
    }
}

extension Date {
    init(milliseconds: UInt64) {
        self.init(timeIntervalSince1970: Double(milliseconds) / 1000)
    }
}
