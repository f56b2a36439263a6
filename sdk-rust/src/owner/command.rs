//! What handles ask of the owner task.

use std::sync::Arc;

use bytes::Bytes;
use lanecast_protocol::focus::Focus;
use lanecast_protocol::session::client::{Outgoing, SubscribeOptions};
use lanecast_protocol::v1;
use tokio::sync::{oneshot, watch};

use crate::Lane;
use crate::disk::Synced;
use crate::error::{FlushError, PublishError, SubscribeError};
use crate::feed::Feed;
use crate::history::Unread;
use crate::publish::Published;
use crate::signal::Seat;
use crate::state::RoomState;

/// An event to publish.
#[derive(Debug)]
pub(crate) struct Publication {
    pub(crate) room: Arc<str>,
    pub(crate) lane: Lane,
    pub(crate) transient: bool,
    pub(crate) ttl_ms: u32,
    /// How long it may wait for its node; `None`: as the client says.
    pub(crate) keep_ms: Option<u64>,
    pub(crate) ack: v1::AckLevel,
    pub(crate) envelope: Bytes,
}

/// Who waits for a publish.
#[derive(Debug)]
pub(crate) struct Replies {
    /// Answered when it is settled.
    pub(crate) settled: oneshot::Sender<Result<Published, PublishError>>,
    /// Answered when it is in the outbox file, or why it is not; `None`: there is no file.
    pub(crate) queued: Option<oneshot::Sender<Result<(), PublishError>>>,
}

/// A command. One whose answer nobody waits for any more is carried out all the same.
#[derive(Debug)]
pub(crate) enum Command {
    /// Publish an event.
    Publish { publication: Publication, replies: Replies },
    /// Subscribe to a room for a reader.
    Subscribe {
        room: Arc<str>,
        options: SubscribeOptions,
        feed: Arc<Feed>,
        state: watch::Sender<RoomState>,
        reply: oneshot::Sender<Result<(), SubscribeError>>,
    },
    /// Follow the signals of a room.
    Signals { room: Arc<str>, reply: oneshot::Sender<Result<Seat, SubscribeError>> },
    /// Send a signal.
    Signal(Outgoing),
    /// Read a page of history.
    History { request: v1::History, reply: oneshot::Sender<Result<Box<v1::HistoryPage>, Unread>> },
    /// Answer when every publish so far is settled.
    Flush { reply: oneshot::Sender<Result<(), FlushError>> },
    /// Raise or lower a room.
    Focus { room: Arc<str>, focus: Focus },
    /// The network changed.
    NetworkChanged,
    /// The application is in the background. Answered at once, with what tells when the files are on the disk.
    EnteredBackground { reply: oneshot::Sender<Vec<Synced>> },
    /// The application is in the foreground.
    EnteredForeground,
    /// Ask the application for a new token now.
    RefreshToken,
    /// Close for good.
    Close,
}
