//! The fault checker: real nodes, a real store, clients that write everything down, faults, and a judge.
//!
//! It promises that what it reports as lost, doubled, reordered, acknowledged but absent or wrongly recovered is so by
//! the rules of `protocol/spec`, from histories that anyone can read again (`--check`). It refuses to call a round good
//! whose fault took no effect.
//!
//! In reading order: [`history`] what is recorded, `files` where; [`check`] the judge, a pure function; `client` the clients;
//! `cluster`, `redis` what is tested; [`schedule`] the faults; `round` one run of them; `table` what people see.

pub mod check;
mod client;
mod cluster;
mod files;
pub mod history;
pub mod redis;
mod round;
pub mod schedule;
mod table;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::target::{FIXTURE_SECRET, Tokens};
use history::Histories;
use schedule::Fault;

/// Faults in a round of the random schedule.
const FAULTS_OF_ROUND: usize = 3;
/// Findings explained of a round.
const EXPLAINED: usize = 5;

/// Breaks a cluster in known ways, records what every client sees, and finds what the protocol does not allow.
///
/// Without `--node` it starts a Redis and nodes of its own for every fault. Exit code 1: something was found.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub struct Faults {
    /// The fault to bring about; repeat for more. Default: the whole schedule.
    #[arg(long = "fault", value_enum)]
    faults: Vec<Fault>,
    /// Judges what an earlier run recorded in this directory, and runs nothing.
    #[arg(long)]
    check: Option<PathBuf>,
    /// Keeps all histories here; without it, only those of rounds with findings, in a directory that is named.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Chooses three random faults a round until `--duration` is over; the same seed chooses the same ones.
    #[arg(long)]
    seed: Option<u64>,
    /// Length of the random schedule, s.
    #[arg(long, default_value_t = 600, requires = "seed")]
    duration: u64,
    /// The Redis server to start for each round, or `none`.
    #[arg(long, default_value = "redis-server")]
    redis_server: String,
    /// Nodes to start.
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// A node of a running cluster, such as ws://host:port/path; repeat for each. Faults are then those of --fault-cmd.
    #[arg(long)]
    node: Vec<String>,
    /// A fault of a running cluster: NAME=COMMAND. The shell command returns when subscribers should come back; its
    /// failure says that the fault took no effect. Repeat for more.
    #[arg(long)]
    fault_cmd: Vec<String>,
    /// Clients that publish.
    #[arg(long, default_value_t = 4)]
    publishers: usize,
    /// Clients that subscribe.
    #[arg(long, default_value_t = 8)]
    subscribers: usize,
    /// Rooms.
    #[arg(long, default_value_t = 20)]
    rooms: usize,
    /// Rooms of each subscriber; fewer than all are spread so that each room has subscribers on different nodes.
    #[arg(long, default_value_t = 20)]
    rooms_each: usize,
    /// Durable events per second and room.
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// Transient events per second and room.
    #[arg(long, default_value_t = 10.0)]
    transients: f64,
    /// Bytes of a body.
    #[arg(long, default_value_t = 100)]
    body_bytes: usize,
    /// Durable publishes that a client keeps unanswered at most; behind that its application is refused.
    #[arg(long, default_value_t = 1_000)]
    outbox: usize,
    /// Secret (HS256) with which to sign tokens of the JWT profile. Default: the fixture's.
    #[arg(long)]
    jwt_secret: Option<String>,
    /// Shell command that prints a token; `{user}`, `{rights}` (JSON) and `{expires_s}` are replaced.
    #[arg(long)]
    token_cmd: Option<String>,
    /// Command that starts a node; `{port}` and `{redis}` are replaced.
    #[arg(last = true)]
    command: Vec<String>,
}

/// What to bring about in a round.
#[derive(Clone, Debug)]
enum Act {
    /// A fault of the schedule.
    Fault(Fault),
    /// A command of the user's: name and shell command.
    Command(String, String),
}

impl Act {
    fn name(&self) -> String {
        match self {
            Self::Fault(fault) => fault.name(),
            Self::Command(name, _) => name.clone(),
        }
    }
}

impl Faults {
    fn tokens(&self) -> Tokens {
        match (&self.jwt_secret, &self.token_cmd) {
            (Some(secret), _) => Tokens::Jwt(secret.clone()),
            (None, Some(command)) => Tokens::Command(command.clone()),
            (None, None) => Tokens::Jwt(FIXTURE_SECRET.into()),
        }
    }

