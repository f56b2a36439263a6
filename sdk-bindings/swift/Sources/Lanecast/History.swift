internal import LanecastFFI

/// Which part of a room's past to read.
public struct HistoryQuery: Sendable, Hashable {
    /// Which way to read.
    public enum Direction: Sendable, Hashable {
        /// Newest first.
        case backward
        /// Oldest first.
        case forward
    }

    /// Which way to read.
    public var direction: Direction
    /// Only these lanes; none: all.
    public var lanes: [Lane]
    /// Events in a page; the node's limit holds above it. nil: as many as the node likes.
    public var pageSize: UInt32?
    /// Where it begins: ``Page/next`` of an earlier page. nil: at the end of the log where reading begins.
    public var cursor: String?

    public init(
        direction: Direction = .backward, lanes: [Lane] = [], pageSize: UInt32? = nil, cursor: String? = nil
    ) {
        self.direction = direction
        self.lanes = lanes
        self.pageSize = pageSize
        self.cursor = cursor
    }
}

/// A page of history.
public struct Page: Sendable, Hashable {
    /// The events, merged over the lanes by `order`, in the direction asked for.
    public let events: [Event]
    /// What is missing inside the page's range.
    public let gaps: [Gap]
    /// Where the next page begins; nil: there is nothing further.
    public let next: String?
    /// The head when the page was read: that of the first page is where to subscribe from after the last one, so that nothing
    /// is missed.
    public let head: String?
}

/// A reader of a room's durable events, page by page: from ``Room/history(_:)``.
public struct History: AsyncSequence, Sendable {
    public typealias Element = Page

    let room: Room
    let query: HistoryQuery

    /// The first page. Without a connection it waits for one.
    ///
    /// - Throws: ``LanecastError`` of kind `invalid`, `tooMany`, `refused` or `closed`.
    public func page() async throws -> Page {
        let request = query.request
        let page = try await waiting { try await room.core.historyPage(request: request, cancellation: $0) }
        return Page(
            events: page.events.map { Event($0, room: room.name) },
            gaps: page.gaps.map { Gap($0, room: room.name) },
            next: page.next,
            head: page.head)
    }

    public func makeAsyncIterator() -> Iterator {
        Iterator(next: self)
    }

    /// Reads ``History``.
    public struct Iterator: AsyncIteratorProtocol {
        private var pages: History?

        init(next: History) {
            pages = next
        }

        /// The next page; nil: there is nothing further. Cancelled, or after an error that is `retryable`, the next call asks for
        /// the same page.
        ///
        /// - Throws: As ``History/page()``.
        public mutating func next() async throws -> Page? {
            guard let pages else { return nil }
            let page = try await pages.page()
            self.pages = pages.following(page)
            return page
        }
    }

    /// The pages after one. A page that leads nowhere new would lead round in a circle.
    private func following(_ page: Page) -> History? {
        guard let next = page.next, next != query.cursor else { return nil }
        var query = query
        query.cursor = next
        return History(room: room, query: query)
    }
}

extension HistoryQuery {
    fileprivate var request: HistoryRequest {
        HistoryRequest(
            direction: direction == .backward ? .backward : .forward,
            lanes: lanes.map(\.core),
            pageSize: pageSize,
            cursor: cursor)
    }
}
