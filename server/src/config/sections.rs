//! The table of options. Each entry says its key, type, default, bounds, what it does and why it is so.
//!
//! Times are in milliseconds and sizes in bytes; the unit stands at the end of the key.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use lanecast_protocol::position::DurableLane;

use super::options::options;
use super::read::Choice;
use crate::auth::keys::Algorithm;

options! {
    /// Where the node listens, and what it takes on a connection before it knows who is there.
    pub struct Listen {
        /// Address for HTTP and WebSocket.
        address: SocketAddr = "\"127.0.0.1:8080\"",
            because "loopback only until someone decides otherwise";
        /// Address for WebTransport and raw QUIC (UDP), served if there is a certificate; empty for none.
        quic: Option<SocketAddr> = "\"127.0.0.1:8443\"",
            because "loopback like the other; where 443 is free, give that, which the fewest networks block";
        /// Host and port at which operators and other machines reach the HTTP API; shown in the list of nodes.
        advertised: Option<String> = "\"\"",
            because "the address on which the node listens, which is right unless that is 0.0.0.0 or behind a proxy";
        /// Networks of the proxies in front of the node, such as "10.0.0.0/8": what they say of the addresses of clients is
        /// believed, in X-Forwarded-For or the PROXY protocol, and they are not capped by address.
        trusted_proxies: Vec<IpNet> = "[]" in 0..=1_000,
            because "whoever is believed here can take any address";
        /// Whether connections begin with a header of the PROXY protocol, version 2; then trusted proxies alone may connect.
        proxy_protocol: bool = "false",
            because "only proxies that were told so send it";
        /// Connections open at once, by TCP and as many by QUIC; one more is refused (TCP: answered 503 and closed).
        connections_max: usize = "10_000" in 1..=1_000_000,
            because "fits the usual limit of open files (20,000) with room for the engine's own";
        /// A request whose headers, or PROXY header, are not complete after this is closed.
        header_timeout_ms: u64 = "10_000" in 100..=120_000,
            because "a phone on a bad link needs seconds; a handshake at one byte a second would hold a slot for minutes";
        /// Largest head of a request, in bytes.
        header_bytes: usize = "16_384" in 8_192..=1_048_576,
            because "a token of 8 KiB and a browser's cookies fit";
        /// An HTTP request whose body is not complete after this is closed.
        body_timeout_ms: u64 = "30_000" in 100..=600_000,
            because "the largest body takes 20 s at 100 kbit/s";
    }
}

options! {
    /// The certificate with which the node speaks TLS and QUIC; without one it serves plain HTTP only. The files are
    /// watched: new handshakes get a new certificate within seconds, and connections stay.
    pub struct TlsOptions {
        /// File with the certificate, then those by which it was issued, as PEM.
        certificate_file: Option<PathBuf> = "\"\"",
            because "there is no certificate that everybody trusts without asking an authority";
        /// File with its key, as PEM: PKCS#8, SEC1 or PKCS#1, without a password. May be the same file.
        key_file: Option<PathBuf> = "\"\"",
            because "it belongs to the certificate";
        /// Whether listen.address speaks TLS too. Without it the node serves QUIC, and HTTP to a proxy that ends TLS.
        http: bool = "true",
            because "who gives a certificate wants nothing in clear text";
        /// A TLS handshake that is not complete after this is closed.
        handshake_timeout_ms: u64 = "10_000" in 100..=120_000,
            because "as for the head of a request; a phone on a bad link needs seconds";
    }
}

options! {
    /// How lanes share a connection.
    pub struct LaneOptions {
        /// Whether all lanes leave as one queue, as if there were none. For comparison and measuring only: urgent then waits
        /// behind whatever came before it.
        one_queue: bool = "false",
            because "lanes are what this node is for";
    }
}