    fn redis_program(&self) -> Option<&str> {
        (self.redis_server != "none").then_some(self.redis_server.as_str())
    }

    /// The rounds of a fixed schedule: one for each act.
    fn acts(&self) -> Result<Vec<Act>, String> {
        if !self.node.is_empty() {
            let hook = |text: &String| {
                let (name, command) = text.split_once('=').ok_or_else(|| format!("{text}: not NAME=COMMAND"))?;
                Ok::<_, String>(Act::Command(name.to_owned(), command.to_owned()))
            };
            let mut acts: Vec<Act> = self.fault_cmd.iter().map(hook).collect::<Result<_, _>>()?;
            if acts.is_empty() {
                acts.push(Act::Fault(Fault::None));
            }
            return Ok(acts);
        }
        if self.command.is_empty() {
            return Err("give a command that starts a node after --, or --node".into());
        }
        let faults = if self.faults.is_empty() { self.possible() } else { self.faults.clone() };
        Ok(faults.into_iter().map(Act::Fault).collect())
    }

    fn possible(&self) -> Vec<Fault> {
        Fault::all().into_iter().filter(|fault| self.redis_program().is_some() || !fault.needs_redis()).collect()
    }
}

/// Runs the faults, or judges an earlier run. `Ok(false)`: something was found.
///
/// # Errors
/// What keeps the faults from being run at all.
pub async fn run(faults: Faults) -> Result<bool, String> {
    if let Some(directory) = &faults.check {
        return check_recorded(directory);
    }
    let kept = match &faults.out {
        Some(directory) => directory.clone(),
        None => std::env::temp_dir().join(format!("lanecast-faults-{}", crate::target::now_ms())),
    };
    let mut good = true;
    println!("{}", table::head());
    match faults.seed {
        None => {
            for act in faults.acts()? {
                good &= round(&faults, &kept, vec![act]).await?;
            }
        }
        Some(seed) => {
            let mut rng = StdRng::seed_from_u64(seed);
            let end = Instant::now() + Duration::from_secs(faults.duration);
            let possible = if faults.faults.is_empty() { faults.possible() } else { faults.faults.clone() };
            while Instant::now() < end {
                let chosen = possible.choose_multiple(&mut rng, FAULTS_OF_ROUND).map(|fault| Act::Fault(*fault));
                let mut chosen: Vec<Act> = chosen.collect();
                let turn = rng.random_range(0..chosen.len().max(1));
                chosen.rotate_left(turn);
                good &= round(&faults, &kept, chosen).await?;
            }
        }
    }
    Ok(good)
}

/// Runs a round, prints its row, and keeps its histories if somebody will want them.
async fn round(faults: &Faults, kept: &Path, acts: Vec<Act>) -> Result<bool, String> {
    let name = acts.iter().map(Act::name).collect::<Vec<_>>().join("+");
    let directory = kept.join(&name);
    let histories = round::run(faults, &directory, &acts).await;
    let histories = histories.map_err(|why| format!("{name}: {why} (see {})", directory.display()))?;
    let report = check::check(&histories);
    print!("{}", table::rows(&name, &histories, &report));
    if faults.out.is_some() || !report.is_good() {
        histories.write(&directory)?;
    } else {
        // Logs of nodes and data of Redis; nobody will look at them.
        let _ = std::fs::remove_dir_all(&directory);
    }
    if !report.is_good() {
        print!("{}", table::findings(&histories, &report, EXPLAINED));
        println!("histories and logs: {}", directory.display());
    }
    Ok(report.is_good())
}

fn check_recorded(directory: &Path) -> Result<bool, String> {
    let rounds = if directory.join("run.json").exists() {
        vec![directory.to_owned()]
    } else {
        let entries = std::fs::read_dir(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        let mut rounds: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        rounds.retain(|path| path.join("run.json").exists());
        rounds.sort();
        rounds
    };
    if rounds.is_empty() {
        return Err(format!("{}: no run.json there", directory.display()));
    }
    let mut good = true;
    println!("{}", table::head());
    for round in rounds {
        let histories = Histories::read(&round)?;
        let report = check::check(&histories);
        let name = round.file_name().and_then(|name| name.to_str()).unwrap_or("round").to_owned();
        print!("{}", table::rows(&name, &histories, &report));
        print!("{}", table::findings(&histories, &report, EXPLAINED));
        good &= report.is_good();
    }
    Ok(good)
}
