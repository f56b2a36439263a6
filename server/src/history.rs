//! Pages of history, as frames and as HTTP answers.

use lanecast_protocol::codec::EventFront;
use lanecast_protocol::codes::Code;
use lanecast_protocol::log::{Direction, HistoryQuery, Page, PageEvent, PageGap, RolledBack};
use lanecast_protocol::position::{Cursor, DurableLane, PerLane};
use lanecast_protocol::session::Refusal;
use lanecast_protocol::v1;

use crate::auth::Identity;
use crate::auth::rights::{TypeFilter, Verb};
use crate::node::Node;
use crate::publish::{engine_refusal, forbidden};
use crate::telemetry::labels::EngineCall;

/// Reads a page. The fields of `history` were checked.
///
/// # Errors
/// FORBIDDEN, INVALID for a cursor out of bounds, RATE_LIMITED, or what the engine says.
pub async fn read(node: &Node, identity: &Identity, history: v1::History) -> Result<v1::HistoryPage, Refusal> {
    if !identity.allows(Verb::History, &history.room) {
        return Err(forbidden());
    }
    let cursor = history.cursor.as_ref().map(Cursor::try_from).transpose();
    let cursor = cursor.map_err(|_| Refusal::new(Code::Invalid, "the cursor is out of bounds"))?;
    node.rates.request(&node.metrics, identity)?;
    let page_max = node.config.limits.history_page;
    let events_max = if history.limit == 0 { page_max } else { history.limit.min(page_max) };
    let lanes: Vec<_> = history.lanes.iter().filter_map(|lane| DurableLane::from_wire(*lane)).collect();
    let query = HistoryQuery {
        direction: match v1::HistoryDirection::try_from(history.direction) {
            Ok(v1::HistoryDirection::Forward) => Direction::Forward,
            _ => Direction::Backward,
        },
        cursor,
        lanes: PerLane::from_fn(|lane| lanes.is_empty() || lanes.contains(&lane)),
        events_max: events_max as usize,
        // A page is one record; in JSON it grows by a third, and both must stay below the limit (LC-HIST-008).
        bytes_max: node.config.limits.record_bytes as usize / 2,
    };
    let page = node.hub.engine().history(&history.room, query).await.map_err(|error| {
        node.metrics.engine_failed(EngineCall::Read, &history.room, &error);
        engine_refusal(error)
    })?;
    let types = identity.filter(Verb::History, &history.room);
    Ok(frame(history.room, page, &types))
}

fn frame(room: String, page: Page, types: &TypeFilter) -> v1::HistoryPage {
    let mut gaps: Vec<v1::Gap> = page.gaps.iter().map(page_gap).collect();
    let mut events = Vec::with_capacity(page.events.len());
    for PageEvent { epoch, record } in page.events {
        if !types.passes(&record.event_type) {
            // The reader's right covers some types only: the others are there, and not shown.
            let (lane, cause) = (record.lane, v1::GapCause::Filtered);
            gaps.push(page_gap(&PageGap { epoch, lane, from: record.seq, to: Some(record.seq), cause }));
            continue;
        }
        let front = EventFront { handle: 0, lane: record.lane.into(), seq: record.seq, order: record.order, epoch };
        match front.decode(&record.tail) {
            Ok(event) => events.push(event),
            Err(error) => tracing::error!(%room, seq = record.seq, %error, "a stored event cannot be decoded"),
        }
    }
    v1::HistoryPage {
        room,
        events,
        gaps,
        next: page.next.map(Into::into),
        head: Some(page.head.into()),
        head_order: page.head_order,
    }
}

fn page_gap(gap: &PageGap) -> v1::Gap {
    v1::Gap {
        lane: v1::Lane::from(gap.lane).into(),
        epoch: gap.epoch,
        from: gap.from,
        to: gap.to.unwrap_or(0),
        cause: gap.cause.into(),
        ..Default::default()
    }
}

/// A rolled-back range as `Subscribed` bears it.
pub fn rolled_back(range: &RolledBack) -> v1::Gap {
    let RolledBack { epoch, lane, from, to } = *range;
    page_gap(&PageGap { epoch, lane, from, to, cause: v1::GapCause::RolledBack })
}