options! {
    /// What a client may ask for. Clients are told in Welcome.
    pub struct Limits {
        /// Largest encoded record (frame with its envelope), in bytes.
        record_bytes: u32 = "262_144" in 4_096..=16_777_216,
            because "four times the default message, since envelopes carry headers; larger ones would hold up urgent frames";
        /// Connections of a user to this node at once; 0: no cap. Services are not capped.
        connections_per_user: u32 = "250" in 0..=1_000_000,
            because "some phones, and a browser's tabs; more is a program that connects and does not close";
        /// Connections from an address to this node at once, a /64 of IPv6 counting as one; 0: no cap. Loopback addresses
        /// and trusted proxies are not capped.
        connections_per_address: u32 = "0" in 0..=1_000_000,
            because "an unlisted proxy, a company or a mobile network is one address; set it with listen.trusted_proxies";
        /// Rooms that a connection is subscribed to at once.
        rooms_per_connection: u32 = "100" in 1..=10_000,
            because "a chat list fits; each costs the node a place and the engine a subscription";
        /// Publishes of a connection that wait for their answer.
        publishes_in_flight: u32 = "256" in 1..=65_536,
            because "fills a 100 ms round trip at 2,500 publishes a second; bounds the table of answers";
        /// Signals per second and connection, over a longer time.
        signals_per_second: u32 = "10" in 1..=1_000,
            because "a cursor looks smooth at 10 Hz, and SDKs conflate before they send";
        /// Signals that may come at once.
        signals_burst: u32 = "20" in 1..=10_000,
            because "two seconds' worth, for a client that was away";
        /// Bytes of lane bulk that a connection gets in a second, over a longer time; 0: as many as it takes, else at least
        /// 16,384.
        bulk_bytes_per_second: u32 = "0" in 0..=1_000_000_000,
            because "bulk yields to the other lanes by itself; a cap saves the traffic of those who pay for it by volume";
        /// Events in a page of history.
        history_page: u32 = "200" in 1..=10_000,
            because "a screen or two; pages ride bulk and are made in memory";
    }
}

options! {
    /// How much anyone may ask of the node, over a longer time and at once; more is answered RATE_LIMITED. Each node
    /// counts for itself: a user who is connected to two has twice as much. Policies have rates too.
    pub struct RateOptions {
        /// Events that a user publishes, to all rooms together; 0: no limit.
        user_events_per_minute: u32 = "0" in 0..=60_000_000,
            because "no limit until somebody knows what is usual";
        /// Events that a user publishes at once.
        user_events_burst: u32 = "100" in 1..=1_000_000,
            because "what an outbox gathered in a tunnel, over several rooms";
        /// Subscriptions, pages of history and streams that a user asks for; 0: no limit.
        user_requests_per_minute: u32 = "0" in 0..=60_000_000,
            because "no limit until somebody knows what is usual";
        /// Subscriptions, pages of history and streams that a user asks for at once.
        user_requests_burst: u32 = "500" in 1..=1_000_000,
            because "some devices that come back at once, each with its 100 rooms";
        /// Events that a service publishes with an API key, each event of a batch and each room of a broadcast counting;
        /// 0: no limit.
        api_key_events_per_second: u32 = "0" in 0..=1_000_000,
            because "no limit until somebody knows what is usual";
        /// Events that a service publishes at once.
        api_key_events_burst: u32 = "1_000" in 1..=1_000_000,
            because "a broadcast to as many rooms as it may name";
        /// Events that all together publish through this node; 0: no limit.
        node_events_per_second: u32 = "0" in 0..=1_000_000,
            because "no limit until somebody knows what the engine carries";
        /// Events that all together publish at once.
        node_events_burst: u32 = "10_000" in 1..=1_000_000,
            because "ten of the largest broadcasts";
    }
}

options! {
    /// When a connection counts as dead. Clients are told in Welcome.
    pub struct Heartbeat {
        /// A client that has not said Hello after this is closed.
        hello_timeout_ms: u32 = "10_000" in 100..=120_000,
            because "Hello follows the handshake in the same flight";
        /// A client pings after this long without sending.
        ping_after_ms: u32 = "25_000" in 100..=600_000,
            because "below the 30 s after which the strictest common NATs and proxies forget a connection";
        /// A client gives up when a Pong takes longer.
        pong_within_ms: u32 = "10_000" in 100..=120_000,
            because "longer than any live mobile link's worst round trip";
        /// The node closes a connection from which no record came for this long.
        idle_close_ms: u32 = "60_000" in 200..=3_600_000,
            because "two pings may be lost";
        /// The node closes a connection whose peer took nothing for this long, though there was something to take.
        no_progress_ms: u32 = "30_000" in 200..=3_600_000,
            because "slow is no offence, dead is; a lift or a tunnel is over by then";
    }
}

