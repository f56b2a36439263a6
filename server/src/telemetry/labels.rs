//! The closed sets of labels.

use lanecast_protocol::codes::{Code, TABLE};
use lanecast_protocol::lane::Lane;
use lanecast_protocol::lossy::Pushed;

pub(crate) use super::series::Labels;

/// Declares a label: an enum whose variants have a word each.
macro_rules! label {
    ($(#[$about:meta])* $label:ident, $name:literal: $($(#[$doc:meta])+ $variant:ident = $word:literal,)+) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $label {
            $($(#[$doc])+ $variant,)+
        }

        impl $label {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word in the label.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl Labels for $label {
            const COUNT: usize = Self::ALL.len();

            fn index(self) -> usize {
                self as usize
            }

            fn at(index: usize) -> Self {
                Self::ALL[index]
            }

            fn push(self, pairs: &mut Vec<(&'static str, &'static str)>) {
                pairs.push(($name, self.word()));
            }
        }
    };
}

label! {
    /// How a client is connected.
    Transport, "transport":
    /// WebSocket.
    WebSocket = "websocket",
    /// WebTransport, binary.
    WebTransport = "webtransport",
    /// Raw QUIC, binary.
    Quic = "quic",
    /// Server-sent events.
    Sse = "sse",
}

label! {
    /// What a refused connection was one too many for.
    Cap, "cap":
    /// The node.
    Node = "node",
    /// The address that it came from.
    Address = "address",
    /// The user.
    User = "user",
}

label! {
    /// The rate that a request was beyond.
    Rule, "rule":
    /// Events of a user.
    User = "user",
    /// Events of a user in a room.
    UserInRoom = "user_in_room",
    /// Signals of a user in a room.
    UserSignals = "user_signals",
    /// Subscriptions and pages of history of a user.
    UserRequests = "user_requests",
    /// Events of an API key.
    ApiKey = "api_key",
    /// Events in a room.
    Room = "room",
    /// Events of all.
    Node = "node",
}

label! {
    /// Why a socket was closed before it brought a request.
    Drop, "reason":
    /// The PROXY protocol is on, and it came from no trusted proxy.
    NotAProxy = "not_a_proxy",
    /// What came was no PROXY header.
    ProxyHeader = "proxy_header",
    /// The PROXY header did not come in time.
    ProxyHeaderLate = "proxy_header_late",
    /// The head of a request did not come in time.
    RequestHeadLate = "request_head_late",
}

label! {
    /// How frames are encoded.
    Encoding, "encoding":
    /// Binary protobuf.
    Binary = "binary",
    /// Canonical JSON.
    Json = "json",
}

label! {
    /// Why something was dropped without being delivered.
    DropReason, "reason":
    /// A queue was full.
    QueueFull = "queue_full",
    /// Its time to live ran out.
    Expired = "expired",
    /// A newer signal took its place.
    Conflated = "conflated",
}

impl DropReason {
    /// What a signal did to one that waited before it, if it did something.
    pub fn of(pushed: Pushed) -> Option<Self> {
        match pushed {
            Pushed::Beside => None,
            Pushed::Conflated => Some(Self::Conflated),
            Pushed::Dropped => Some(Self::QueueFull),
        }
    }
}

label! {
    /// How a subscription that asked for a position went on.
    ReplayOutcome, "outcome":
    /// Nothing was missed.
    Recovered = "recovered",
    /// The log no longer had all of it.
    Trimmed = "trimmed",
    /// The log had lost some of it.
    RolledBack = "rolled_back",
}

label! {
    /// Why a gap was sent.
    GapCause, "cause":
    /// The log no longer has them.
    Trimmed = "trimmed",
    /// Their time to live ran out.
    Expired = "expired",
    /// They were erased.
    Erased = "erased",
    /// The client's right or filter excludes them.
    Filtered = "filtered",
    /// The log lost them.
    RolledBack = "rolled_back",
    /// A connection to the log broke.
    Unknown = "unknown",
    /// A full queue dropped them.
    Dropped = "dropped",
}

impl GapCause {
    /// The label of a gap on the wire.
    pub fn of(cause: lanecast_protocol::v1::GapCause) -> Self {
        use lanecast_protocol::v1::GapCause as Wire;
        match cause {
            Wire::Trimmed => Self::Trimmed,
            Wire::Expired => Self::Expired,
            Wire::Erased => Self::Erased,
            Wire::Filtered => Self::Filtered,
            Wire::RolledBack => Self::RolledBack,
            Wire::Unspecified | Wire::Unknown => Self::Unknown,
            Wire::Dropped => Self::Dropped,
        }
    }
}

label! {
    /// What became of a publish.
    PublishResult, "result":
    /// Stored in the log.
    Stored = "stored",
    /// Passed on without being stored.
    Transient = "transient",
    /// Stored before, under the same number or idempotency key.
    Duplicate = "duplicate",
    /// Refused.
    Refused = "refused",
    /// The engine failed.
    Failed = "failed",
}

label! {
    /// What the engine was asked when it failed.
    EngineCall, "call":
    /// Append an event.
    Append = "append",
    /// Read a range of the log.
    Read = "read",
    /// Read a head.
    Head = "head",
    /// Follow a room.
    Follow = "follow",
}

label! {
    /// Where what a subscriber asked for was found.
    #[derive(Default)]
    Source, "source":
    /// In what the node keeps of the room.
    #[default]
    Cache = "cache",
    /// In the answer to somebody else who asked at that time.
    Shared = "shared",
    /// In the engine.
    Engine = "engine",
}

label! {
    /// The route of an HTTP request.
    Route, "route":
    /// The page and its assets.
    Page = "page",
    /// `/healthz`.
    Health = "healthz",
    /// `/readyz`.
    Ready = "readyz",
    /// `/metrics`.
    Metrics = "metrics",
    /// `/.well-known/lanecast`.
    WellKnown = "well_known",
    /// The WebSocket handshake.
    Connect = "connect",
    /// Publishing, history and streams of a room.
    Events = "events",
    /// The position of a room.
    Position = "position",
    /// Several publishes in one request.
    Batch = "batch",
    /// One event to many rooms.
    Broadcast = "broadcast",
    /// Commands and lists of operators.
    Operate = "operate",
    /// Anything else.
    Other = "other",
}

impl Route {
    /// The label of a route pattern of the router.
    pub fn of(pattern: Option<&str>) -> Self {
        match pattern {
            Some("/" | "/assets/{*path}") => Self::Page,
            Some("/healthz") => Self::Health,
            Some("/readyz") => Self::Ready,
            Some("/metrics") => Self::Metrics,
            Some("/.well-known/lanecast") => Self::WellKnown,
            Some("/v1/connect") => Self::Connect,
            Some("/v1/rooms/{room}/events") => Self::Events,
            Some("/v1/rooms/{room}/position") => Self::Position,
            Some("/v1/batch") => Self::Batch,
            Some("/v1/broadcast") => Self::Broadcast,
            Some(
                "/v1/disconnect"
                | "/v1/unsubscribe"
                | "/v1/connections"
                | "/v1/traces"
                | "/v1/nodes"
                | "/v1/nodes/{node}/drain"
                | "/v1/revocations"
                | "/v1/revocations/lift",
            ) => Self::Operate,
            _ => Self::Other,
        }
    }
}

label! {
    /// What a message of another node was.
    NodeMessage, "kind":
    /// It asked for something.
    Command = "command",
    /// It answered.
    Answer = "answer",
    /// This version does not understand it.
    Unknown = "unknown",
    /// Too many waited.
    Dropped = "dropped",
}

label! {
    /// Why a TLS handshake of the HTTP port came to nothing.
    TlsFailure, "reason":
    /// One side wanted what the other did not, or the peer left.
    Refused = "refused",
    /// It took too long.
    Late = "late",
}

label! {
    /// How it went to take a certificate that was replaced.
    Reload, "result":
    /// New handshakes get the new one.
    Done = "done",
    /// It cannot be used; the former one stays.
    Failed = "failed",
}

label! {
    /// The class of an HTTP status.
    StatusClass, "status":
    /// 1xx: the connection was upgraded.
    Upgraded = "1xx",
    /// 2xx.
    Success = "2xx",
    /// 3xx: the browser has it already.
    Redirect = "3xx",
    /// 4xx.
    ClientFault = "4xx",
    /// 5xx.
    NodeFault = "5xx",
}

impl StatusClass {
    /// The class of a status.
    pub fn of(status: u16) -> Self {
        match status / 100 {
            1 => Self::Upgraded,
            2 => Self::Success,
            3 => Self::Redirect,
            4 => Self::ClientFault,
            _ => Self::NodeFault,
        }
    }
}

impl Labels for Lane {
    const COUNT: usize = Self::ALL.len();

    fn index(self) -> usize {
        Lane::index(self)
    }

    fn at(index: usize) -> Self {
        Self::ALL[index]
    }

    fn push(self, pairs: &mut Vec<(&'static str, &'static str)>) {
        pairs.push(("lane", self.name()));
    }
}

impl Labels for Code {
    const COUNT: usize = TABLE.len();

    fn index(self) -> usize {
        // The table is in the order of the numbers, which its own tests check.
        TABLE.partition_point(|row| row.code < self)
    }

    fn at(index: usize) -> Self {
        TABLE[index].code
    }

    fn push(self, pairs: &mut Vec<(&'static str, &'static str)>) {
        pairs.push(("code", self.row().name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<L: Labels>() {
        let mut seen = std::collections::HashSet::new();
        for index in 0..L::COUNT {
            let mut pairs = Vec::new();
            L::at(index).push(&mut pairs);
            assert_eq!(L::at(index).index(), index, "{pairs:?}");
            assert!(seen.insert(pairs.clone()), "{pairs:?} twice");
        }
    }

    #[test]
    fn places_and_labels_agree() {
        check::<(Transport, Encoding)>();
        check::<(Lane, DropReason)>();
        check::<(GapCause, Lane)>();
        check::<(Lane, Source)>();
        check::<(Route, StatusClass)>();
        check::<Code>();
        check::<ReplayOutcome>();
        check::<PublishResult>();
        check::<EngineCall>();
        check::<NodeMessage>();
        check::<Source>();
        check::<Cap>();
        check::<Rule>();
        check::<Drop>();
    }

    #[test]
    fn classes_of_status() {
        assert_eq!(StatusClass::of(101), StatusClass::Upgraded);
        assert_eq!(StatusClass::of(204), StatusClass::Success);
        assert_eq!(StatusClass::of(304), StatusClass::Redirect);
        assert_eq!(StatusClass::of(404), StatusClass::ClientFault);
        assert_eq!(StatusClass::of(503), StatusClass::NodeFault);
    }
}
