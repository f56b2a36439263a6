//! A publisher that is killed between sending and the answer, fifty times, on one outbox file and a real node.
//!
//! The publisher is the example `outbox_publisher`, which `cargo test` builds. Between it and the node stands a proxy that
//! holds back publishes or answers, and so knows that the publisher died with publishes on their way.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use lanecast::{Client, Direction};
use lanecast_protocol::v1;
use lanecast_protocol::v1::frame::Body;
use prost::Message as _;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

use self::support::node::Node;
use self::support::soon;

const KILLS: usize = 50;
const ROOM: &str = "chat.kill";

/// What the proxy holds back, counted in each connection.
#[derive(Clone, Copy, Debug)]
enum Holding {
    /// Publishes after the first so many do not reach the node.
    PublishesAfter(usize),
    /// Publishes reach the node, and answers after the first so many do not come back.
    AnswersAfter(usize),
    Nothing,
}

/// What the proxy saw of the last connection.
#[derive(Clone, Debug, Default)]
struct Seen {
    is_open: bool,
    /// Requests of publishes that came from the client and whose answer was not passed to it.
    unanswered: BTreeMap<u32, v1::Publish>,
    publishes: usize,
    answers: usize,
    /// Publishes that did not reach the node.
    stopped: usize,
    /// Answers that did not reach the client: stored, and the publisher does not know it.
    withheld: usize,
}

struct Proxy {
    url: String,
    seen: watch::Receiver<Seen>,
    holding: watch::Sender<Holding>,
    task: JoinHandle<()>,
}

impl Proxy {
    async fn start(node: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let (seen, watcher) = watch::channel(Seen::default());
        let (holding, held) = watch::channel(Holding::Nothing);
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                // One at a time: the publisher before is dead.
                seen.send_replace(Seen { is_open: true, ..Seen::default() });
                let holding = *held.borrow();
                relay(client, node, holding, &seen).await;
                seen.send_modify(|seen| seen.is_open = false);
            }
        });
        Self { url, seen: watcher, holding, task }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Carries messages both ways until an end is gone.