options! {
    /// Over what time clients spread their reconnects, told in Welcome.
    pub struct Reconnect {
        /// Window of the first attempt.
        min_ms: u32 = "500" in 1..=60_000,
            because "one lost connection should come back at once";
        /// Largest window.
        max_ms: u32 = "30_000" in 1..=3_600_000,
            because "10,000 clients of a failed node come back at some 300 a second";
    }
}

options! {
    /// Which pages may connect. Requests without an Origin header come from programs, not from pages, and are taken.
    pub struct Origins {
        /// Origins taken beside the node's own, such as "https://app.example.org"; "*" takes all.
        allow: Vec<String> = "[]" in 0..=1_000,
            because "the node's own page needs none";
    }
}

options! {
    /// How user tokens are checked. Without a key only API keys and, with --dev, development tokens are taken. Every
    /// [[tokens.keys]] is one more key; with jwks_file or jwks_url come those that an issuer publishes.
    pub struct TokenOptions {
        /// Secret for tokens signed with HS256, at least 32 bytes. Prefer the file: this one ends up in backups.
        hs256_secret: Option<String> = "\"\"",
            because "there is no safe default secret";
        /// File with that secret; line ends at its end do not count.
        hs256_secret_file: Option<PathBuf> = "\"\"",
            because "there is no safe default secret";
        /// File with a JSON Web Key Set: public keys for RS256, ES256 and EdDSA. It is read again when it changes.
        jwks_file: Option<PathBuf> = "\"\"",
            because "most nodes are given their keys one by one";
        /// URL of a JSON Web Key Set, https, or http within a machine or cluster. Trusted certificates are the system's.
        jwks_url: Option<String> = "\"\"",
            because "most nodes are given their keys one by one";
        /// How often the URL is asked when its answer does not say for how long it is fresh (Cache-Control: max-age, taken
        /// within 30 s and 24 h). A token with an unknown `kid` has it asked at once, every 10 s at most.
        jwks_refresh_ms: u64 = "300_000" in 1_000..=86_400_000,
            because "issuers announce a new key hours before they sign with it";
        /// How old the last good key set may become while no newer one can be read.
        jwks_age_max_ms: u64 = "86_400_000" in 60_000..=2_592_000_000,
            because "an issuer's bad day should not end the chat, and a stolen key should not live for ever";
        /// What the claim `aud` must name.
        audience: Option<String> = "\"\"",
            because "needed only where several services share a secret";
        /// What the claim `iss` must name.
        issuer: Option<String> = "\"\"",
            because "needed only where several services share a secret";
        /// By how much the clocks of issuer and node may differ.
        leeway_ms: u64 = "5_000" in 0..=300_000,
            because "clocks kept by NTP differ by less than a second; more would keep expired tokens alive";
        /// How far away `exp` may be. A revocation of a user lasts this long, unless whoever revokes says less.
        lifetime_max_ms: u64 = "31_622_400_000" in 60_000..=315_360_000_000,
            because "366 days; a token that lives for years cannot be told from one that was stolen years ago";
    }
}

options! {
    /// A key that checks user tokens. Repeat [[tokens.keys]] for each, so that the next key is known before tokens are
    /// signed with it, and the former one until its tokens have expired.
    pub struct TokenKeyOptions {
        /// Its id: a token with the header `kid` is checked with the key of that id only, one without with all of its `alg`.
        kid: Option<String> = "\"\"" in 1..=256,
            because "needed only where there are several";
        /// What it signs with. A token with another `alg` is not taken.
        algorithm: Algorithm = "\"HS256\"",
            because "the one that a secret is for";
        /// With HS256: the secret, at least 32 bytes. Prefer the file.
        secret: Option<String> = "\"\"",
            because "there is no safe default secret";
        /// With HS256: file with the secret; line ends at its end do not count.
        secret_file: Option<PathBuf> = "\"\"",
            because "for where secrets are mounted as files";
        /// Else: PEM file with the public key, RSA of at least 2,048 bits, P-256 or Ed25519.
        public_key_file: Option<PathBuf> = "\"\"",
            because "a node needs no private key";
    }
}

