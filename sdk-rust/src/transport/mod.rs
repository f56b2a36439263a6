//! The seam between the owner task and a connection.
//!
//! A transport takes records when it can write them, gives packets as they come, and says when it is over. To add one:
//! a file here that implements [`Transport`], a scheme in [`Target::parse`], an arm in [`Dialer::open`].
//!
//! In reading order: `address` (what an address allows), `dial` (opening, and which transport goes first), `memory` (what was
//! learned about this network), `path` (whether it is still the same one), `tcp`, `resolve`, `tls` and `proxy` (what lies below), `websocket` and `quic`.

mod address;
mod dial;
mod memory;
mod path;
mod proxy;
#[cfg(feature = "quic")]
mod quic;
mod resolve;
mod tcp;
mod tls;
mod websocket;

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use lanecast_protocol::codes::Code;
use lanecast_protocol::lane::{Lane, Lanes};
use lanecast_protocol::outbox::Output;

pub(crate) use self::address::{QUIC_PORT, Target};
pub(crate) use self::dial::{Dialer, Opened, Trial};
pub(crate) use self::path::{LOOK_EVERY, Path, Way};
pub(crate) use self::proxy::Proxy;
pub(crate) use self::tls::{Tls, Trust};

/// What a transport has to say.
#[derive(Debug)]
pub(crate) enum Turn {
    /// A packet, or a piece of one that ends at the end of a record; and the lane of the stream or datagram on which it
    /// came, `None` on a transport that folds all lanes into one pipe.
    Packet(Option<Lane>, Bytes),
    /// What was written is gone: there is room for more.
    Written,
    /// It is over, with the peer's close code if there was one.
    Over {
        /// The close code.
        code: Option<u16>,
        /// For developers.
        detail: String,
    },
    /// The peer sent what this transport does not carry: close with this code.
    Fault(Code),
}

/// Where the next outputs of some lanes come from:
/// [`Client::poll_output`](lanecast_protocol::session::client::Client::poll_output), so that the session's queues, which can still reorder, keep all that the transport cannot write yet.
pub(crate) type Source<'a> = dyn FnMut(Lanes) -> Option<Output> + 'a;

/// An open connection.
pub(crate) trait Transport: Send {
    /// Whether it keeps the order inside lane urgent, and between lanes.
    fn ordered(&self) -> bool;

    /// Takes as much as it can write now, and nothing of what it still writes: one that keeps lanes apart takes of those
    /// that have room. Of lanes other than control and urgent it takes what would not wait in a queue beyond this one. `message_max`: the node's limit of a
    /// message, where it is known.
    fn write(&mut self, next: &mut Source<'_>, message_max: Option<usize>);

    /// Drives reading and writing. Both make progress, whichever is busier.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Turn>;

    /// Bytes that the path to the node carries, as far as this transport sees it; `None`: it does not, or what it sees ends
    /// at a proxy.
    fn window(&self) -> Option<u64> {
        None
    }

    /// How long a round trip takes, if the path loses packets and an output of
    /// [`Route::Message`](lanecast_protocol::outbox::Route::Message) goes past what was lost before it; `None`: it does not.
    fn unreliable_round_trip(&self) -> Option<Duration> {
        None
    }

    /// Switches off, and on again, what keeps the queues beyond this one short: for comparison.
    fn set_paced(&mut self, paced: bool);

    /// The way that it goes; `None`: it does not leave the device.
    fn path(&self) -> Option<Path>;

    /// The network may be another one: goes on from a new socket, if it can. Whether the peer still hears, its answers
    /// say.
    fn network_changed(&mut self) {}

    /// Writes what was taken, closes with this code (`None`: the peer has closed), and waits for the peer to close.
    /// The caller bounds the wait.
    fn close(self: Box<Self>, code: Option<Code>) -> BoxFuture<'static, ()>;
}
