//! What an idle connection costs: anonymous memory of the server before and after many of them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use v1::frame::Body;

use super::link::{Link, record};
use super::process::anonymous_kib;
use super::table;
use crate::client::{Lane, Transport};
use crate::schema::v1;
use crate::target::Target;
use crate::verdict::{Outcome, Stop};

/// Connections before the first look at the memory, so that what the server allocates once is not counted.
const WARM_UP: usize = 100;
/// Connections on their way at once.
const AT_ONCE: usize = 32;
/// Rooms of each connection.
const ROOMS: usize = 3;
/// Until the server has given back what it needed for a moment.
const SETTLE: Duration = Duration::from_secs(3);

pub(super) async fn run(
    target: Arc<Target>,
    transport: Transport,
    connections: usize,
    group: usize,
    pid: Option<u32>,
) -> Outcome<String> {
    let pid = pid.ok_or_else(|| Stop::harness("say --pid of the server"))?;
    let memory = || anonymous_kib(pid).ok_or_else(|| Stop::Harness(format!("there is no process {pid}")));
    let warm = open(&target, transport, "warm", WARM_UP, group).await?;
    tokio::time::sleep(SETTLE).await;
    let before = memory()?;
    let links = open(&target, transport, "idle", connections, group).await?;
    tokio::time::sleep(SETTLE).await;
    let after = memory()?;
    drop((warm, links));
    let growth = after.saturating_sub(before);
    Ok(table(&[
        ("transport", transport.name().to_owned()),
        ("connections", connections.to_string()),
        ("rooms of each", ROOMS.to_string()),
        ("events received by each", ROOMS.to_string()),
        ("RssAnon before", format!("{before} KiB")),
        ("RssAnon after", format!("{after} KiB")),
        ("growth per connection", format!("{:.2} KiB", growth as f64 / connections.max(1) as f64)),
    ]))
}

/// Opens connections, publishes one event to each of their rooms, and waits until all have theirs.
async fn open(
    target: &Arc<Target>,
    transport: Transport,
    kind: &str,
    count: usize,
    group: usize,
) -> Outcome<Vec<Link>> {
    let run = crate::target::now_ms();
    let group = if group == 0 { count.max(1) } else { group };
    let rooms = |number: usize| -> Vec<String> {
        (0..ROOMS).map(|room| format!("conform.load.{run}.{kind}.{}.{room}", number / group)).collect()
    };
    let mut links = Vec::with_capacity(count);
    let mut joins = futures_util::stream::iter(0..count)
        .map(|number| {
            let (target, rooms) = (target.clone(), rooms(number));
            async move { Link::join(&target, transport, &format!("{kind}-{run}-{number}"), &rooms).await }
        })
        .buffer_unordered(AT_ONCE);
    while let Some(link) = joins.next().await {
        links.push(link?);
    }
    let mut publisher = Link::join(target, transport, &format!("publisher-{kind}-{run}"), &[]).await?;
    for first in (0..count).step_by(group) {
        for room in rooms(first) {
            let publish =
                v1::Publish { room, number: 1, envelope: super::fanout::envelope("hello"), ..Default::default() };
            publisher.send(Lane::Normal, record(2, Body::Publish(publish))).await;
            publisher.next().await?;
        }
    }
    for link in &mut links {
        let mut events = 0;
        while events < ROOMS {
            events += link.next().await?.iter().filter(|frame| matches!(frame.body, Some(Body::Event(_)))).count();
        }
    }
    Ok(links)
}
