//! `GET /v1/rooms/{room}/events`: a page of history, or a stream, by what the caller accepts.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, header};
use axum::response::Response;
use lanecast_protocol::v1;

use super::query::Query;
use super::{Caller, sse};
use crate::history;
use crate::http::encoding::Encoding;
use crate::http::error::Refused;
use crate::node::Node;

pub(super) async fn events(
    State(node): State<Arc<Node>>,
    caller: Caller,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    encoding: Encoding,
) -> Result<Response, Refused> {
    let query = Query::parse(query.as_deref())?;
    if accepts_stream(&headers) {
        return sse::stream(node, caller, &query, &headers).await;
    }
    // LC-API-008
    let asked = v1::History {
        room: caller.room.to_string(),
        direction: query.direction()?.into(),
        cursor: query.cursor()?.map(Into::into),
        limit: query.number("limit")?.unwrap_or(0),
        lanes: query.lanes()?,
    };
    let page = history::read(&node, &caller.identity, asked).await?;
    Ok(encoding.answer("HistoryPage", &page))
}

fn accepts_stream(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types =
        accepted.flat_map(|value| value.split(',')).map(|range| range.split(';').next().unwrap_or_default());
    types.any(|media_type| media_type.trim().eq_ignore_ascii_case("text/event-stream"))
}
