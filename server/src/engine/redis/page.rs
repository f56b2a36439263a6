//! Pages of history.

use std::sync::Arc;

use lanecast_protocol::log::{Direction, HistoryQuery, Page};
use lanecast_protocol::position::{Cursor, DurableLane};
use redis::Cmd;

use super::flight::Path;
use super::keys::letter;
use super::link::Up;
use super::state::{self, Excerpt};
use super::{HISTORY_RECORDS_MAX, Inner, scripts, unreadable};
use crate::engine::EngineError;

impl Inner {
    pub(super) async fn history(self: &Arc<Self>, room: &str, query: HistoryQuery) -> Result<Page, EngineError> {
        // A page is made of all lanes and rides bulk.
        let _reading = self.flights.read(DurableLane::Bulk, query.bytes_max).await;
        let mut records_max = query.events_max.max(1) + 1;
        let mut cursor = query.cursor;
        loop {
            let value = self
                .on_room(Path::Bulk, room, |up| self.history_command(up, room, &query, cursor, records_max))
                .await?;
            let Excerpt { log, more, edges } = state::history(value).ok_or_else(|| unreadable(room))?;
            let epoch = log.epoch();
            if let Some(elsewhere) = cursor.filter(|cursor| cursor.epoch != epoch) {
                // Follow it over the forks first. What it cannot reach is read from the end.
                let order = log.page_order(&HistoryQuery { cursor: Some(elsewhere), ..query });
                cursor = order.map(|order| Cursor { epoch, order });
                continue;
            }
            let page = log.history(self.clock.now_ms(), &query);
            // A lane of which there is more, and whose read records are all in the page, might have some between them.
            let beyond = |edge: u64| match (query.direction, page.next) {
                (_, None) => true,
                (Direction::Forward, Some(next)) => edge <= next.order,
                (Direction::Backward, Some(next)) => edge >= next.order,
            };
            let short = DurableLane::ALL.into_iter().any(|lane| {
                more[lane]
                    && edges[lane].is_none_or(|(first, last)| match query.direction {
                        Direction::Forward => beyond(last),
                        Direction::Backward => beyond(first),
                    })
            });
            if !short || records_max >= HISTORY_RECORDS_MAX {
                return Ok(page);
            }
            records_max = (records_max * 2).min(HISTORY_RECORDS_MAX);
        }
    }

    pub(super) fn history_command(
        &self,
        up: &Up,
        room: &str,
        query: &HistoryQuery,
        cursor: Option<Cursor>,
        records_max: usize,
    ) -> Cmd {
        let [urgent, normal, bulk] = DurableLane::ALL.map(|lane| self.keys.log(room, lane));
        let mut cmd = up.script(scripts::HISTORY, &[self.keys.meta(room), self.keys.forks(room), urgent, normal, bulk]);
        let lanes: String = DurableLane::ALL.into_iter().filter(|lane| query.lanes[*lane]).map(letter).collect();
        let direction = if query.direction == Direction::Forward { "f" } else { "b" };
        cmd.arg(&*up.replication_id).arg(self.clock.now_ms());
        cmd.arg(cursor.map_or(0, |cursor| cursor.epoch)).arg(cursor.map_or(0, |cursor| cursor.order));
        cmd.arg(direction).arg(lanes).arg(records_max).arg(query.bytes_max.min(i64::MAX as usize));
        cmd
    }
}
