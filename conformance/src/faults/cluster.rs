//! The nodes under test: processes of the round's own, or somebody's cluster.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rand::Rng as _;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::redis::Redis;
use crate::client::Trust;
use crate::client::socket::reach;
use crate::target::Endpoint;

/// How long a node may take until it listens.
const START: Duration = Duration::from_secs(30);
/// Between two attempts to connect to a node that starts.
const ATTEMPT: Duration = Duration::from_millis(50);
/// Ports of the round's servers. Below those that the kernel gives to outgoing connections, so that a server that was
/// killed finds its port free.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// A node.
pub(super) struct Node {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// Its command; empty: somebody else runs it.
    command: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Node {
    /// Starts it and waits until it listens.
    pub(super) async fn start(&mut self) -> Result<(), String> {
        let Some((program, arguments)) = self.command.split_first() else { return Ok(()) };
        let log = |error: std::io::Error| format!("{}: {error}", self.log.display());
        let out = File::options().create(true).append(true).open(&self.log).map_err(log)?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(out.try_clone().map_err(log)?)
            .stderr(out)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{program}: {error}"))?;
        self.child = Some(child);
        let deadline = Instant::now() + START;
        while reach(&self.endpoint, None).await.is_err() {
            if let Some(Ok(Some(status))) = self.child.as_mut().map(Child::try_wait) {
                return Err(format!("a node ended with {status} before it listened; see {}", self.log.display()));
            }
            if Instant::now() > deadline {
                return Err(format!("a node does not listen; see {}", self.log.display()));
            }
            tokio::time::sleep(ATTEMPT).await;
        }
        Ok(())
    }

    /// Ends it as a crash would.
    pub(super) async fn kill(&mut self) -> Result<(), String> {
        let mut child = self.child.take().ok_or("the node is not ours to kill")?;
        child.kill().await.map_err(|error| error.to_string())
    }

    /// Its process, while it runs.
    pub(super) fn pid(&self) -> Result<u32, String> {
        self.child.as_ref().and_then(Child::id).ok_or_else(|| "the node is not ours to stop".into())
    }
}

/// The nodes and their store.
pub(super) struct Cluster {
    /// The nodes.
    pub nodes: Vec<Node>,
    /// Their Redis, if the round has one.
    pub redis: Option<Redis>,
}

impl Cluster {
    /// Starts Redis, if asked for, and so many nodes of the command.
    pub(super) async fn start(
        command: &[String],
        count: usize,
        redis: Option<&str>,
        directory: &Path,
    ) -> Result<Self, String> {
        std::fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        let redis = match redis {
            Some(program) => Some(Redis::start(program, &directory.join("redis")).await?),
            None => None,
        };
        let url = redis.as_ref().map(Redis::url);
        if url.is_none() && command.iter().any(|word| word.contains("{redis}")) {
            return Err("the command has {redis}, and --redis-server is none".into());
        }
        let mut cluster = Self { nodes: Vec::new(), redis };
        for number in 0..count {
            let port = free_port().await?;
            let fill = |word: &String| {
                word.replace("{port}", &port.to_string()).replace("{redis}", url.as_deref().unwrap_or_default())
            };
            let mut node = Node {
                endpoint: Endpoint::plain("127.0.0.1", port, "/v1/connect"),
                command: command.iter().map(fill).collect(),
                log: directory.join(format!("node-{number}.log")),
                child: None,
            };
            node.start().await?;
            cluster.nodes.push(node);
        }
        Ok(cluster)
    }

    /// Somebody's nodes.
    pub(super) fn foreign(urls: &[String]) -> Result<Self, String> {
        let node = |url: &String| {
            let endpoint = Endpoint::parse(url, &Trust::System)?;
            Ok::<_, String>(Node { endpoint, command: Vec::new(), log: PathBuf::new(), child: None })
        };
        Ok(Self { nodes: urls.iter().map(node).collect::<Result<_, _>>()?, redis: None })
    }

    /// Ends everything that was started.
    pub(super) async fn stop(&mut self) {
        for node in &mut self.nodes {
            // Foreign nodes go on.
            let _ = node.kill().await;
        }
        if let Some(redis) = &mut self.redis {
            redis.kill().await;
        }
    }
}

/// A port of the loopback address on which nothing listens.
pub(super) async fn free_port() -> Result<u16, String> {
    for _ in 0..100 {
        let port = rand::rng().random_range(PORTS);
        if tokio::net::TcpListener::bind(("127.0.0.1", port)).await.is_ok() {
            return Ok(port);
        }
    }
    Err("no free port".into())
}

/// Sends a signal by name.
pub(super) async fn signal(pid: u32, name: &str) -> Result<(), String> {
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().await;
    match status {
        Ok(status) if status.success() => Ok(()),
        other => Err(format!("kill -{name} {pid}: {other:?}")),
    }
}

/// Whether a process is stopped by a signal.
pub(super) fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in brackets may hold blanks.
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
}
