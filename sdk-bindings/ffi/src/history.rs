//! Reading the past of a room.

use crate::error::{ErrorKind, FfiError};
use crate::event::{Event, Gap, Lane};

/// Which way to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum Direction {
    /// Newest first.
    Backward,
    /// Oldest first.
    Forward,
}

impl From<Direction> for lanecast::Direction {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Backward => Self::Backward,
            Direction::Forward => Self::Forward,
        }
    }
}

/// Which page to read.
#[derive(Clone, Debug, uniffi::Record)]
pub struct HistoryRequest {
    /// Which way to read.
    pub direction: Direction,
    /// Only these lanes; none: all.
    pub lanes: Vec<Lane>,
    /// Events in a page; the node's limit holds above it. `None`: as many as the node likes.
    pub page_size: Option<u32>,
    /// Where it begins, as text: [`Page::next`] of the page before. `None`: at the end of the log where reading begins.
    pub cursor: Option<String>,
}

/// A page of history.
#[derive(Clone, Debug, Default, PartialEq, Eq, uniffi::Record)]
pub struct Page {
    /// The events, merged over the lanes by `order`, in the direction asked for.
    pub events: Vec<Event>,
    /// What is missing inside the page's range.
    pub gaps: Vec<Gap>,
    /// Where the next page begins; `None`: there is nothing further.
    pub next: Option<String>,
    /// The head when this page was read, as text: that of the first page is where to subscribe from after the last one.
    pub head: Option<String>,
}

impl HistoryRequest {
    pub(crate) async fn page(self, room: &lanecast::Room) -> Result<Page, FfiError> {
        let mut history = room.history().direction(self.direction.into()).lanes(self.lanes.into_iter().map(Into::into));
        if let Some(events) = self.page_size {
            history = history.page_size(events);
        }
        if let Some(cursor) = self.cursor {
            let parsed = cursor.parse().map_err(|error| FfiError::local(ErrorKind::Invalid, error))?;
            history = history.from_cursor(parsed);
        }
        Ok(history.next_page().await?.map(Into::into).unwrap_or_default())
    }
}

impl From<lanecast::Page> for Page {
    fn from(page: lanecast::Page) -> Self {
        Self {
            events: page.events.iter().map(Into::into).collect(),
            gaps: page.gaps.iter().map(Into::into).collect(),
            next: page.next.map(|next| next.to_string()),
            head: page.head.map(|head| head.to_string()),
        }
    }
}