async fn relay(client: TcpStream, node: SocketAddr, holding: Holding, seen: &watch::Sender<Seen>) {
    let mut path = String::new();
    #[allow(clippy::result_large_err)]
    let choose = |request: &Request, mut response: Response| {
        path = request.uri().path().to_owned();
        response.headers_mut().insert("sec-websocket-protocol", "lanecast.v1".parse().unwrap());
        Ok(response)
    };
    let Ok(mut client) = tokio_tungstenite::accept_hdr_async(client, choose).await else { return };
    let mut request = format!("ws://{node}{path}").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "lanecast.v1".parse().unwrap());
    let stream = TcpStream::connect(node).await.unwrap();
    let (mut node, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    loop {
        tokio::select! {
            message = client.next() => match message {
                Some(Ok(Message::Binary(packet))) => {
                    let packet = filter(packet, |frame| passes_up(frame, holding, seen));
                    if !packet.is_empty() {
                        node.send(Message::Binary(packet)).await.unwrap();
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
            message = node.next() => match message {
                Some(Ok(Message::Binary(packet))) => {
                    let packet = filter(packet, |frame| passes_down(frame, holding, seen));
                    if !packet.is_empty() && client.send(Message::Binary(packet)).await.is_err() {
                        return;
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
        }
    }
}

/// The frames of a packet that pass.
fn filter(packet: Bytes, passes: impl FnMut(&v1::Frame) -> bool) -> Bytes {
    let mut packet = v1::Packet::decode(packet).unwrap();
    packet.frames.retain(passes);
    packet.encode_to_vec().into()
}

fn passes_up(frame: &v1::Frame, holding: Holding, seen: &watch::Sender<Seen>) -> bool {
    let Some(Body::Publish(publish)) = &frame.body else { return true };
    let mut passes = true;
    seen.send_modify(|seen| {
        seen.publishes += 1;
        passes = !matches!(holding, Holding::PublishesAfter(count) if seen.publishes > count);
        seen.stopped += usize::from(!passes);
        seen.unanswered.insert(frame.id, publish.clone());
    });
    passes
}

fn passes_down(frame: &v1::Frame, holding: Holding, seen: &watch::Sender<Seen>) -> bool {
    if !matches!(&frame.body, Some(Body::Published(_))) {
        return true;
    }
    let mut passes = true;
    seen.send_modify(|seen| {
        seen.answers += 1;
        passes = !matches!(holding, Holding::AnswersAfter(count) if seen.answers > count);
        if passes {
            seen.unanswered.remove(&frame.id);
        } else {
            seen.withheld += 1;
        }
    });
    passes
}

/// The example, from beside this test in the target directory.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("examples/outbox_publisher");
    assert!(path.is_file(), "no {}: run `cargo build -p lanecast --example outbox_publisher`", path.display());
    path
}

struct Publisher {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// What it has reported as queued.
    queued: BTreeSet<usize>,
}

impl Publisher {
    fn spawn(url: &str, file: &Path, from: usize, count: usize) -> Self {
        let mut command = Command::new(program());
        command.arg(url).arg(file).args([ROOM, &from.to_string(), &count.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, queued: BTreeSet::new() }
    }

    /// Waits until it has reported so many as queued.
    async fn queues(&mut self, count: usize) {
        while self.queued.len() < count {
            let line = self.lines.next_line().await.unwrap().expect("it queues that many");
            self.take(&line);
        }
    }

    /// kill -9. Returns what it had reported as queued.
    async fn kill(mut self) -> BTreeSet<usize> {
        assert_eq!(self.child.try_wait().unwrap(), None, "it ended by itself");
        self.child.kill().await.unwrap();
        self.rest().await
    }

    /// Waits for its end.
    async fn finish(mut self) -> BTreeSet<usize> {
        assert!(self.child.wait().await.unwrap().success());
        self.rest().await
    }

    async fn rest(mut self) -> BTreeSet<usize> {
        while let Some(line) = self.lines.next_line().await.unwrap() {
            self.take(&line);
        }
        self.queued
    }

    fn take(&mut self, line: &str) {
        self.queued.extend(line.strip_prefix("queued ").map(|number| number.parse::<usize>().unwrap()));
    }
}

/// What the log of the room holds: the numbers of each lane in the order of their seqs.
async fn stored(node: &Node) -> BTreeMap<&'static str, Vec<usize>> {
    let reader = Client::builder(node.url()).token("dev:reader").connect().unwrap();
    let mut history = reader.room(ROOM).history().direction(Direction::Forward);
    let (mut lanes, mut seqs) = (BTreeMap::<_, Vec<usize>>::new(), BTreeMap::<_, u64>::new());
    while let Some(page) = soon(history.next_page()).await.unwrap() {
        assert_eq!(page.gaps, []);
        for event in page.events {
            let seq = seqs.entry(event.lane.name()).or_default();
            *seq += 1;
            assert_eq!(event.seq, *seq);
            lanes.entry(event.lane.name()).or_default().push(event.text().unwrap().parse().unwrap());
        }
    }
    lanes
}

fn text(publish: &v1::Publish) -> usize {
    match v1::Envelope::decode(publish.envelope.clone()).unwrap().body {
        Some(v1::envelope::Body::Text(text)) => text.parse().unwrap(),
        other => panic!("{other:?}"),
    }
}

/// An outbox file of this test's own, removed with its companions.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_kills_between_sending_and_the_answer_lose_and_double_nothing() {
    // LC-SDK-016, LC-PUB-020, LC-PUB-026, LC-PUB-027, L3
    let folder = Folder(std::env::temp_dir().join(format!("lanecast-sdk-kill-{}", std::process::id())));
    std::fs::create_dir(&folder.0).unwrap();
    let file = folder.0.join("outbox");
    let node = Node::start().await;
    let proxy = Proxy::start(node.address).await;
    let mut random = SmallRng::seed_from_u64(7);
    let (mut next, mut queued) = (1, BTreeSet::new());
    let (mut stored_unknown, mut never_arrived) = (0, 0);
    for kill in 0..KILLS {
        let passed = random.random_range(0..8);
        let holding = match kill % 2 {
            0 => Holding::AnswersAfter(passed),
            _ => Holding::PublishesAfter(passed),
        };
        proxy.holding.send_replace(holding);
        // More than pass, so that one is always held back.
        let count = passed + random.random_range(1..6);
        let mut publisher = Publisher::spawn(&proxy.url, &file, next, count);
        let mut watcher = proxy.seen.clone();
        // Held back, or killed as soon as the first is.
        let held = random.random_range(1..=count - passed);
        soon(watcher.wait_for(|seen| seen.is_open && seen.withheld.max(seen.stopped) >= held)).await.unwrap();
        // On a busy machine the proxy is quicker than the publisher, and would have it killed before it reported anything.
        soon(publisher.queues(random.random_range(1..=count))).await;
        queued.extend(soon(publisher.kill()).await);
        let seen = soon(watcher.wait_for(|seen| !seen.is_open)).await.unwrap().clone();
        assert!(!seen.unanswered.is_empty(), "kill {kill}: nothing was on its way: {holding:?}, {seen:?}");
        assert!(seen.unanswered.values().all(|publish| text(publish) < next + count));
        stored_unknown += usize::from(seen.withheld > 0);
        never_arrived += usize::from(seen.stopped > 0);
        next += count;
    }
    assert_eq!((stored_unknown, never_arrived), (KILLS / 2, KILLS / 2));

    // The last run sends what is left, and one of its own.
    proxy.holding.send_replace(Holding::Nothing);
    queued.extend(soon(Publisher::spawn(&proxy.url, &file, next, 1).finish()).await);
    assert!(queued.contains(&next));
    let mut found = BTreeSet::new();
    for (lane, numbers) in stored(&node).await {
        assert!(numbers.is_sorted_by(|a, b| a < b), "{lane} is out of order or holds one twice: {numbers:?}");
        found.extend(numbers);
    }
    let lost: Vec<_> = queued.difference(&found).collect();
    assert!(lost.is_empty(), "queued and lost: {lost:?}");
    println!("{} queued, {} stored, {KILLS} kills", queued.len(), found.len());
    assert!(queued.len() > 3 * KILLS);

    // Nothing is left to send, and numbers go on all the same: from 1 again it would be taken for a duplicate.
    soon(Publisher::spawn(&proxy.url, &file, next + 1, 1).finish()).await;
    let after: Vec<_> = stored(&node).await.into_values().flatten().collect();
    assert_eq!((after.len(), after.contains(&(next + 1))), (found.len() + 1, true));
}
