//! The faults: what each does, how it is seen that it took effect, and from when on clients must come back.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use tokio::sync::watch;
use tokio::time::sleep;
use v1::frame::Body;

use super::client::{FILLER, Link, Orders, Shared, envelope};
use super::cluster::{Cluster, is_stopped, signal};
use super::history::{Cause, FaultTime};
use super::redis::{Redis, Reply};
use crate::schema::v1;

/// A fault. The default schedule is all of them but `none`, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// Nothing: the cluster as it is.
    None,
    /// All clients lose their connections at once, with answers on their way, three times in a row.
    Cuts,
    /// kill -9 of a node that subscribers are connected to, then a restart.
    KillSubscribersNode,
    /// kill -9 of the node that publishers are connected to, then a restart.
    KillPublishersNode,
    /// SIGSTOP of a node that subscribers are connected to, for 10 s.
    StopSubscribersNode,
    /// SIGSTOP of the node that publishers are connected to, for 10 s.
    StopPublishersNode,
    /// CLIENT KILL TYPE pubsub, eight times in a row.
    KillPubsub,
    /// The output buffer of a subscriber connection overruns, and Redis closes it.
    Overrun,
    /// SIGSTOP of Redis for 5 s.
    RedisStop,
    /// kill -9 of Redis, and a restart from its append-only file after 2 s.
    #[value(name = "redis-restart-2s")]
    RedisRestart2s,
    /// The same after 15 s.
    #[value(name = "redis-restart-15s")]
    RedisRestart15s,
    /// FLUSHALL.
    Flushall,
    /// Logs are trimmed under readers that pause: connected ones that do not read, and ones that are away.
    Trim,
    /// kill -9 of Redis, and a restart from an older copy of its data.
    OlderDump,
}

/// How often clients are cut.
const CUTS: u32 = 3;
/// Between two cuts.
const CUT_EVERY: Duration = Duration::from_millis(1_000);
/// How long the last client may take to be connected again.
const CUT_WITHIN: Duration = Duration::from_secs(5);
/// Between the kill of a node and its restart.
const NODE_DOWN: Duration = Duration::from_millis(1_500);
/// How long a node is stopped.
const NODE_STOPPED: Duration = Duration::from_secs(10);
/// How often subscriber connections are killed.
const KILLS: usize = 8;
/// Between two such kills; the nodes have to come back in between.
const KILL_EVERY: Duration = Duration::from_millis(300);
/// How long to wait for a subscriber connection that can be killed.
const KILLABLE_WITHIN: Duration = Duration::from_secs(5);
/// How long a node does not read while its output buffer fills; shorter than clients wait for a Pong.
const UNREAD: Duration = Duration::from_millis(2_500);
/// Bytes of an event that fills output buffers. Not so large that only its position is passed on.
const FILLER_BYTES: usize = 8 * 1024;
/// Fillers sent before their answers are read.
const FILLERS_AT_ONCE: u32 = 100;
/// How long Redis is stopped.
const REDIS_STOPPED: Duration = Duration::from_secs(5);
/// How long readers pause while logs are trimmed.
const PAUSE: Duration = Duration::from_secs(8);
/// How much older the restored data is.
const OLDER: Duration = Duration::from_secs(3);

/// What a fault can reach.
pub(super) struct Reach<'a> {
    pub cluster: &'a mut Cluster,
    pub shared: &'a Shared,
    pub orders: &'a watch::Sender<Orders>,
    /// For copies of data.
    pub directory: PathBuf,
}

/// When subscribers have to begin to come back, and how the fault was seen.
struct Brought {
    repaired_us: u64,
    effect: Result<String, String>,
}

impl Fault {
    /// The default schedule.
    pub fn all() -> Vec<Self> {
        Self::value_variants().iter().copied().filter(|fault| *fault != Self::None).collect()
    }

