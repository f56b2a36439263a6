//! The raw client: it sends whatever it is told to, right or wrong, and records everything on a wire log.
//!
//! It keeps no protocol state but [`Ledger`], which checks every frame that a server sends against the laws that hold
//! for every connection (each seq once, handles, answers), so that each case checks them too.

mod conn;
mod credit;
mod fragments;
mod framing;
pub mod http;
mod http3;
mod lane;
mod ledger;
mod link;
mod log;
mod quic;
pub mod raw;
pub mod socket;
mod streams;
mod tls;
mod track;

pub use conn::{Conn, Incoming, Received, hex, short};
pub(crate) use credit::{CREDIT_LANES, Meter, UNCOUNTED};
pub(crate) use fragments::{Assembler, Broken};
pub(crate) use framing::{Fault, Piece, RecordReader, header_record};
pub use lane::Lane;
pub use ledger::{EVENT_LANES, Handles, Ledger, Violation, body_name, position_lanes};
pub use link::{ABNORMAL, NO_CODE, Open, Place, Refused};
pub(crate) use link::{Arrival, Link, shake_hands};
pub use log::WireLog;
pub use quic::Dialer;
pub(crate) use quic::{ALPN_HTTP3, ALPN_QUIC};
pub use streams::{DATAGRAM_BYTES_MAX, StreamEnd};
pub use tls::{Pins, Trust};

use serde::{Deserialize, Serialize};

/// What carries packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// WebSocket over HTTP/1.1.
    Websocket,
    /// Streams and datagrams of a WebTransport session over HTTP/3.
    Webtransport,
    /// Streams and datagrams of a QUIC connection.
    Quic,
}

impl Transport {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Websocket, Self::Webtransport, Self::Quic];

    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Websocket => "websocket",
            Self::Webtransport => "webtransport",
            Self::Quic => "quic",
        }
    }

    /// Name in the transports column of the spec.
    pub fn in_spec(self) -> &'static str {
        match self {
            Self::Websocket => "ws",
            Self::Webtransport => "wt",
            Self::Quic => "quic",
        }
    }
}

/// How packets are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Protobuf in binary messages.
    Binary,
    /// Canonical JSON in text messages.
    Json,
}

impl Encoding {
    /// The WebSocket subprotocol of this encoding.
    pub fn subprotocol(self) -> &'static str {
        match self {
            Self::Binary => "lanecast.v1",
            Self::Json => "lanecast.v1+json",
        }
    }

    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Binary => "binary",
            Self::Json => "json",
        }
    }
}
