//! The client against a real node: cuts, a trimmed log, a node that dies.
//!
//! The node is the binary `lanecast`, named by LANECAST_BIN or built by `cargo build -p lanecast-server`.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use lanecast::{
    Client, ClientState, Direction, Gap, GapCause, Lane, Missing, Publish, Receipt, Room, RoomState, SignalChange,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use self::support::node::{Link, Node, Wire};
#[cfg(feature = "quic")]
use self::support::relay::{Relay, Weather};
use self::support::soon;

/// Publishes that are on their way at a time.
const WINDOW: usize = 200;

fn any_lane(random: &mut SmallRng) -> Lane {
    match random.random_range(0..10) {
        0 => Lane::Urgent,
        1..=2 => Lane::Bulk,
        _ => Lane::Normal,
    }
}

/// Publishes with a window, and hands each receipt's answer to `on_stored`.
async fn publish_all(
    publishes: impl IntoIterator<Item = Publish>,
    sent: &AtomicUsize,
    mut on_stored: impl FnMut(lanecast::Published),
) {
    let mut window: VecDeque<Receipt> = VecDeque::new();
    for publish in publishes {
        if window.len() == WINDOW
            && let Some(oldest) = window.pop_front()
        {
            on_stored(oldest.await.unwrap());
        }
        window.push_back(publish.send().await.unwrap());
        sent.fetch_add(1, Ordering::SeqCst);
    }
    for receipt in window {
        on_stored(receipt.await.unwrap());
    }
}

/// Beyond so many bytes to the client a connection is past Welcome and Subscribed.
const REPLAYING_BYTES: u64 = 1000;

/// What is true in the moments of the cuts.
#[derive(Default)]
struct Counts {
    cuts: AtomicUsize,
    /// Cuts while the replay of what was published before was under way.
    replaying: AtomicUsize,
    /// Cuts while publishes had no answer.
    unanswered: AtomicUsize,
    sent: AtomicUsize,
    stored: AtomicUsize,
    /// Old events that the application has seen.
    old: AtomicUsize,
}

impl Counts {
    fn cut(&self, carried: u64, old: usize) {
        let read = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        self.cuts.fetch_add(1, Ordering::SeqCst);
        let replaying = carried > REPLAYING_BYTES && read(&self.old) < old;
        self.replaying.fetch_add(usize::from(replaying), Ordering::SeqCst);
        let unanswered = read(&self.sent) > read(&self.stored);
        self.unanswered.fetch_add(usize::from(unanswered), Ordering::SeqCst);
    }
}

/// What was seen of a room: each seq once and in order per lane, each text once.
#[derive(Default)]
struct Ledger {
    /// Whether urgent events may come before one with a lower seq.
    overtaking: bool,
    seqs: BTreeMap<&'static str, u64>,
    /// Seqs that came before lower ones.
    early: BTreeSet<u64>,
    overtook: usize,
    texts: HashSet<String>,
    last_of: BTreeMap<(String, &'static str), u64>,
}

impl Ledger {
    fn enter(&mut self, event: &lanecast::Event) {
        let lane = event.lane.name();
        let text = event.text().unwrap();
        assert!(self.texts.insert(text.to_owned()), "{text} came twice");
        if self.overtaking && event.lane == Lane::Urgent {
            return self.enter_urgent(event.seq);
        }
        let seq = self.seqs.entry(lane).or_default();
        *seq += 1;
        assert_eq!(event.seq, *seq, "{lane}");
        let (who, number) = text.split_once(' ').unwrap();
        let number: u64 = number.parse().unwrap();
        let before = self.last_of.insert((who.to_owned(), lane), number);
        assert!(before.is_none_or(|before| before < number), "{who} {number} came after {before:?} in {lane}");
    }