    /// Name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether it needs a Redis of the round's own.
    pub fn needs_redis(self) -> bool {
        !matches!(
            self,
            Self::None
                | Self::Cuts
                | Self::KillSubscribersNode
                | Self::KillPublishersNode
                | Self::StopSubscribersNode
                | Self::StopPublishersNode
                | Self::Trim
        )
    }

    /// Whether connections between nodes and the log break, so that a node may not know what is missing.
    fn breaks_log(self) -> bool {
        (self.needs_redis() && self != Self::Flushall)
            || matches!(self, Self::StopSubscribersNode | Self::StopPublishersNode)
    }

    /// The gap without which the fault did not reach the subscribers.
    pub(super) fn must_cause(self) -> Option<Cause> {
        match self {
            Self::Flushall | Self::OlderDump => Some(Cause::RolledBack),
            Self::Trim => Some(Cause::Trimmed),
            _ => None,
        }
    }

    /// Brings the fault about, and returns when it is over.
    pub(super) async fn bring(self, reach: Reach<'_>) -> Result<FaultTime, String> {
        let shared = reach.shared;
        let began_us = shared.now_us();
        let brought = match self {
            Self::None => Brought { repaired_us: began_us, effect: Ok("nothing done".into()) },
            Self::Cuts => cut(reach).await,
            Self::KillSubscribersNode => kill_node(reach, false).await?,
            Self::KillPublishersNode => kill_node(reach, true).await?,
            Self::StopSubscribersNode => stop_node(reach, false).await?,
            Self::StopPublishersNode => stop_node(reach, true).await?,
            Self::KillPubsub => kill_pubsub(reach).await?,
            Self::Overrun => overrun(reach).await?,
            Self::RedisStop => stop_redis(reach).await?,
            Self::RedisRestart2s => restart_redis(reach, Duration::from_secs(2)).await?,
            Self::RedisRestart15s => restart_redis(reach, Duration::from_secs(15)).await?,
            Self::Flushall => flush(reach).await?,
            Self::Trim => pause_readers(reach).await,
            Self::OlderDump => older_dump(reach).await?,
        };
        let Brought { repaired_us, effect } = brought;
        Ok(FaultTime { name: self.name(), began_us, repaired_us, breaks_log: self.breaks_log(), effect })
    }
}

fn redis(cluster: &mut Cluster) -> Result<&mut Redis, String> {
    cluster.redis.as_mut().ok_or_else(|| "this fault needs a Redis of the round's own: --redis-server".into())
}

/// The node that publishers begin with is the first; subscribers begin with the others.
fn victim(cluster: &Cluster, publishers: bool) -> usize {
    if publishers || cluster.nodes.len() < 2 { 0 } else { 1 }
}

fn clients_of(shared: &Shared, node: usize) -> usize {
    let connected =
        |seat: &&super::client::Seat| seat.node.load(std::sync::atomic::Ordering::Relaxed) == node as u64 + 1;
    shared.seats.iter().filter(connected).count()
}

async fn cut(reach: Reach<'_>) -> Brought {
    use std::sync::atomic::Ordering::Relaxed;
    let connections = || reach.shared.seats.iter().map(|seat| seat.connections.load(Relaxed)).collect::<Vec<_>>();
    let before = connections();
    let mut repaired_us = reach.shared.now_us();
    for _ in 0..CUTS {
        reach.orders.send_modify(|orders| orders.cuts += 1);
        repaired_us = reach.shared.now_us();
        sleep(CUT_EVERY).await;
    }
    let again = || connections().iter().zip(&before).map(|(now, before)| now - before).min().unwrap_or(0);
    let deadline = Instant::now() + CUT_WITHIN;
    while again() == 0 && Instant::now() < deadline {
        sleep(Duration::from_millis(20)).await;
    }
    let effect = match again() {
        0 => Err("a client did not connect again".into()),
        again => Ok(format!("every client connected again at least {again} times")),
    };
    Brought { repaired_us, effect }
}

