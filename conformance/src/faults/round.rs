//! One round: a cluster, clients, faults, the end, and everything that was recorded.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::check::CURRENT_WITHIN;
use super::client::{Client, Orders, Pause, Phase, Plan, RoomSeat, Seat, Shared, heads, read_logs};
use super::cluster::Cluster;
use super::history::{Entry, FaultTime, Histories, Line, RoomLog, Run};
use super::schedule::{Fault, Reach};
use super::{Act, Faults};
use crate::target::{Target, now_ms};

/// How long the clients may take until each has an event in each of its rooms.
const WARM_WITHIN: Duration = Duration::from_secs(20);
/// How long everything runs before the first fault, and after one that was overcome.
const CALM: Duration = Duration::from_millis(1_500);
/// How much longer than allowed a late subscriber is waited for, so that the figure says how late it was.
const LATE: Duration = Duration::from_secs(10);
/// How long unanswered publishes may take after the last fault.
const DRAIN_WITHIN: Duration = Duration::from_secs(30);
/// How long subscribers may take to reach the heads once nothing is published any more.
const HEADS_WITHIN: Duration = Duration::from_secs(15);
/// What should not come any more has this long to come.
const STRAGGLERS: Duration = Duration::from_millis(300);
/// Between two looks at the clients.
const LOOK: Duration = Duration::from_millis(50);

/// Runs a round.
pub(super) async fn run(faults: &Faults, directory: &Path, acts: &[Act]) -> Result<Histories, String> {
    let mut cluster = if faults.node.is_empty() {
        Cluster::start(&faults.command, faults.nodes, faults.redis_program(), directory).await?
    } else {
        Cluster::foreign(&faults.node)?
    };
    let outcome = with_cluster(faults, directory, acts, &mut cluster).await;
    cluster.stop().await;
    outcome
}

async fn with_cluster(
    faults: &Faults,
    directory: &Path,
    acts: &[Act],
    cluster: &mut Cluster,
) -> Result<Histories, String> {
    let plans = plans(faults, acts, cluster.nodes.len());
    let shared = Arc::new(shared(faults, acts, cluster, &plans)?);
    let (orders, told) = watch::channel(Orders { phase: Phase::Publish, paused: false, cuts: 0 });
    let seed = faults.seed.unwrap_or(1);
    let mut tasks = JoinSet::new();
    for plan in &plans {
        let client = Client::new(plan.clone(), shared.clone(), told.clone(), seed);
        let number = plan.number;
        tasks.spawn(async move { (number, client.run().await) });
    }
    let since = shared.now_us();
    if !all_current(&shared, since, WARM_WITHIN).await {
        return Err("the subscribers did not get events in all of their rooms before the first fault".into());
    }
    sleep(CALM).await;
    let mut times = Vec::new();
    for act in acts {
        let time = bring(act, Reach { cluster, shared: &shared, orders: &orders, directory: directory.into() }).await?;
        all_current(&shared, time.repaired_us, CURRENT_WITHIN + LATE).await;
        sleep(CALM).await;
        times.push(time);
    }
    orders.send_modify(|orders| orders.phase = Phase::Drain);
    let unanswered = drained(&shared).await;
    settled(&shared).await;
    orders.send_modify(|orders| orders.phase = Phase::End);
    let mut clients: BTreeMap<usize, Vec<Line>> = BTreeMap::new();
    while let Some(joined) = tasks.join_next().await {
        let (number, lines) = joined.map_err(|error| format!("a client failed: {error}"))?;
        clients.insert(number, lines);
    }
    let clients: Vec<Vec<Line>> = clients.into_values().collect();
    seen_in(&clients, acts, &mut times);
    let logs = logs(&shared).await?;
    let subscribers = plans.iter().filter(|plan| !plan.subscribes.is_empty());
    let run = Run {
        rooms: shared.rooms.clone(),
        subscribers: subscribers.map(|plan| (plan.number, plan.subscribes.clone())).collect(),
        faults: times,
        unanswered,
    };
    Ok(Histories { run, clients, logs })
}

/// Publishers begin on the first node, subscribers on the others, so that every event crosses nodes. Each room has two
/// publishers, and where there are enough subscribers one on each of the other nodes.
fn plans(faults: &Faults, acts: &[Act], nodes: usize) -> Vec<Plan> {
    let rooms = u16::try_from(faults.rooms).unwrap_or(u16::MAX);
    let trims = acts.iter().any(|act| matches!(act, Act::Fault(Fault::Trim)));
    let (publishers, subscribers) = (faults.publishers.max(1), faults.subscribers);
    let halves = if publishers > 1 { 2 } else { 1 };
    // Publishers of one half of the rooms.
    let of_half = |half: usize| (publishers - half).div_ceil(halves);
    let away = nodes.saturating_sub(1).max(1);
    let groups = (faults.rooms / faults.rooms_each.max(1)).max(1);
    let publishing = (0..publishers).map(|number| {
        let half = number % halves;
        let publishes: Vec<u16> = (0..rooms).filter(|room| usize::from(*room) % halves == half).collect();
        let share = publishes.len() as f64 / of_half(half) as f64;
        Plan {
            number,
            home: 0,
            publishes,
            durable_per_s: faults.rate * share,
            transient_per_s: faults.transients * share,
            subscribes: Vec::new(),
            pause: Pause::Never,
            outbox_max: faults.outbox,
        }
    });
    let subscribing = (0..subscribers).map(|number| {
        let group = (number / away) % groups;
        Plan {
            number: publishers + number,
            home: if nodes > 1 { 1 + number % away } else { 0 },
            publishes: Vec::new(),
            durable_per_s: 0.0,
            transient_per_s: 0.0,
            subscribes: (0..rooms).filter(|room| usize::from(*room) % groups == group).collect(),
            pause: match (trims, number % 4) {
                (false, _) => Pause::Never,
                (true, 0 | 3) => Pause::Unread,
                (true, _) => Pause::Away,
            },
            outbox_max: 0,
        }
    });
    publishing.chain(subscribing).collect()
}