    fn enter_urgent(&mut self, came: u64) {
        let seq = self.seqs.entry(Lane::Urgent.name()).or_default();
        assert!(came > *seq && came <= *seq + 64 && self.early.insert(came), "urgent {came} after {seq}, L2");
        while self.early.remove(&(*seq + 1)) {
            *seq += 1;
        }
        self.overtook += usize::from(*seq < came);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_cuts_at_random_bytes_lose_and_double_nothing() {
    // LC-SDK-001, LC-SDK-002, LC-SDK-005, LC-PUB-026, LC-PUB-027
    let node = Node::start().await;
    for seed in 0..20 {
        let began = std::time::Instant::now();
        tokio::time::timeout(Duration::from_secs(60), cut_run(&node, seed)).await.expect("it hangs");
        println!("seed {seed}: {:?}", began.elapsed());
    }
}

async fn cut_run(node: &Node, seed: u64) {
    const OLD: usize = 5000;
    const NEW: usize = 5000;
    const CUTS: u32 = 20;
    let name = format!("cut.{seed}");
    let mut random = SmallRng::seed_from_u64(seed);

    // What is replayed.
    let before = node.client("before");
    let room = before.room(&name);
    let old: Vec<_> =
        (0..OLD).map(|number| room.publish("msg", format!("old {number}")).lane(any_lane(&mut random))).collect();
    publish_all(old, &AtomicUsize::new(0), |_| {}).await;
    before.close().await;

    let counts = Arc::new(Counts::default());
    let on_cut = {
        let counts = counts.clone();
        move |carried| counts.cut(carried, OLD)
    };
    let link = Link::new(node.address, seed, CUTS, 50_000, on_cut).await;
    let client = link.client("cut");
    let room = client.room(&name);
    let mut subscription = room.subscribe().from_beginning().await.unwrap();

    let new: Vec<_> =
        (0..NEW).map(|number| room.publish("msg", format!("new {number}")).lane(any_lane(&mut random))).collect();
    let stored = counts.clone();
    let publisher = tokio::spawn(async move {
        let mut seqs = HashSet::new();
        publish_all(new, &stored.sent, |published| {
            stored.stored.fetch_add(1, Ordering::SeqCst);
            // A duplicate was stored by a sending whose answer was lost: the same event, once.
            assert!(seqs.insert((published.lane, published.seq)), "two publishes have one seq");
        })
        .await;
        seqs.len()
    });
    let mut ledger = Ledger::default();
    while ledger.texts.len() < OLD + NEW {
        for item in subscription.next_batch(1 + ledger.texts.len() % 61).await {
            match item {
                Ok(event) => {
                    ledger.enter(&event);
                    let old = usize::from(event.text().is_some_and(|text| text.starts_with("old")));
                    counts.old.fetch_add(old, Ordering::SeqCst);
                }
                Err(gap) => assert!(is_missed(&gap), "seed {seed}: {gap}"),
            }
        }
    }
    assert_eq!(publisher.await.unwrap(), NEW);
    let [cuts, replaying, unanswered] =
        [&counts.cuts, &counts.replaying, &counts.unanswered].map(|count| count.load(Ordering::SeqCst));
    println!("  {cuts} cuts, {replaying} during the replay, {unanswered} with unanswered publishes");
    assert!(
        cuts == CUTS as usize && replaying >= 5 && unanswered >= 5,
        "seed {seed}: {cuts}, {replaying}, {unanswered}"
    );
    client.close().await;
    assert_log(node, &name, OLD + NEW).await;
}

/// 2 % of the packets are lost, and the others overtake one another.
#[cfg(feature = "quic")]
fn bad_weather() -> Weather {
    Weather { loss: 0.02, delay_ms: 0..=20, cuts: vec![50..=250; 4] }
}

#[cfg(feature = "quic")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_link_and_cuts_lose_and_double_nothing_over_quic() {
    // L1, L4, LC-QUIC-005, LC-QUIC-010, LC-QUIC-012, LC-SDK-001, LC-SDK-005
    let node = Node::start_over(Wire::Quic).await;
    for seed in 0..3 {
        let began = std::time::Instant::now();
        tokio::time::timeout(Duration::from_secs(120), bad_link_run(&node, seed)).await.expect("it hangs");
        println!("seed {seed}: {:?}", began.elapsed());
    }
}

#[cfg(feature = "quic")]
async fn bad_link_run(node: &Node, seed: u64) {
    const COUNT: usize = 10_000;
    let name = format!("bad.{seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let cuts = Arc::new(AtomicUsize::new(0));
    let count = cuts.clone();
    let on_cut = move || {
        count.fetch_add(1, Ordering::SeqCst);
    };
    let relay = Relay::new(node.quic.unwrap(), bad_weather(), seed, on_cut).await;
    let client = node.builder_at(relay.address, "bad").connect().unwrap();
    let room = client.room(&name);
    let mut subscription = room.subscribe().from_beginning().await.unwrap();
    let publishes: Vec<_> =
        (0..COUNT).map(|number| room.publish("msg", format!("new {number}")).lane(any_lane(&mut random))).collect();
    let publisher = tokio::spawn(async move {
        let mut seqs = HashSet::new();
        publish_all(publishes, &AtomicUsize::new(0), |published| {
            assert!(seqs.insert((published.lane, published.seq)), "two publishes have one seq");
        })
        .await;
        seqs.len()
    });
    let mut ledger = Ledger { overtaking: true, ..Ledger::default() };
    while ledger.texts.len() < COUNT {
        for item in subscription.next_batch(1 + ledger.texts.len() % 61).await {
            match item {
                Ok(event) => ledger.enter(&event),
                Err(gap) => assert!(is_missed(&gap), "seed {seed}: {gap}"),
            }
        }
    }
    assert_eq!(publisher.await.unwrap(), COUNT);
    assert!(ledger.early.is_empty());
    println!(
        "  {} cuts, {} urgent overtook, {} packets up",
        cuts.load(Ordering::SeqCst),
        ledger.overtook,
        relay.packets()
    );
    assert_eq!(cuts.load(Ordering::SeqCst), bad_weather().cuts.len(), "seed {seed}");
    client.close().await;
    assert_log(node, &name, COUNT).await;
}

/// The log holds so many events, each text once.
async fn assert_log(node: &Node, name: &str, expected: usize) {
    let reader = node.client("reader");
    let mut history = reader.room(name).history().direction(Direction::Forward);
    let (mut texts, mut orders) = (HashSet::new(), Vec::new());
    while let Some(page) = history.next_page().await.unwrap() {
        assert_eq!(page.gaps, []);
        for event in page.events {
            assert!(texts.insert(event.text().unwrap().to_owned()), "{:?} is stored twice", event.text());
            orders.push(event.order);
        }
    }
    assert_eq!(orders, (1..=expected as u64).collect::<Vec<_>>());
    reader.close().await;
}

async fn store(room: &Room, lane: Lane, count: usize) {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    for _ in 0..count {
        let text = format!("x {}", NUMBER.fetch_add(1, Ordering::SeqCst));
        soon(room.publish("msg", text).lane(lane).into_future()).await.unwrap();
    }
}

/// A node that did not follow the room all the while cannot say how many transient events were missed (LC-RES-020).
fn is_missed(gap: &Gap) -> bool {
    gap.cause == GapCause::Missed && matches!(gap.missing, Missing::Transients { count: None, .. })
}

fn seqs(gap: &Gap) -> (Lane, u64, Option<u64>, GapCause) {
    match gap.missing {
        Missing::Seqs { lane, from, to, .. } => (lane, from, to, gap.cause),
        Missing::Transients { .. } => panic!("{gap}"),
    }
}

#[tokio::test]
async fn a_log_trimmed_past_the_position_is_one_gap_and_then_the_rest() {
    // LC-SUB-015, LC-SDK-003
    let node = Node::start().await;
    let link = Link::new(node.address, 0, 0, 1, |_| {}).await;
    let (writer, reader) = (node.client("writer"), link.client("reader"));
    let mut subscription = reader.room("trim.a").subscribe().from_beginning().await.unwrap();
    soon(subscription.ready()).await.unwrap();
    store(&writer.room("trim.a"), Lane::Normal, 5).await;
    for seq in 1..=5 {
        assert_eq!(soon(subscription.next()).await.unwrap().unwrap().seq, seq);
    }
    link.go_down();
    let mut state = reader.state();
    soon(state.wait_for(|state| *state != ClientState::Connected)).await.unwrap();
    store(&writer.room("trim.a"), Lane::Normal, 700).await;
    link.come_up();
    let gap = soon(subscription.next()).await.unwrap().unwrap_err();
    let (lane, from, to, cause) = seqs(&gap);
    assert_eq!((lane, from, cause), (Lane::Normal, 6, GapCause::Trimmed));
    // A node may still have what its log has not, but not all of 700 events.
    let to = to.unwrap();
    assert!((100..=695).contains(&to), "{to}");
    for seq in to + 1..=705 {
        assert_eq!(soon(subscription.next()).await.unwrap().unwrap().seq, seq);
    }
    store(&writer.room("trim.a"), Lane::Normal, 1).await;
    assert_eq!(soon(subscription.next()).await.unwrap().unwrap().seq, 706);
}

#[tokio::test]
async fn a_node_that_dies_rolls_back_and_delivery_goes_on() {
    // LC-RES-014, LC-SDK-006
    let mut node = Node::start().await;
    let client = node.client("ann");
    let room = client.room("chat.a");
    let mut subscription = room.subscribe().from_beginning().await.unwrap();
    for lane in Lane::ALL {
        store(&room, lane, 3).await;
    }
    let mut epoch = 0;
    for _ in 0..9 {
        epoch = soon(subscription.next()).await.unwrap().unwrap().epoch;
    }
    subscription.acknowledge();
    assert_eq!(subscription.position().unwrap().to_string(), format!("{epoch}-3-3-3"));
    node.kill_and_restart().await;
    let mut gaps = Vec::new();
    while gaps.len() < Lane::ALL.len() {
        let gap = soon(subscription.next()).await.unwrap().unwrap_err();
        if !is_missed(&gap) {
            gaps.push(seqs(&gap));
        }
    }
    gaps.sort_by_key(|gap| gap.0.index());
    assert_eq!(gaps, Lane::ALL.map(|lane| (lane, 4, None, GapCause::RolledBack)));
    store(&room, Lane::Normal, 2).await;
    for seq in 1..=2 {
        let event = loop {
            match soon(subscription.next()).await.unwrap() {
                Ok(event) => break event,
                Err(gap) => assert!(is_missed(&gap), "{gap}"),
            }
        };
        assert!(event.seq == seq && event.epoch > epoch, "{event:?}");
    }
    subscription.acknowledge();
    assert!(subscription.position().unwrap().epoch > epoch);
}

#[tokio::test]
async fn a_stored_position_goes_on_in_another_process() {
    // LC-SDK-005, LC-RES-004
    let node = Node::start().await;
    let client = node.client("ann");
    let room = client.room("chat.a");
    store(&room, Lane::Normal, 3).await;
    let mut subscription = room.subscribe().from_beginning().await.unwrap();
    soon(subscription.next()).await.unwrap().unwrap();
    soon(subscription.next()).await.unwrap().unwrap();
    let stored = subscription.position().unwrap().to_string();
    client.close().await;
    let client = node.client("ann");
    let start = stored.parse().unwrap();
    let mut subscription = client.room("chat.a").subscribe().from_position(start).await.unwrap();
    let seqs: Vec<_> = [soon(subscription.next()).await, soon(subscription.next()).await]
        .map(|item| item.unwrap().unwrap().seq)
        .into();
    assert_eq!(seqs, [2, 3], "the second was handed out and not yet said to be handled");
    let mut state = subscription.state();
    soon(state.wait_for(|state| *state == RoomState::Live { recovered: true })).await.unwrap();
}

/// A room in which every start is at a known place.
async fn starts(client: &Client, node: &Node) {
    let room = client.room("chat.starts");
    store(&room, Lane::Normal, 10).await;
    let first = |subscribe: lanecast::Subscribe| async move {
        let mut subscription = subscribe.await.unwrap();
        soon(subscription.next()).await.unwrap().unwrap().seq
    };
    assert_eq!(first(room.subscribe().from_beginning()).await, 1);
    assert_eq!(first(room.subscribe().from_count(3)).await, 8);
    assert_eq!(first(room.subscribe().from_duration(Duration::from_secs(3600))).await, 1);
    let mut live = room.subscribe().from_live().await.unwrap();
    soon(live.ready()).await.unwrap();
    let other = node.client("other");
    store(&other.room("chat.starts"), Lane::Normal, 1).await;
    assert_eq!(soon(live.next()).await.unwrap().unwrap().seq, 11);
}

#[tokio::test]
async fn the_verbs_work_on_a_real_node() {
    verbs(&Node::start().await).await;
}

#[tokio::test]
async fn the_verbs_work_over_tls() {
    verbs(&Node::start_over(Wire::Tls).await).await;
}

#[cfg(feature = "quic")]
#[tokio::test]
async fn the_verbs_work_over_quic() {
    // LC-QUIC-001, LC-QUIC-003, LC-QUIC-009
    verbs(&Node::start_over(Wire::Quic).await).await;
}

#[tokio::test]
async fn the_verbs_work_over_whichever_opens_first() {
    verbs(&Node::start_over(Wire::Any).await).await;
}

#[tokio::test]
async fn a_token_is_renewed_on_its_connection() {
    // LC-SDK-019, LC-AUTH-020
    let node = Arc::new(Node::start().await);
    let asked = Arc::new(AtomicUsize::new(0));
    let (minting, count) = (node.clone(), asked.clone());
    let provider = move |request: lanecast::TokenRequest| {
        let (node, number) = (minting.clone(), count.fetch_add(1, Ordering::SeqCst));
        async move {
            assert_eq!(request.refused, None);
            Ok::<_, std::io::Error>(node.mint("ann", if number < 3 { 3 } else { 3600 }).await)
        }
    };
    let client = Client::builder(node.url()).token_provider(provider).connect().unwrap();
    soon(client.connected()).await.unwrap();
    let mut state = client.state();
    state.mark_unchanged();
    let room = client.room("chat.a");
    for _ in 0..16 {
        store(&room, Lane::Normal, 1).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(!state.has_changed().unwrap(), "{:?}", state.borrow());
    assert!(asked.load(Ordering::SeqCst) >= 3);
}

async fn verbs(node: &Node) {
    let (ann, bob) = (node.client("ann"), node.client("bob"));
    soon(starts(&ann, node)).await;

    let mut typing = ann.room("chat.a").signals().await.unwrap();
    let live = bob.room("chat.a").signal("typing", "bob", "yes").ttl(Duration::from_secs(30));
    live.await.unwrap();
    let SignalChange::Live(signal) = soon(typing.next()).await.unwrap() else { panic!("not live") };
    assert_eq!((signal.from.user.as_str(), signal.body.as_text()), ("bob", Some("yes")));
    let mut late = node.client("carol").room("chat.a").signals().await.unwrap();
    assert!(matches!(soon(late.next()).await.unwrap(), SignalChange::Live(_)), "who enters gets what lives");
    bob.room("chat.a").clear_signal("typing", "bob").await.unwrap();
    assert!(matches!(soon(typing.next()).await.unwrap(), SignalChange::Gone { expired: false, .. }));

    let mut subscription = ann.room("chat.b").subscribe().await.unwrap();
    soon(subscription.ready()).await.unwrap();
    soon(bob.connected()).await.unwrap();
    let sent = soon(bob.room("chat.b").publish("msg", "now").transient().into_future()).await.unwrap();
    assert_eq!(sent.seq, 0);
    let event = soon(subscription.next()).await.unwrap().unwrap();
    assert!(!event.is_durable() && event.text() == Some("now") && event.from.user == "bob");

    for _ in 0..5 {
        bob.room("chat.b").publish("msg", "stored").send().await.unwrap();
    }
    soon(bob.flush()).await.unwrap();
    let pages: Vec<_> = ann.room("chat.b").history().page_size(2).into_stream().map(Result::unwrap).collect().await;
    let orders: Vec<_> = pages.iter().flat_map(|page| &page.events).map(|event| event.order).collect();
    assert_eq!(orders, [5, 4, 3, 2, 1]);

    let error = soon(ann.room("$system").publish("msg", "x").into_future()).await.unwrap_err();
    assert_eq!(error.known_code(), Some(lanecast::Code::Forbidden));
}
