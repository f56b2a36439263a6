//! The messages between nodes. They have a format number, since nodes of neighbouring versions run together: what a node
//! does not understand it ignores, and whoever asked counts it as not having answered.
//!
//! Bounded: the longest message is a page of connections, below [`PAGE_BYTES_MAX`] and one connection.

use bytes::Bytes;
use lanecast_protocol::v1;
use prost::Message as _;

/// The format that this version speaks.
pub const FORMAT: u32 = 1;
/// Bytes of the connections in one message, about; well below the longest message that an engine passes on.
pub const PAGE_BYTES_MAX: usize = 256 * 1024;

/// A message.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeMessage {
    /// [`FORMAT`].
    #[prost(uint32, tag = "1")]
    pub format: u32,
    /// Id of the node that sent it.
    #[prost(string, tag = "2")]
    pub from: String,
    /// Names the command among those of the node that asked.
    #[prost(fixed64, tag = "3")]
    pub request: u64,
    /// What it says.
    #[prost(oneof = "Body", tags = "4, 5")]
    pub body: Option<Body>,
}

/// What a message says.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Body {
    /// Do this, and say what you did.
    #[prost(message, tag = "4")]
    Command(Command),
    /// What was done.
    #[prost(message, tag = "5")]
    Answer(Answer),
}

/// A command. Carrying one out twice does no more than once.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Command {
    /// What to do; `None`: something that this version does not know.
    #[prost(oneof = "Deed", tags = "1, 2, 3, 4, 5")]
    pub deed: Option<Deed>,
}

/// What a command asks for: the messages of the API, as they came.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Deed {
    /// Close connections.
    #[prost(message, tag = "1")]
    Disconnect(v1::DisconnectRequest),
    /// End subscriptions.
    #[prost(message, tag = "2")]
    EndSubscription(v1::EndSubscriptionRequest),
    /// Say which connections there are.
    #[prost(message, tag = "3")]
    List(v1::ListConnectionsRequest),
    /// Send all connections away.
    #[prost(message, tag = "4")]
    Drain(v1::DrainNodeRequest),
    /// Hold to a revocation, or to its end.
    #[prost(message, tag = "5")]
    Revoke(v1::Revocation),
}

/// What a node did.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Answer {
    /// How many connections the command reached.
    #[prost(uint32, tag = "1")]
    pub connections: u32,
    /// The connections that were asked for, by id.
    #[prost(message, repeated, tag = "2")]
    pub listed: Vec<v1::ConnectionInfo>,
    /// There are more after those.
    #[prost(bool, tag = "3")]
    pub more: bool,
}

impl Command {
    /// Whether doing it once more would be answered with another count.
    pub(super) fn must_not_repeat(&self) -> bool {
        !matches!(self.deed, Some(Deed::List(_)) | None)
    }
}

impl From<Deed> for Command {
    fn from(deed: Deed) -> Self {
        Self { deed: Some(deed) }
    }
}

/// The bytes of a message.
pub(super) fn encode(from: &str, request: u64, body: Body) -> Bytes {
    NodeMessage { format: FORMAT, from: from.to_owned(), request, body: Some(body) }.encode_to_vec().into()
}
