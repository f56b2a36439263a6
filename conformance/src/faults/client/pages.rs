//! The end of each room, read by history pages through one node.

use std::time::Duration;

use tokio::time::timeout;
use v1::frame::Body;

use super::rooms::{gap, position};
use super::serve::payload_of;
use super::{Link, Shared, Why};
use crate::faults::history::{Position, RoomLog, Stored};
use crate::schema::v1;

/// How long one page may take.
const PAGE: Duration = Duration::from_secs(10);

/// Reads the whole log of every room.
pub(in crate::faults) async fn read_logs(shared: &Shared, node: usize) -> Result<Vec<RoomLog>, Why> {
    let mut link = Link::join(shared, node, "faults-reader", None, Vec::new()).await?;
    let mut logs = Vec::new();
    for room in 0..shared.rooms.len() {
        logs.push(read_log(shared, &mut link, room).await?);
    }
    link.close().await;
    Ok(logs)
}

/// Reads the head of every room.
pub(in crate::faults) async fn heads(shared: &Shared, node: usize) -> Result<Vec<Position>, Why> {
    let mut link = Link::join(shared, node, "faults-reader", None, Vec::new()).await?;
    let mut heads = Vec::new();
    for name in &shared.rooms {
        let ask = v1::History { room: name.clone(), limit: 1, ..v1::History::default() };
        heads.push(position(page(&mut link, ask).await?.head.as_ref()));
    }
    link.close().await;
    Ok(heads)
}

async fn read_log(shared: &Shared, link: &mut Link, room: usize) -> Result<RoomLog, Why> {
    let name = shared.rooms.get(room).cloned().unwrap_or_default();
    let room = u16::try_from(room).map_err(|error| error.to_string())?;
    let mut log = RoomLog { room, ..RoomLog::default() };
    let mut cursor = None;
    loop {
        let direction = v1::HistoryDirection::Forward.into();
        let ask = v1::History { room: name.clone(), direction, cursor, ..v1::History::default() };
        let page = page(link, ask).await?;
        for event in &page.events {
            let payload = payload_of(event).ok_or_else(|| format!("{name}: seq {} has a foreign body", event.seq))?;
            if payload.lane.wire() != event.lane {
                return Err(format!("{name}: {payload} is stored in lane {}", event.lane));
            }
            let v1::Event { epoch, seq, order, .. } = *event;
            log.events.push(Stored { epoch, seq, order, payload });
        }
        log.gaps.extend(page.gaps.iter().filter_map(gap));
        log.head = position(page.head.as_ref());
        match page.next {
            Some(next) if cursor.as_ref() != Some(&next) => cursor = Some(next),
            Some(next) => return Err(format!("{name}: the page after {next:?} leads to itself")),
            None => return Ok(log),
        }
    }
}

async fn page(link: &mut Link, ask: v1::History) -> Result<v1::HistoryPage, Why> {
    link.push(3, Body::History(ask)).await?;
    link.flush().await?;
    let answer = async {
        loop {
            for frame in link.next().await? {
                match frame.body {
                    Some(Body::HistoryPage(page)) => return Ok(page),
                    Some(Body::Error(error)) => return Err(format!("history: {} {}", error.code, error.detail)),
                    _ => {}
                }
            }
        }
    };
    timeout(PAGE, answer).await.unwrap_or_else(|_| Err("a page of history did not come in time".into()))
}
