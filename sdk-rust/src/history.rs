//! Reading the past of a room, page by page.

use futures_util::{Stream, stream};
use lanecast_protocol::session::client::CommandError;
use lanecast_protocol::v1;
use tokio::sync::oneshot;

use crate::error::{HistoryError, HistoryErrorKind};
use crate::event::{Event, Gap};
use crate::owner::Command;
use crate::room::Room;
use crate::state::ClientState;
use crate::{Cursor, Lane, Position};

/// Which way to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Newest first.
    #[default]
    Backward,
    /// Oldest first.
    Forward,
}

/// A page of history.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
pub struct Page {
    /// The events, merged over the lanes by `order`, in the direction asked for.
    pub events: Vec<Event>,
    /// What is missing inside the page's range.
    pub gaps: Vec<Gap>,
    /// Where the next page begins; `None`: there is nothing further.
    #[cfg_attr(feature = "json", serde(serialize_with = "crate::json::maybe_text"))]
    pub next: Option<Cursor>,
    /// The head when the first page was read: subscribe from there after the last page, and nothing is missed.
    #[cfg_attr(feature = "json", serde(serialize_with = "crate::json::maybe_text"))]
    pub head: Option<Position>,
}

/// A reader of a room's durable events, made by [`Room::history`]: newest first, all lanes, as many in a page as the
/// node likes, unless told otherwise.
#[derive(Clone, Debug)]
pub struct History {
    room: Room,
    request: v1::History,
    head: Option<Position>,
    done: bool,
}

impl History {
    pub(crate) fn new(room: Room) -> Self {
        let request = v1::History { room: room.name().to_owned(), ..Default::default() };
        Self { room, request, head: None, done: false }.direction(Direction::Backward)
    }

    /// Which way to read.
    pub fn direction(mut self, direction: Direction) -> Self {
        self.request.direction = match direction {
            Direction::Backward => v1::HistoryDirection::Backward,
            Direction::Forward => v1::HistoryDirection::Forward,
        }
        .into();
        self
    }

    /// Only these lanes.
    pub fn lanes(mut self, lanes: impl IntoIterator<Item = Lane>) -> Self {
        self.request.lanes = lanes.into_iter().map(|lane| v1::Lane::from(lane).into()).collect();
        self
    }

    /// Events in a page; the node's limit holds above it.
    pub fn page_size(mut self, events: u32) -> Self {
        self.request.limit = events;
        self
    }

    /// Begins at a place: backward with the events before it, forward with those after it.
    pub fn from_cursor(mut self, cursor: Cursor) -> Self {
        self.request.cursor = Some(cursor.into());
        self
    }

    /// The next page; `None`: there is nothing further. Without a connection it waits for one.
    ///
    /// # Cancel safety
    ///
    /// Cancelling loses nothing: the next call asks for the same page.
    ///
    /// # Errors
    ///
    /// After an error that is `retryable` the next call asks for the same page.
    pub async fn next_page(&mut self) -> Result<Option<Page>, HistoryError> {
        if self.done {
            return Ok(None);
        }
        self.room.checked_name().map_err(|error| HistoryError::local(HistoryErrorKind::Invalid, error))?;
        let wire = self.ask().await?;
        let next = wire.next.as_ref().and_then(|next| Cursor::try_from(next).ok());
        // A page that leads nowhere new would lead round in a circle.
        self.done = next.is_none() || next.map(v1::Cursor::from) == self.request.cursor;
        self.request.cursor = next.map(Into::into);
        let head = wire.head.as_ref().and_then(|head| Position::try_from(head).ok());
        self.head = self.head.or(head);
        let name = self.room.name();
        Ok(Some(Page {
            events: wire.events.into_iter().map(|event| Event::new(name, event.epoch, event)).collect(),
            gaps: wire.gaps.iter().filter_map(|gap| Gap::of_page(name, gap)).collect(),
            next,
            head: self.head,
        }))
    }

    /// Asks until there was a connection that lived long enough for the answer.
    async fn ask(&self) -> Result<v1::HistoryPage, HistoryError> {
        let mut state = self.room.client.state();
        loop {
            let known = state.wait_for(|state| matches!(state, ClientState::Connected | ClientState::Closed(_))).await;
            if known.map_err(|_| HistoryError::closed())?.clone() != ClientState::Connected {
                return Err(HistoryError::closed());
            }
            let (reply, answer) = oneshot::channel();
            let command = Command::History { request: self.request.clone(), reply };
            self.room.client.send(command).await.map_err(|_| HistoryError::closed())?;
            match answer.await.map_err(|_| HistoryError::closed())? {
                Ok(page) => return Ok(*page),
                // The connection went before the answer came.
                Err(Unread::Asked(error)) if error.retryable && *state.borrow() != ClientState::Connected => {}
                Err(Unread::Asked(error)) => return Err(error),
                Err(Unread::NotAsked(CommandError::NotConnected)) => {}
                Err(Unread::NotAsked(CommandError::Closed)) => return Err(HistoryError::closed()),
                Err(Unread::NotAsked(error)) => {
                    return Err(HistoryError::local(HistoryErrorKind::TooMany, error.to_string()).may_retry());
                }
            }
        }
    }

    /// The pages as a stream, which ends after the last one or an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Page, HistoryError>> + Send {
        stream::try_unfold(
            self,
            |mut history| async move { Ok(history.next_page().await?.map(|page| (page, history))) },
        )
    }
}

/// Why there is no page.
#[derive(Debug)]
pub(crate) enum Unread {
    /// The node or the connection.
    Asked(HistoryError),
    /// The request was not sent.
    NotAsked(CommandError),
}
