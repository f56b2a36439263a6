//! The raw client: it sends whatever it is told to, right or wrong, and records everything on a wire log.
//!
//! It keeps no protocol state but [`Ledger`], which checks every frame that a server sends against the laws that hold
//! for every connection (each seq once, handles, answers), so that each case checks them too.

mod conn;
pub mod http;
mod ledger;
mod log;
pub mod raw;

pub(crate) use conn::shake_hands;
pub use conn::{ABNORMAL, Conn, Incoming, Open, Received, Refused, hex, short};
pub use ledger::{EVENT_LANES, Handles, Ledger, Violation, body_name, position_lanes};
pub use log::WireLog;

use serde::{Deserialize, Serialize};

/// What carries packets. WebTransport and raw QUIC will be further values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// WebSocket over HTTP/1.1.
    Websocket,
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