async fn kill_node(reach: Reach<'_>, publishers: bool) -> Result<Brought, String> {
    let victim = victim(reach.cluster, publishers);
    let clients = clients_of(reach.shared, victim);
    let node = &mut reach.cluster.nodes[victim];
    node.kill().await?;
    // The other nodes are there: the clients have no reason to wait for the restart.
    let repaired_us = reach.shared.now_us();
    sleep(NODE_DOWN).await;
    let alone = reach.shared.nodes.len() == 1;
    node.start().await?;
    let repaired_us = if alone { reach.shared.now_us() } else { repaired_us };
    let effect = match clients {
        0 => Err("no client was connected to the node".into()),
        _ => Ok(format!("{clients} clients lost their node")),
    };
    Ok(Brought { repaired_us, effect })
}

async fn stop_node(reach: Reach<'_>, publishers: bool) -> Result<Brought, String> {
    let victim = victim(reach.cluster, publishers);
    let before = clients_of(reach.shared, victim);
    let pid = reach.cluster.nodes[victim].pid()?;
    signal(pid, "STOP").await?;
    let repaired_us = reach.shared.now_us();
    sleep(NODE_STOPPED).await;
    let (stopped, after) = (is_stopped(pid), clients_of(reach.shared, victim));
    signal(pid, "CONT").await?;
    let alone = reach.shared.nodes.len() == 1;
    let repaired_us = if alone { reach.shared.now_us() } else { repaired_us };
    let effect = match (stopped, before.saturating_sub(after)) {
        (false, _) => Err("the node was not stopped".into()),
        (true, 0) => Err("no client left the stopped node".into()),
        (true, left) => Ok(format!("{left} clients left the stopped node")),
    };
    Ok(Brought { repaired_us, effect })
}

