//! What the library exports, against a real node: the binary `lanecast`, named by LANECAST_BIN or built by
//! `cargo build -p lanecast-server`.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use lanecast_ffi::{
    Body, Cancellation, Client, ClientState, Delivery, Direction, ErrorKind, FfiError, Focus, HistoryRequest, Item,
    Lane, LogLevel, LogSink, Missing, Publication, RoomState, SignalChange, SignalToSend, Start, SubscribeOptions,
    connect, library_version, set_log_sink,
};

use self::support::{Node, fill, options, publish, soon, subscribe, text};

fn kind(error: &FfiError) -> ErrorKind {
    let FfiError::Failed { kind, .. } = error;
    *kind
}

/// Waits for a state of the client.
async fn reach(client: &Client, wanted: impl Fn(&ClientState) -> bool) -> ClientState {
    let mut state = client.state();
    while !wanted(&state) {
        state = soon(client.next_state(Some(state), None)).await.unwrap().expect("the client is not over");
    }
    state
}

#[tokio::test]
async fn what_is_published_comes_as_it_was() {
    let node = Node::start().await;
    let client = node.client("ann").await;
    soon(client.connected(None)).await.unwrap();
    let room = client.room("chat.whole".into());
    let subscription = subscribe(&room, Start::Live).await;
    soon(subscription.ready(None)).await.unwrap();

    let headers = [("traceparent".to_owned(), "00-1".to_owned())].into();
    let whole = Publication {
        lane: Lane::Urgent,
        key: "k".into(),
        content_type: "application/x".into(),
        body: Body::Bytes { bytes: vec![0, 255] },
        ttl_ms: Some(60_000),
        outbox_ttl_ms: Some(60_000),
        headers,
        ..text("")
    };
    let published = soon(publish(&room, whole).await.stored(None)).await.unwrap();
    assert_eq!((published.lane, published.seq, published.duplicate), (Lane::Urgent, 1, false));

    let batch = soon(subscription.next_batch(0, 10, None)).await.unwrap();
    let [Item::Event { event }] = &batch.items[..] else { panic!("{batch:?}") };
    assert_eq!((event.epoch, event.seq, event.order, event.lane), (published.epoch, 1, published.order, Lane::Urgent));
    assert_eq!((event.r#type.as_str(), event.key.as_str(), event.content_type.as_str()), ("msg", "k", "application/x"));
    assert_eq!((&event.headers["traceparent"][..], &event.body), ("00-1", &Body::Bytes { bytes: vec![0, 255] }));
    assert_eq!((event.from.user.as_str(), event.from.instance.is_empty()), ("ann", false));
    assert!(event.time_ms.abs_diff(client.node_time_ms()) < 10_000);
    assert!(event.expires_at_ms.unwrap() > event.time_ms);

    // The position moves with the acknowledgement, and was told before.
    assert_ne!(subscription.position(), batch.position);
    subscription.acknowledge(batch.number);
    assert_eq!(subscription.position(), batch.position);
    soon(client.shutdown()).await.unwrap();
    assert!(matches!(client.state(), ClientState::Closed { .. }));
    assert!(soon(subscription.next_batch(batch.number, 1, None)).await.unwrap().items.is_empty());
    assert_eq!(kind(&soon(room.publish(text("late"), None)).await.unwrap_err()), ErrorKind::Closed);
}

#[tokio::test]
async fn tokens_are_handed_over() {
    let node = Node::start().await;
    let client = connect(options(&node.url, None), None).await.unwrap();
    let requests = client.token_requests().unwrap();

    let first = soon(requests.next(0, None)).await.unwrap().unwrap();
    assert_eq!((first.number(), first.refused()), (1, 0));
    // Whoever asks again gets the same one, also after a call that was cancelled.
    let cancellation = Cancellation::new();
    cancellation.cancel();
    assert_eq!(kind(&requests.next(0, Some(cancellation)).await.unwrap_err()), ErrorKind::Cancelled);
    let again = soon(requests.next(0, None)).await.unwrap().unwrap();
    assert_eq!(again.number(), 1);

    first.fail("no network".into());
    first.give("dev:late".into());
    let second = soon(requests.next(1, None)).await.unwrap().unwrap();
    second.give("nobody knows this".into());
    let third = soon(requests.next(second.number(), None)).await.unwrap().unwrap();
    assert_eq!(third.refused() / 100, 41, "a node refused the token");
    third.give("dev:ann".into());
    soon(client.connected(None)).await.unwrap();

    soon(client.refresh_token()).await.unwrap();
    let fourth = soon(requests.next(third.number(), None)).await.unwrap().unwrap();
    fourth.give("dev:ann".into());

    // The requests end with the client, and do not keep it alive.
    drop(client);
    assert!(soon(requests.next(fourth.number(), None)).await.unwrap().is_none());
}

#[tokio::test]
async fn states_are_told_and_cancelled_calls_end() {
    let node = Node::start().await;
    let client = node.client("ann").await;
    reach(&client, |state| *state == ClientState::Connected).await;
    let cancellation = Cancellation::new();
    let waiting = client.next_state(Some(ClientState::Connected), Some(cancellation.clone()));
    let (ended, ()) = tokio::join!(waiting, async { cancellation.cancel() });
    assert_eq!(kind(&ended.unwrap_err()), ErrorKind::Cancelled);

    let room = client.room("chat.states".into());
    let subscription = subscribe(&room, Start::Beginning).await;
    let mut state = subscription.state();
    while !matches!(state, RoomState::Live { .. }) {
        state = soon(subscription.next_state(Some(state), None)).await.unwrap().unwrap();
    }
    let second = room.subscribe(SubscribeOptions { start: None, signals: false }, None);
    assert_eq!(kind(&soon(second).await.unwrap_err()), ErrorKind::AlreadySubscribed);
    soon(room.focus(Focus::Foreground)).await.unwrap();
    soon(client.network_changed()).await.unwrap();
    soon(client.entered_background()).await.unwrap();
    soon(client.entered_foreground()).await.unwrap();

    subscription.cancel();
    while let Some(next) = soon(subscription.next_state(Some(state), None)).await.unwrap() {
        state = next;
    }
    subscribe(&room, Start::Beginning).await.cancel();
    soon(client.shutdown()).await.unwrap();
    let closed = reach(&client, |state| matches!(state, ClientState::Closed { .. })).await;
    assert!(soon(client.next_state(Some(closed), None)).await.unwrap().is_none());
}

#[tokio::test]
async fn the_past_is_read_page_by_page() {
    let node = Node::start().await;
    let client = node.client("ann").await;
    let room = client.room("chat.past".into());
    fill(&room, 25).await;
    let mut request =
        HistoryRequest { direction: Direction::Forward, lanes: vec![Lane::Normal], page_size: Some(10), cursor: None };
    let (mut seqs, mut head) = (Vec::new(), None);
    loop {
        let page = soon(room.history_page(request.clone(), None)).await.unwrap();
        seqs.extend(page.events.iter().map(|event| event.seq));
        head = head.or(page.head);
        match page.next {
            Some(next) => request.cursor = Some(next),
            None => break,
        }
    }
    assert_eq!(seqs, (1..=25).collect::<Vec<u64>>());
    let subscription = subscribe(&room, Start::Position { position: head.unwrap() }).await;
    publish(&room, text("next")).await;
    let batch = soon(subscription.next_batch(0, 10, None)).await.unwrap();
    assert!(matches!(&batch.items[..], [Item::Event { event }] if event.seq == 26));
}

#[tokio::test]
async fn signals_come_and_go() {
    let node = Node::start().await;
    let (ann, bob) = (node.client("ann").await, node.client("bob").await);
    let signals = soon(ann.room("chat.signals".into()).signals(None)).await.unwrap();
    let room = bob.room("chat.signals".into());
    let typing = SignalToSend {
        r#type: "typing".into(),
        key: "k".into(),
        body: Body::Text { text: "…".into() },
        content_type: String::new(),
        ttl_ms: Some(60_000),
    };
    soon(room.signal(typing)).await.unwrap();
    let batch = soon(signals.next_batch(0, 10, None)).await.unwrap();
    let [SignalChange::Live { signal }] = &batch.changes[..] else { panic!("{batch:?}") };
    assert_eq!((signal.from.user.as_str(), signal.key.as_str()), ("bob", "k"));
    assert_eq!(signals.live().len(), 1);
    soon(room.clear_signal("typing".into(), "k".into())).await.unwrap();
    let batch = soon(signals.next_batch(batch.number, 10, None)).await.unwrap();
    assert!(matches!(&batch.changes[..], [SignalChange::Gone { expired: false, .. }]));
    signals.cancel();
    assert!(soon(signals.next_batch(batch.number, 10, None)).await.unwrap().changes.is_empty());
    assert!(signals.live().is_empty());
    let nameless = SignalToSend {
        r#type: String::new(),
        key: String::new(),
        body: Body::Text { text: String::new() },
        content_type: String::new(),
        ttl_ms: None,
    };
    assert_eq!(kind(&soon(room.signal(nameless)).await.unwrap_err()), ErrorKind::Invalid);
}

#[tokio::test]
async fn files_outlive_a_client() {
    let node = Node::start().await;
    let with_files = |url: &str| {
        let mut options = options(url, Some("dev:ann".into()));
        (options.outbox_file, options.positions_file) = (node.file("outbox"), node.file("positions"));
        options
    };
    // Nobody listens there: what is published waits in the file.
    let away = connect(with_files("ws://127.0.0.1:9"), None).await.unwrap();
    let receipt = publish(&away.room("chat.files".into()), text("kept")).await;
    assert_eq!((away.outbox_has_file(), away.outbox_pending()), (true, 1));
    let twice = connect(with_files("ws://127.0.0.1:9"), None).await.unwrap_err();
    assert_eq!(kind(&twice), ErrorKind::OutboxLocked);
    soon(away.shutdown()).await.unwrap();
    assert_eq!(kind(&soon(receipt.stored(None)).await.unwrap_err()), ErrorKind::Closed);
    drop((away, receipt));

    let client = connect(with_files(&node.url), None).await.unwrap();
    assert_eq!(client.outbox_restored(), 1);
    let outcomes = client.outbox_outcomes().unwrap();
    assert!(client.outbox_outcomes().is_none());
    let batch = soon(outcomes.next_batch(0, 10, None)).await.unwrap();
    assert_eq!(batch.outcomes[0].body, Body::Text { text: "kept".into() });
    assert_eq!((batch.outcomes[0].published.unwrap().seq, &batch.outcomes[0].failure), (1, &None));
    assert!(soon(outcomes.next_batch(batch.number, 10, None)).await.unwrap().outcomes.is_empty());
    outcomes.cancel();
    soon(client.flush(None)).await.unwrap();
    let mut pending = client.outbox_pending();
    while pending > 0 {
        pending = soon(client.next_outbox_pending(Some(pending), None)).await.unwrap().unwrap();
    }

    let room = client.room("chat.files".into());
    let subscription = subscribe(&room, Start::Beginning).await;
    let batch = soon(subscription.next_batch(0, 10, None)).await.unwrap();
    subscription.acknowledge(batch.number);
    soon(client.shutdown()).await.unwrap();
    let client = connect(with_files(&node.url), None).await.unwrap();
    let room = client.room("chat.files".into());
    let subscription = soon(room.subscribe(SubscribeOptions { start: None, signals: true }, None)).await.unwrap();
    publish(&room, text("second")).await;
    let batch = soon(subscription.next_batch(0, 10, None)).await.unwrap();
    assert!(matches!(&batch.items[..], [Item::Event { event }] if event.seq == 2), "{batch:?}");
}

#[tokio::test]
async fn a_gap_says_what_is_missing() {
    let node = Node::start().await;
    let client = node.client("ann").await;
    let room = client.room("chat.gap".into());
    fill(&room, 1).await;
    let subscription = subscribe(&room, Start::Position { position: "1-0-5-0".into() }).await;
    let batch = soon(subscription.next_batch(0, 10, None)).await.unwrap();
    let gap = batch.items.iter().find_map(|item| match item {
        Item::Gap { gap } if matches!(gap.missing, Missing::Seqs { lane: Lane::Normal, .. }) => Some(gap),
        _ => None,
    });
    let Missing::Seqs { epoch, from, to, .. } = gap.unwrap().missing else { panic!("seqs") };
    assert_eq!((epoch, from, to), (1, 6, None));
}

#[tokio::test]
async fn what_cannot_be_used_is_said_so() {
    let refused = async |change: fn(&mut lanecast_ffi::Options)| {
        let mut options = options("ws://127.0.0.1:9", Some(String::new()));
        change(&mut options);
        kind(&connect(options, None).await.unwrap_err())
    };
    assert_eq!(refused(|options| options.url = "gopher://x".into()).await, ErrorKind::BadUrl);
    assert_eq!(refused(|options| options.certificate_hash = Some(vec![0; 31])).await, ErrorKind::Invalid);
    assert_eq!(refused(|options| options.quic_port = Some(0)).await, ErrorKind::Invalid);
    assert_eq!(refused(|options| options.quic_port = Some(65_536)).await, ErrorKind::Invalid);
    assert_eq!(refused(|options| options.outbox_file = Some("/no/such/folder/x".into())).await, ErrorKind::OutboxFile);
    let bad_root = |options: &mut lanecast_ffi::Options| {
        (options.url, options.extra_roots) = ("wss://127.0.0.1:9".into(), vec!["no PEM".into()]);
    };
    assert_eq!(refused(bad_root).await, ErrorKind::Certificates);

    let client = connect(options("ws://127.0.0.1:9", Some(String::new())), None).await.unwrap();
    let room = client.room("chat.x".into());
    let at = |start| SubscribeOptions { start: Some(start), signals: false };
    let nowhere = room.subscribe(at(Start::Position { position: "here".into() }), None);
    assert_eq!(kind(&nowhere.await.unwrap_err()), ErrorKind::Invalid);
    let nameless = client.room(String::new()).publish(text("x"), None).await.unwrap_err();
    assert_eq!(kind(&nameless), ErrorKind::Invalid);
    let transient = Publication { delivery: Delivery::Transient, ..text("x") };
    let receipt = room.publish(transient, None).await.unwrap();
    let lost = soon(receipt.stored(None)).await.unwrap_err();
    assert!(matches!(lost, FfiError::Failed { kind: ErrorKind::NotConnected, retryable: true, code: 0, .. }));
    assert_eq!(receipt.stored(None).await.unwrap_err(), lost, "asked again it says the same");
    assert_eq!(library_version(), env!("CARGO_PKG_VERSION"));
}

/// Fails at its first line.
struct Sink(Mutex<(bool, mpsc::Sender<Line>)>);

type Line = (LogLevel, String, String);

impl LogSink for Sink {
    fn log(&self, level: LogLevel, target: String, line: String) -> Result<(), FfiError> {
        let mut sink = self.0.lock().unwrap();
        let _ = sink.1.send((level, target, line));
        if std::mem::replace(&mut sink.0, false) {
            return Err(FfiError::Failed {
                kind: ErrorKind::Internal,
                code: 0,
                detail: "thrown".into(),
                retryable: false,
                retry_after_ms: None,
            });
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_reach_the_sink() {
    let (sender, lines) = mpsc::channel();
    set_log_sink(LogLevel::Debug, Some(Arc::new(Sink((true, sender).into())))).unwrap();
    // Nobody listens there, which the client says at each attempt.
    let client = connect(options("ws://127.0.0.1:9", Some(String::new())), None).await.unwrap();
    for _ in 0..2 {
        let (level, target, _) = lines.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(level <= LogLevel::Debug && target.starts_with("lanecast"), "{level:?} {target}");
    }
    set_log_sink(LogLevel::Debug, None).unwrap();
    while lines.recv_timeout(Duration::from_secs(20)).is_ok() {}
    assert_eq!(lines.try_recv(), Err(mpsc::TryRecvError::Disconnected), "the sink was given back");
    soon(client.shutdown()).await.unwrap();
}