options! {
    /// A service that may use the HTTP API. Repeat [[api_keys]] for each.
    pub struct ApiKeyOptions {
        /// Name of the service, as subscribers see it.
        name: String = "\"\"",
            because "must be given";
        /// SHA-256 of the key, as 64 hex digits. `lanecast api-key` makes a key and says this.
        sha256: Option<String> = "\"\"",
            because "the node need not know the key itself";
        /// File with the key; line ends at its end do not count.
        key_file: Option<PathBuf> = "\"\"",
            because "for where secrets are mounted as files";
    }
}

options! {
    /// Where rooms live.
    pub struct EngineOptions {
        /// Which engine.
        kind: EngineKind = "\"memory\"",
            because "needs nothing else; a restart loses the rooms and is told to clients as a new epoch";
        /// Memory engine: rooms kept at once; the least recently used idle ones are dropped.
        rooms_max: usize = "100_000" in 1..=10_000_000,
            because "about 100 MB of empty rooms";
        /// Memory engine: bytes of events kept at once; the oldest events are trimmed.
        bytes_max: u64 = "268_435_456" in 1_048_576..=1_099_511_627_776,
            because "a quarter of the smallest machine that one rents";
    }
}

options! {
    /// The Redis or Valkey where rooms live with `engine.kind = "redis"`. All nodes that share rooms have the same.
    pub struct Redis {
        /// Its address, "redis://user:password@host:port". Prefer the file for one with a password.
        url: String = "\"redis://127.0.0.1:6379\"",
            because "where Redis listens by default";
        /// File with the address; line ends at its end do not count.
        url_file: Option<PathBuf> = "\"\"",
            because "for where secrets are mounted as files";
        /// Begins every key and channel. Pub/Sub knows no database numbers, so this is what keeps two stores apart.
        prefix: String = "\"lc\"" in 1..=64,
            because "short, since it is in every key";
        /// Over how many hash tags rooms are spread. It cannot be changed for a store that exists.
        partitions: u32 = "128" in 1..=4_096,
            because "spreads well over tens of cluster nodes, and a script of one partition stays short";
        /// Whether stores with other prefixes may be in the same Redis; else a node refuses to start beside one.
        beside_others: bool = "false",
            because "another prefix is a slip of the pen more often than a second store";
        /// Events of one room and lane that are stored in one call when they wait together; 1: one by one.
        group_events_max: usize = "32" in 1..=256,
            because "halves what an event costs Redis under load, and larger groups gain little";
        /// Replicas that must confirm a publish with acknowledgement "replicated"; 0: such publishes are refused.
        replicas: u32 = "0" in 0..=16,
            because "a single Redis has none";
    }
}

options! {
    /// What the rooms of a pattern keep and allow. Repeat [[policies]]: the first whose pattern fits a room holds for
    /// it; a room that none fits has the defaults.
    pub struct PolicyOptions {
        /// The pattern, such as "chat.*", "call.**" or "user:*".
        rooms: String = "\"**\"",
            because "must be given";
        /// Durable events kept of each lane.
        retention_events: u64 = "10_000" in 1..=10_000_000,
            because "a busy day of a team's room";
        /// How long durable events are kept.
        retention_ms: u64 = "86_400_000" in 1_000..=31_536_000_000,
            because "a phone that was off overnight comes back without a gap";
        /// Largest body of an event or signal, in bytes.
        message_bytes: u32 = "65_536" in 1..=16_777_216,
            because "text and state fit; files belong in a file store, with a link here";
        /// Lanes in which events may be published; another is answered LANE_NOT_ALLOWED.
        lanes: Vec<DurableLane> = "[\"urgent\", \"normal\", \"bulk\"]" in 1..=3,
            because "who may use which lane is first of all a matter of rights";
        /// Events that a user publishes to such a room; 0: no limit. A chat does well with 120.
        user_events_per_minute: u32 = "0" in 0..=60_000_000,
            because "no limit until somebody knows what is usual in these rooms";
        /// Events that a user publishes to such a room at once.
        user_events_burst: u32 = "20" in 1..=1_000_000,
            because "what somebody wrote in a tunnel";
        /// Events that all together publish to such a room; 0: no limit.
        room_events_per_second: u32 = "0" in 0..=1_000_000,
            because "no limit until somebody knows what is usual in these rooms";
        /// Events that all together publish to such a room at once.
        room_events_burst: u32 = "100" in 1..=1_000_000,
            because "a lively moment, or a small batch";
        /// Signals that a user sends to such a room over all connections; 0: no limit but that of each connection.
        user_signals_per_second: u32 = "0" in 0..=1_000_000,
            because "limits.signals_per_second holds already";
        /// Signals that a user sends to such a room at once.
        user_signals_burst: u32 = "20" in 1..=1_000_000,
            because "as many as a connection may send at once";
        /// The lane of events whose publisher names none.
        default_lane: DurableLane = "\"normal\"",
            because "urgent loses its meaning where it is the rule";
        /// Whether events whose publisher does not say are stored.
        default_delivery: DeliveryDefault = "\"durable\"",
            because "losing what should have been kept is the worse surprise";
        /// How long a signal lives whose sender does not say.
        signal_ttl_ms: u32 = "10_000" in 100..=3_600_000,
            because "typing dots of someone who left vanish by themselves";
        /// How long a signal may live.
        signal_ttl_max_ms: u32 = "60_000" in 100..=3_600_000,
            because "what should live longer is an event or presence";
    }
}