fn shared(faults: &Faults, acts: &[Act], cluster: &Cluster, plans: &[Plan]) -> Result<Shared, String> {
    let run = now_ms();
    let trims = acts.iter().any(|act| matches!(act, Act::Fault(Fault::Trim)));
    let prefix = if trims { "faults.short" } else { "faults" };
    let endpoint = cluster.nodes.first().ok_or("no node")?.endpoint.clone();
    let seat = |plan: &Plan| Seat {
        rooms: plan.subscribes.iter().map(|room| (*room, RoomSeat::default())).collect(),
        ..Seat::default()
    };
    Ok(Shared {
        started: Instant::now(),
        rooms: (0..faults.rooms).map(|room| format!("{prefix}.{run}.{room}")).collect(),
        nodes: cluster.nodes.iter().map(|node| node.endpoint.clone()).collect(),
        target: Target::new(endpoint, faults.tokens()),
        body_bytes: faults.body_bytes,
        seats: plans.iter().map(seat).collect(),
    })
}

async fn bring(act: &Act, reach: Reach<'_>) -> Result<FaultTime, String> {
    match act {
        Act::Fault(fault) => fault.bring(reach).await,
        Act::Command(name, command) => {
            let began_us = reach.shared.now_us();
            let status = Command::new("sh").arg("-c").arg(command).status().await;
            let effect = match status.map_err(|error| format!("{command}: {error}"))? {
                status if status.success() => Ok("done".into()),
                status => Err(format!("{command} ended with {status}")),
            };
            let repaired_us = reach.shared.now_us();
            Ok(FaultTime { name: name.clone(), began_us, repaired_us, breaks_log: true, effect })
        }
    }
}

fn rooms(shared: &Shared) -> impl Iterator<Item = (u16, &RoomSeat)> {
    shared.seats.iter().flat_map(|seat| seat.rooms.iter().map(|(room, seat)| (*room, seat)))
}

/// Waits until every subscriber has an event in each of its rooms that was published after this moment.
async fn all_current(shared: &Shared, since_us: u64, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    loop {
        if rooms(shared).all(|(_, seat)| seat.newest_us.load(Ordering::Relaxed) >= since_us.max(1)) {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        sleep(LOOK).await;
    }
}

/// Waits until all publishes are answered, and returns how many are not.
async fn drained(shared: &Shared) -> u64 {
    let deadline = Instant::now() + DRAIN_WITHIN;
    loop {
        let waiting = shared.seats.iter().map(|seat| seat.waiting.load(Ordering::Relaxed)).sum();
        if waiting == 0 || Instant::now() > deadline {
            return waiting;
        }
        sleep(LOOK).await;
    }
}

/// Waits until every subscriber has reached the head of each of its rooms; the checker says who did not.
async fn settled(shared: &Shared) {
    let deadline = Instant::now() + HEADS_WITHIN;
    while Instant::now() < deadline {
        for node in 0..shared.nodes.len() {
            let Ok(heads) = heads(shared, node).await else { continue };
            if rooms(shared).all(|(room, seat)| heads.get(usize::from(room)) == Some(&seat.position())) {
                return sleep(STRAGGLERS).await;
            }
            break;
        }
        sleep(LOOK * 4).await;
    }
}

async fn logs(shared: &Shared) -> Result<Vec<RoomLog>, String> {
    let mut why = String::new();
    for node in 0..shared.nodes.len() {
        match read_logs(shared, node).await {
            Ok(logs) => return Ok(logs),
            Err(error) => why = error,
        }
    }
    Err(format!("no node shows the logs: {why}"))
}

/// Some faults are seen only by what they make the nodes say.
fn seen_in(clients: &[Vec<Line>], acts: &[Act], times: &mut [FaultTime]) {
    for (act, time) in acts.iter().zip(times) {
        let Act::Fault(fault) = act else { continue };
        let Some(cause) = fault.must_cause() else { continue };
        let seen = clients.iter().flatten().filter(|line| line.us >= time.began_us).any(|line| match &line.entry {
            Entry::Gap { gap, .. } => gap.cause == cause,
            Entry::Subscribed(subscribed) => subscribed.rolled_back.iter().any(|gap| gap.cause == cause),
            _ => false,
        });
        if !seen {
            time.effect = Err(format!("no subscriber was told of anything {}", cause.name()));
        }
    }
}