async fn kill_pubsub(reach: Reach<'_>) -> Result<Brought, String> {
    let redis = redis(reach.cluster)?;
    let (mut rounds, mut killed) = (0, 0);
    for _ in 0..KILLS {
        let deadline = Instant::now() + KILLABLE_WITHIN;
        loop {
            let Reply::Number(count) = redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await? else { break };
            if count > 0 {
                (rounds, killed) = (rounds + 1, killed + count);
                break;
            }
            if Instant::now() > deadline {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
        sleep(KILL_EVERY).await;
    }
    let effect = match rounds {
        KILLS => Ok(format!("{killed} subscriber connections killed in {KILLS} rounds")),
        _ => Err(format!("only {rounds} of {KILLS} rounds found a subscriber connection")),
    };
    Ok(Brought { repaired_us: reach.shared.now_us(), effect })
}

async fn overrun(reach: Reach<'_>) -> Result<Brought, String> {
    const CLOSED: &str = "overcoming of output buffer limits";
    let victim = victim(reach.cluster, false);
    let pid = reach.cluster.nodes[victim].pid()?;
    let redis = redis(reach.cluster)?;
    let before = redis.logged(CLOSED);
    redis.command(&["CONFIG", "SET", "client-output-buffer-limit", "pubsub 65536 0 0"]).await?;
    let mut link = Link::join(reach.shared, 0, "faults-filler", None, Vec::new()).await?;
    signal(pid, "STOP").await?;
    let filled = fill(reach.shared, &mut link, || redis.logged(CLOSED) > before).await;
    signal(pid, "CONT").await?;
    let repaired_us = reach.shared.now_us();
    redis.command(&["CONFIG", "SET", "client-output-buffer-limit", "pubsub 33554432 8388608 60"]).await?;
    let sent = filled?;
    link.close().await;
    let effect = match redis.logged(CLOSED) - before {
        0 => Err(format!("Redis closed no subscriber connection, though {sent} fillers were sent")),
        closed => Ok(format!("Redis closed {closed} connections at the limit, after {sent} fillers")),
    };
    Ok(Brought { repaired_us, effect })
}

/// Sends transient events until it is enough, and says how many.
async fn fill(shared: &Shared, link: &mut Link, enough: impl Fn() -> bool) -> Result<u32, String> {
    let deadline = Instant::now() + UNREAD;
    let mut sent = 0;
    while Instant::now() < deadline && !enough() {
        for id in 0..FILLERS_AT_ONCE {
            let publish = v1::Publish {
                room: shared.rooms[(sent as usize + id as usize) % shared.rooms.len()].clone(),
                delivery: v1::Delivery::Transient.into(),
                envelope: envelope(FILLER, FILLER_BYTES),
                ..v1::Publish::default()
            };
            link.push(1_000 + id, Body::Publish(publish)).await?;
        }
        link.flush().await?;
        let mut answers = 0;
        while answers < FILLERS_AT_ONCE {
            let frames = tokio::time::timeout(UNREAD, link.next()).await.map_err(|_| "no answers to fillers")??;
            answers += frames.iter().filter(|frame| frame.id >= 1_000).count() as u32;
        }
        sent += FILLERS_AT_ONCE;
    }
    Ok(sent)
}

async fn stop_redis(reach: Reach<'_>) -> Result<Brought, String> {
    let redis = redis(reach.cluster)?;
    let pid = redis.pid().ok_or("Redis does not run")?;
    redis.signal("STOP").await?;
    sleep(REDIS_STOPPED).await;
    let stopped = is_stopped(pid);
    redis.signal("CONT").await?;
    let effect = if stopped { Ok(format!("stopped for {REDIS_STOPPED:?}")) } else { Err("it was not stopped".into()) };
    Ok(Brought { repaired_us: reach.shared.now_us(), effect })
}

async fn restart_redis(reach: Reach<'_>, after: Duration) -> Result<Brought, String> {
    let redis = redis(reach.cluster)?;
    let life = redis.info("server", "run_id").await?;
    redis.kill().await;
    sleep(after).await;
    redis.start_again().await?;
    let repaired_us = reach.shared.now_us();
    Ok(Brought { repaired_us, effect: other_life(redis, &life).await? })
}

async fn other_life(redis: &Redis, life: &str) -> Result<Result<String, String>, String> {
    let (now, keys) = (redis.info("server", "run_id").await?, redis.command(&["DBSIZE"]).await?);
    Ok(match keys {
        _ if now == life => Err("Redis has the same run id".into()),
        Reply::Number(keys) if keys > 0 => Ok(format!("another life with {keys} keys")),
        other => Err(format!("Redis came back with {other:?} keys")),
    })
}

async fn flush(reach: Reach<'_>) -> Result<Brought, String> {
    let redis = redis(reach.cluster)?;
    let Reply::Number(keys) = redis.command(&["DBSIZE"]).await? else { return Err("DBSIZE said nothing".into()) };
    redis.command(&["FLUSHALL"]).await?;
    let effect = if keys > 0 { Ok(format!("{keys} keys flushed")) } else { Err("there was nothing to flush".into()) };
    Ok(Brought { repaired_us: reach.shared.now_us(), effect })
}

async fn pause_readers(reach: Reach<'_>) -> Brought {
    reach.orders.send_modify(|orders| orders.paused = true);
    sleep(PAUSE).await;
    reach.orders.send_modify(|orders| orders.paused = false);
    Brought { repaired_us: reach.shared.now_us(), effect: Ok(format!("readers paused for {PAUSE:?}")) }
}

async fn older_dump(reach: Reach<'_>) -> Result<Brought, String> {
    let copy = reach.directory.join("older");
    let redis = redis(reach.cluster)?;
    let life = redis.info("server", "run_id").await?;
    redis.copy_data(&copy)?;
    sleep(OLDER).await;
    redis.kill().await;
    redis.restore_data(&copy)?;
    redis.start_again().await?;
    let repaired_us = reach.shared.now_us();
    Ok(Brought { repaired_us, effect: other_life(redis, &life).await? })
}