options! {
    /// How the node ends after SIGTERM or SIGINT.
    pub struct Drain {
        /// How long clients have to leave.
        deadline_ms: u64 = "20_000" in 0..=600_000,
            because "within the 30 s that orchestrators give; a node ends earlier when all have left";
        /// Over what time clients are told to spread their leaving, at least.
        spread_ms: u32 = "5_000" in 0..=600_000,
            because "a quarter of the deadline, so that the last one still finds the door open";
        /// Connections sent away per second, at most; the deadline goes before it.
        rate_per_second: u32 = "1_000" in 10..=1_000_000,
            because "10,000 connections leave in 10 s, and the nodes that get them spend a part of a core on handshakes";
    }
}

options! {
    /// What `/readyz` says to a balancer.
    pub struct ReadinessOptions {
        /// While the engine's store cannot be reached: "ready" answers 200, "unready" 503; both say "degraded".
        on_engine_down: OnEngineDown = "\"ready\"",
            because "every node has lost it, so an emptied balancer helps nobody and costs all connections";
    }
}

options! {
    /// What the node writes about itself, to standard error.
    pub struct Log {
        /// Form of the lines.
        format: LogFormat = "\"text\"",
            because "read by people first";
        /// Which lines, as tracing filter directives, such as "info,lanecast_server::http=debug".
        filter: String = "\"info\"",
            because "connections and requests are debug, so that load does not fill disks";
    }
}

options! {
    /// What the node remembers for whoever asks.
    pub struct TelemetryOptions {
        /// Whether the node remembers where the time of its newest 4,096 events went, for `lanecast why`; with --dev it does.
        traces: bool = "false",
            because "each event sent is looked at once more, and some megabytes are kept";
    }
}

/// Where rooms live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// In the node's memory.
    Memory,
    /// In a Redis or Valkey, shared with other nodes.
    Redis,
}

impl Choice for EngineKind {
    const WORDS: &'static [(&'static str, Self)] = &[("memory", Self::Memory), ("redis", Self::Redis)];
}

/// What a lost store means to a balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnEngineDown {
    /// The node goes on getting connections.
    Ready,
    /// It gets none.
    Unready,
}

impl Choice for OnEngineDown {
    const WORDS: &'static [(&'static str, Self)] = &[("ready", Self::Ready), ("unready", Self::Unready)];
}

impl Choice for Algorithm {
    const WORDS: &'static [(&'static str, Self)] = &Self::NAMES;
}

/// Form of the log's lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Choice for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

/// Whether an event is stored whose publisher does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryDefault {
    /// Stored.
    Durable,
    /// Not stored.
    Transient,
}

impl Choice for DeliveryDefault {
    const WORDS: &'static [(&'static str, Self)] = &[("durable", Self::Durable), ("transient", Self::Transient)];
}

impl Choice for DurableLane {
    const WORDS: &'static [(&'static str, Self)] =
        &[("urgent", Self::Urgent), ("normal", Self::Normal), ("bulk", Self::Bulk)];
}
