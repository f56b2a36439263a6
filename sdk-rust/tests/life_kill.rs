//! A reader and publisher that is killed at any moment, with its outbox and its positions in files and on a real node.
//!
//! It is the example `phone`, which `cargo test` builds.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::future::IntoFuture as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use lanecast::Client;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use self::support::node::Node;
use self::support::soon;

const KILLS: usize = 40;
const ROOM: &str = "chat.phone";
/// Numbers of a run, and numbers that another publisher adds meanwhile: more than one batch.
const COUNT: u64 = 30;
/// What the other publisher sends begins here.
const OTHER: u64 = 1_000_000;

/// The example, from beside this test in the target directory.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("examples/phone");
    assert!(path.is_file(), "no {}: run `cargo build -p lanecast --example phone`", path.display());
    path
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Phone {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// What one run printed.
#[derive(Debug, Default)]
struct Run {
    queued: BTreeSet<u64>,
    batches: Vec<Vec<u64>>,
}

impl Run {
    fn add(&mut self, line: &str) {
        if let Some(number) = line.strip_prefix("queued ") {
            self.queued.insert(number.parse().unwrap());
        } else if let Some(numbers) = line.strip_prefix("batch ") {
            // A gap is no number.
            self.batches.push(numbers.split(' ').map(|number| number.parse().unwrap()).collect());
        }
    }
}

impl Phone {
    fn spawn(url: &str, folder: &Path, from: u64) -> Self {
        let mut command = Command::new(program());
        command.arg(url).arg(folder).args([ROOM, &from.to_string(), &COUNT.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Lets it print so many lines, and kills it with -9.
    async fn kill_after(mut self, lines: usize) -> Run {
        let mut run = Run::default();
        for _ in 0..lines {
            match soon(self.lines.next_line()).await.unwrap() {
                Some(line) => run.add(&line),
                None => break,
            }
        }
        self.child.kill().await.unwrap();
        while let Some(line) = self.lines.next_line().await.unwrap() {
            run.add(&line);
        }
        run
    }

    async fn finish(mut self) -> Run {
        let mut run = Run::default();
        while let Some(line) = soon(self.lines.next_line()).await.unwrap() {
            run.add(&line);
        }
        assert!(soon(self.child.wait()).await.unwrap().success());
        run
    }
}

/// What came, and in how many runs.
#[derive(Default)]
struct Ledger {
    came: BTreeMap<u64, usize>,
    /// What came in the last batch of a run, which may not have acknowledged it, and in no acknowledged one since.
    open: BTreeSet<u64>,
    doubled: usize,
}

impl Ledger {
    fn check(&mut self, kill: usize, run: &Run) {
        let mut in_run = BTreeSet::new();
        for number in run.batches.iter().flatten() {
            assert!(in_run.insert(*number), "{number} came twice in run {kill}");
            let times = self.came.entry(*number).or_default();
            *times += 1;
            if *times > 1 {
                assert!(self.open.contains(number), "run {kill}: {number} was acknowledged: {:?}, {run:?}", self.open);
                self.doubled += 1;
            }
        }
        if let Some((last, acknowledged)) = run.batches.split_last() {
            // What was left of an earlier run's last batch, and did not come in this one, still may.
            self.open.retain(|number| !acknowledged.iter().flatten().any(|other| other == number));
            self.open.extend(last);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_at_any_moment_lose_nothing_and_double_at_most_a_batch() {
    // LC-SDK-005, LC-SDK-016, LC-SDK-024, LC-RES-004
    let folder = Folder(std::env::temp_dir().join(format!("lanecast-sdk-phone-{}", std::process::id())));
    std::fs::create_dir(&folder.0).unwrap();
    let node = Node::start().await;
    let other = node.client("bob");
    let mut random = SmallRng::seed_from_u64(11);
    let (mut ledger, mut queued, mut from) = (Ledger::default(), BTreeSet::new(), 1);
    for kill in 0..KILLS {
        let phone = Phone::spawn(&node.url(), &folder.0, from);
        // In the first run so many that it is subscribed.
        let lines = random.random_range(0..COUNT as usize + 20).max(usize::from(kill == 0));
        let (run, ()) = tokio::join!(phone.kill_after(lines), publish(&other, kill));
        ledger.check(kill, &run);
        queued.extend(run.queued);
        from += COUNT;
        // The first run begins live, at a moment that nobody knows here.
        if kill > 0 {
            queued.extend(others(kill));
        }
    }
    let run = Phone::spawn(&node.url(), &folder.0, from).finish().await;
    ledger.check(KILLS, &run);
    queued.extend(run.queued);
    let lost: Vec<_> = queued.iter().filter(|number| !ledger.came.contains_key(number)).collect();
    assert_eq!(lost, Vec::<&u64>::new(), "queued and never read");
    println!("{} came, {} of them twice, {KILLS} kills", ledger.came.len(), ledger.doubled);
    assert!(ledger.came.len() > 10 * KILLS && ledger.doubled > 0, "nothing was tested");
    other.close().await;
}

fn others(kill: usize) -> std::ops::Range<u64> {
    let from = OTHER + kill as u64 * COUNT;
    from..from + COUNT
}

/// Publishes beside the phone, so that there is something to read whenever it is killed.
async fn publish(client: &Client, kill: usize) {
    for number in others(kill) {
        soon(client.room(ROOM).publish("line", number.to_string()).into_future()).await.unwrap();
    }
}
