//! The client against a node that says exactly what the test tells it to.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use lanecast::codec::{Json, Raw};
use lanecast::{
    Client, ClientState, Direction, GapCause, Lane, Missing, Position, Publish, PublishErrorKind, Published, RoomState,
    SignalChange, SubscribeErrorKind,
};
use lanecast_protocol::codes::Code;
use lanecast_protocol::v1;
use lanecast_protocol::v1::frame::Body;
use tokio_tungstenite::tungstenite::Message;

use self::support::{EPOCH, HANDLE, Peer, envelope, event, normal, now_ms, published, soon, subscribed, welcome};

/// Publishes without waiting for the answer.
fn spawn(publish: Publish) -> tokio::task::JoinHandle<Result<Published, lanecast::PublishError>> {
    tokio::spawn(async move { publish.await })
}

#[tokio::test]
async fn a_publish_resolves_when_it_is_stored() {
    // LC-HS-001, LC-PUB-028
    let peer = Peer::listen().await;
    let client = Client::builder(&peer.url).token("secret").device("phone").app("test", "1").connect().unwrap();
    let publish = client.room("r").publish("msg", "hello").lane(Lane::Urgent).key("k").header("h", "v");
    let published_later = spawn(publish);
    let (mut connection, hello) = peer.welcome().await;
    assert_eq!((hello.token.as_str(), hello.device.as_str()), ("secret", "phone"));
    assert_eq!(hello.client.unwrap().app, "test");
    assert!(!hello.instance.is_empty() && hello.instance.len() <= 64);
    let (id, publish) = connection.publish().await;
    assert_eq!((publish.number, publish.after, publish.lane), (1, 0, i32::from(v1::Lane::Urgent)));
    assert!(!published_later.is_finished());
    connection.answer(id, published(&publish)).await;
    let stored = soon(published_later).await.unwrap().unwrap();
    let expected = Published { epoch: EPOCH, lane: Lane::Urgent, seq: 1, order: 9, duplicate: false };
    assert_eq!(stored, expected);
    soon(client.flush()).await.unwrap();
    soon(client.connected()).await.unwrap();
}

#[tokio::test]
async fn a_refusal_is_a_typed_error() {
    let peer = Peer::listen().await;
    let client = peer.client();
    let answer = spawn(client.room("r").publish("msg", "hello"));
    let (mut connection, _) = peer.welcome().await;
    let (id, _) = connection.publish().await;
    let error = v1::Error { code: Code::Forbidden.number().into(), detail: "no".into(), ..Default::default() };
    connection.answer(id, Body::Error(error)).await;
    let error = soon(answer).await.unwrap().unwrap_err();
    assert_eq!(
        (error.kind, error.known_code(), error.retryable),
        (PublishErrorKind::Refused, Some(Code::Forbidden), false)
    );
    let error = client.room("no..name").publish("msg", "x").await.unwrap_err();
    assert_eq!(error.kind, PublishErrorKind::Invalid);
}

#[tokio::test]
async fn the_outbox_is_bounded_and_keeps_what_it_took() {
    // LC-SDK-011
    let peer = Peer::listen().await;
    let client = Client::builder(&peer.url).outbox(2, 1000).connect().unwrap();
    let room = client.room("r");
    let first = room.publish("msg", "1").send().await.unwrap();
    let second = room.publish("msg", "2").send().await.unwrap();
    let error = soon(room.publish("msg", "3").into_future()).await.unwrap_err();
    assert_eq!((error.kind, error.retryable), (PublishErrorKind::OutboxFull, true));
    let (mut connection, _) = peer.welcome().await;
    for _ in 0..2 {
        let (id, publish) = connection.publish().await;
        connection.answer(id, published(&publish)).await;
    }
    assert_eq!((soon(first).await.unwrap().seq, soon(second).await.unwrap().seq), (1, 2));
}

#[tokio::test]
async fn a_transient_event_needs_a_connection() {
    // LC-SDK-012
    let peer = Peer::listen().await;
    let client = peer.client();
    let error = client.room("r").publish("msg", "x").transient().await.unwrap_err();
    assert_eq!((error.kind, error.retryable), (PublishErrorKind::NotConnected, true));
    let (mut connection, _) = peer.welcome().await;
    client.connected().await.unwrap();
    let answer = spawn(client.room("r").publish("msg", "x").transient());
    let (id, publish) = connection.publish().await;
    assert_eq!((publish.delivery, publish.number), (i32::from(v1::Delivery::Transient), 0));
    connection.answer(id, Body::Published(v1::Published::default())).await;
    assert_eq!(soon(answer).await.unwrap().unwrap().seq, 0);
}

#[tokio::test]
async fn what_is_too_large_for_the_node_is_refused_before_it_is_sent() {
    // LC-HS-020, LC-WS-010
    let peer = Peer::listen().await;
    let client = peer.client();
    let room = client.room("r");
    let too_large = room.publish("msg", vec![0; 65 * 1024]).send().await.unwrap();
    let fits: Vec<_> = (0..20).map(|_| spawn(room.publish("msg", vec![0; 10 * 1024]))).collect();
    let (mut connection, _) = peer.welcome().await;
    assert_eq!(soon(too_large).await.unwrap_err().known_code(), Some(Code::MessageTooLarge));
    for _ in 0..20 {
        let (id, publish) = connection.publish().await;
        assert!(publish.envelope.len() < 20 * 1024);
        connection.answer(id, published(&publish)).await;
    }
    for answer in fits {
        soon(answer).await.unwrap().unwrap();
    }
    assert!(connection.largest <= 64 * 1024, "{}", connection.largest);
    let error = room.publish("msg", vec![0; 65 * 1024]).transient().await.unwrap_err();
    assert_eq!(error.known_code(), Some(Code::MessageTooLarge));
}

#[tokio::test]
async fn cancelled_reads_lose_nothing() {
    // Measured in bindings: a plain `next` under a time-out lost 25 of 20,000.
    const EVENTS: u64 = 20_000;
    let peer = Peer::listen().await;
    let client = peer.client();
    let mut subscription = client.room("r").subscribe().from_beginning().await.unwrap();
    let node = tokio::spawn(async move {
        let (mut connection, hello) = peer.welcome().await;
        let mut at = 0;
        let start = hello.subscriptions.first().cloned();
        if start.is_none() {
            connection.subscribe().await;
        }
        connection.send([Body::Subscribed(subscribed("r", normal(0), normal(EVENTS)))]).await;
        loop {
            while at < EVENTS {
                let batch = at + 1..=(at + 50).min(EVENTS);
                at = *batch.end();
                connection.send(batch.map(|seq| event(seq, "x"))).await;
                tokio::task::yield_now().await;
                if at % 500 == 0 {
                    // So that the reader runs dry now and then, and is cancelled while it waits.
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
            }
            // The reader may have been slow: then the client left, and comes back from where it was.
            let Some(frame) = connection.frame().await else { return };
            match frame.body {
                Some(Body::Unsubscribe(_)) => {
                    let done = v1::Unsubscribed { room: "r".into(), ..Default::default() };
                    connection.answer(frame.id, Body::Unsubscribed(done)).await;
                }
                Some(Body::Subscribe(subscribe)) => {
                    let Some(v1::start::At::Position(start)) = subscribe.start.unwrap().at else {
                        panic!("no position")
                    };
                    at = start.normal;
                    let answer = subscribed("r", normal(at), normal(EVENTS));
                    connection.answer(frame.id, Body::Subscribed(answer)).await;
                }
                other => panic!("unexpected {other:?}"),
            }
        }
    });
    let (mut next, mut cancelled) = (1, 0);
    while next <= EVENTS {
        let max = 1 + (next % 97) as usize;
        match tokio::time::timeout(Duration::from_millis(1), subscription.next_batch(max)).await {
            Err(_) => cancelled += 1,
            Ok(batch) => {
                assert!(!batch.is_empty() && batch.len() <= max);
                assert_eq!(subscription.position(), Some(normal(next - 1)), "unmoved until we ask again");
                for item in batch {
                    assert_eq!(item.unwrap().seq, next);
                    next += 1;
                }
            }
        }
    }
    assert!(cancelled > 0, "nothing was cancelled, so nothing was tested");
    subscription.acknowledge();
    assert_eq!(subscription.position(), Some(normal(EVENTS)));
    client.close().await;
    soon(node).await.unwrap();
}

#[tokio::test]
async fn after_a_cut_rooms_resume_and_publishes_are_sent_again() {
    // LC-SDK-001, LC-SDK-005, LC-PUB-027
    let peer = Peer::listen().await;
    let client = peer.client();
    let (mut connection, _) = peer.welcome().await;
    let mut subscription = client.room("r").subscribe().with_signals().await.unwrap();
    let (id, subscribe) = connection.subscribe().await;
    assert!(subscribe.signals && subscribe.start.is_none());
    connection.answer(id, Body::Subscribed(subscribed("r", normal(4), normal(4)))).await;
    soon(subscription.ready()).await.unwrap();
    assert_eq!(subscription.position(), Some(normal(4)));
    connection.send([event(5, "a"), event(6, "b")]).await;
    assert_eq!(soon(subscription.next()).await.unwrap().unwrap().text(), Some("a"));
    let receipts = [
        client.room("r").publish("msg", "1").send().await.unwrap(),
        client.room("r").publish("msg", "2").send().await.unwrap(),
    ];
    let (id, first) = connection.publish().await;
    connection.publish().await;
    connection.answer(id, published(&first)).await;
    let [first, second] = receipts;
    soon(first).await.unwrap();
    drop(connection);

    let (mut connection, hello) = peer.welcome().await;
    let start = hello.subscriptions[0].start.as_ref().unwrap();
    assert_eq!(start.at, Some(v1::start::At::Position(normal(6).into())), "from received, not from taken");
    let (id, again) = connection.publish().await;
    assert_eq!((again.number, again.after), (2, 0));
    connection.send([Body::Subscribed(subscribed("r", normal(5), normal(7))), event(6, "b"), event(7, "c")]).await;
    connection.answer(id, published(&again)).await;
    assert_eq!(soon(second).await.unwrap().seq, 2);
    let rest: Vec<_> = [soon(subscription.next()).await, soon(subscription.next()).await]
        .map(|item| item.unwrap().unwrap().text().unwrap().to_owned())
        .into();
    assert_eq!(rest, ["b", "c"], "what came twice is handed over once");
    let mut state = subscription.state();
    soon(state.wait_for(|state| *state == RoomState::Live { recovered: true })).await.unwrap();
}

#[tokio::test]
async fn gaps_come_in_their_place() {
    // LC-SDK-003, LC-SDK-007
    let peer = Peer::listen().await;
    let client = peer.client();
    let mut subscription = client.room("r").subscribe().from_position(normal(2)).await.unwrap();
    let (mut connection, hello) = peer.welcome().await;
    if hello.subscriptions.is_empty() {
        connection.subscribe().await;
    }
    let missed = v1::MissedTransients { knowledge: v1::MissedKnowledge::Count.into(), count: 4 };
    let answer = v1::Subscribed { missed_transients: Some(missed), ..subscribed("r", normal(2), normal(9)) };
    connection.send([Body::Subscribed(answer)]).await;
    let gap = v1::Gap { handle: HANDLE, lane: v1::Lane::Normal.into(), epoch: EPOCH, ..Default::default() };
    let trimmed = v1::Gap { from: 3, to: 8, cause: v1::GapCause::Trimmed.into(), ..gap };
    let dropped = v1::Gap { count: 2, cause: v1::GapCause::Dropped.into(), ..gap };
    connection.send([Body::Gap(trimmed), event(9, "x"), Body::Gap(dropped)]).await;
    let missed = soon(subscription.next()).await.unwrap().unwrap_err();
    assert_eq!((missed.cause, missed.count(), missed.lane()), (GapCause::Missed, Some(4), None));
    let trimmed = soon(subscription.next()).await.unwrap().unwrap_err();
    let range = Missing::Seqs { lane: Lane::Normal, epoch: EPOCH, from: 3, to: Some(8) };
    assert_eq!((trimmed.cause, trimmed.missing), (GapCause::Trimmed, range));
    assert_eq!(subscription.position(), Some(normal(2)));
    assert_eq!(soon(subscription.next()).await.unwrap().unwrap().seq, 9);
    assert_eq!(subscription.position(), Some(normal(8)));
    let dropped = soon(subscription.next()).await.unwrap().unwrap_err();
    assert_eq!((dropped.cause, dropped.count()), (GapCause::Dropped, Some(2)));
}

#[tokio::test]
async fn a_refused_token_is_asked_for_anew() {
    // LC-AUTH-022
    let peer = Peer::listen().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let client = Client::builder(&peer.url)
        .token_provider(move |request| {
            let number = count.fetch_add(1, Ordering::SeqCst);
            async move {
                assert_eq!(request.refused, (number > 0).then_some(4101));
                Ok::<_, std::io::Error>(format!("token {number}"))
            }
        })
        .connect()
        .unwrap();
    let (mut connection, hello) = peer.accept().await;
    assert_eq!(hello.token, "token 0");
    // It comes back in the instant in which it is sent away.
    let reconnect = Some(v1::ReconnectWindow { min_ms: 0, max_ms: 0 });
    connection.send([Body::Welcome(v1::Welcome { reconnect, ..welcome() })]).await;
    connection.close(Code::TokenExpired).await;
    let (connection, hello) = peer.welcome().await;
    assert_eq!(hello.token, "token 1");
    soon(client.connected()).await.unwrap();
    drop(connection);
    let (_connection, hello) = peer.welcome().await;
    assert_eq!(hello.token, "token 1", "one that works is kept");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_token_that_will_expire_is_renewed_on_its_connection() {
    // LC-SDK-019
    let peer = Peer::listen().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let client = Client::builder(&peer.url)
        .token_provider(move |request| {
            let number = count.fetch_add(1, Ordering::SeqCst);
            async move {
                assert_eq!(request.refused, (number == 2).then_some(4100));
                Ok::<_, std::io::Error>(format!("token {number}"))
            }
        })
        .connect()
        .unwrap();
    let (mut connection, hello) = peer.accept().await;
    assert!(hello.capabilities.contains(&v1::Capability::Refresh.into()));
    let expires = now_ms() + 4_000;
    let capabilities = vec![v1::Capability::Refresh.into()];
    let welcome = v1::Welcome { capabilities, token_expires_at_ms: expires, ..welcome() };
    connection.send([Body::Welcome(welcome)]).await;
    let (id, refresh) = connection.refresh().await;
    assert!(refresh.token == "token 1" && now_ms() < expires);
    let error = v1::Error { code: Code::BadToken.number().into(), ..Default::default() };
    connection.answer(id, Body::Error(error)).await;
    connection.heartbeat().await;
    // Asked for by the application, while the client would wait with it.
    client.refresh_token().await;
    let (id, refresh) = connection.refresh().await;
    assert_eq!(refresh.token, "token 2");
    connection.answer(id, Body::TokenRefreshed(v1::TokenRefreshed { expires_at_ms: 0 })).await;
    connection.heartbeat().await;
    drop(connection);
    let (_connection, hello) = peer.welcome().await;
    assert_eq!(hello.token, "token 2", "what the node took last");
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_fixed_token_is_not_repeated() {
    // LC-AUTH-022
    let peer = Peer::listen().await;
    let client = peer.client();
    let (mut connection, _) = peer.accept().await;
    connection.close(Code::BadToken).await;
    let error = soon(client.connected()).await.unwrap_err();
    assert_eq!(error.known_code(), Some(Code::BadToken));
    let error = client.room("r").publish("msg", "x").await.unwrap_err();
    assert_eq!(error.kind, PublishErrorKind::Closed);
}

#[tokio::test]
async fn who_is_replaced_stays_away() {
    // LC-LIFE-013
    let peer = Peer::listen().await;
    let client = peer.client();
    let mut subscription = client.room("r").subscribe().await.unwrap();
    let (mut connection, _) = peer.welcome().await;
    soon(client.connected()).await.unwrap();
    connection.close(Code::Replaced).await;
    let mut state = client.state();
    let closed = soon(state.wait_for(|state| matches!(state, ClientState::Closed(_)))).await.unwrap().clone();
    assert!(matches!(closed, ClientState::Closed(cause) if cause.known_code() == Some(Code::Replaced)));
    assert_eq!(soon(subscription.next()).await, None);
}

#[tokio::test]
async fn go_away_moves_the_client() {
    // LC-LIFE-022
    let (peer, other) = (Peer::listen().await, Peer::listen().await);
    let client = peer.client();
    let (mut connection, _) = peer.welcome().await;
    soon(client.connected()).await.unwrap();
    let subscription = client.room("r").subscribe().await.unwrap();
    let (id, _) = connection.subscribe().await;
    connection.answer(id, Body::Subscribed(subscribed("r", normal(4), normal(4)))).await;
    soon(subscription.ready()).await.unwrap();
    let address = other.url.strip_prefix("ws://").unwrap().to_owned();
    connection.send([Body::GoAway(v1::GoAway { retry_after_ms: 1, address, ..Default::default() })]).await;
    let (_second, hello) = other.welcome().await;
    let start = hello.subscriptions[0].start.as_ref().unwrap();
    assert_eq!(start.at, Some(v1::start::At::Position(normal(4).into())));
    assert_eq!(connection.closed().await, Some(Code::Normal.number()));
}

#[tokio::test]
async fn dropping_a_subscription_unsubscribes() {
    let peer = Peer::listen().await;
    let client = peer.client();
    let (mut connection, _) = peer.welcome().await;
    soon(client.connected()).await.unwrap();
    let room = client.room("r");
    let subscription = room.subscribe().await.unwrap();
    assert_eq!(room.subscribe().await.unwrap_err().kind, SubscribeErrorKind::AlreadySubscribed);
    assert_eq!(connection.subscribe().await.1.room, "r");
    drop(subscription);
    let (_, body) = connection.body().await;
    assert!(matches!(&body, Body::Unsubscribe(frame) if frame.room == "r"), "{body:?}");
    let mut again = room.subscribe().await.unwrap();
    let (id, _) = connection.subscribe().await;
    connection.answer(id, Body::Subscribed(subscribed("r", normal(4), normal(4)))).await;
    connection.send([event(5, "x")]).await;
    assert_eq!(soon(again.next()).await.unwrap().unwrap().seq, 5, "the end of the first is not that of the second");
}

#[tokio::test]
async fn a_refused_subscription_says_why() {
    let peer = Peer::listen().await;
    let client = peer.client();
    let (mut connection, _) = peer.welcome().await;
    soon(client.connected()).await.unwrap();
    let mut subscription = client.room("r").subscribe().await.unwrap();
    let (id, _) = connection.subscribe().await;
    connection.answer(id, Body::Error(v1::Error { code: Code::Forbidden.number().into(), ..Default::default() })).await;
    let error = soon(subscription.ready()).await.unwrap_err();
    assert_eq!((error.kind, error.known_code()), (SubscribeErrorKind::Refused, Some(Code::Forbidden)));
    assert_eq!(soon(subscription.next()).await, None);
}

#[tokio::test]
async fn a_slow_reader_costs_bounded_memory_and_loses_nothing() {
    // LC-SDK-015
    let peer = Peer::listen().await;
    let client = peer.client();
    let (mut connection, _) = peer.welcome().await;
    soon(client.connected()).await.unwrap();
    let mut subscription = client.room("r").subscribe().await.unwrap();
    let (id, _) = connection.subscribe().await;
    connection.answer(id, Body::Subscribed(subscribed("r", normal(0), normal(0)))).await;
    // One feed and one inbox; then the client leaves the room.
    let sent = 2000;
    connection.send((1..=sent).map(|seq| event(seq, "x"))).await;
    let (id, body) = connection.body().await;
    assert!(matches!(body, Body::Unsubscribe(_)), "{body:?}");
    connection.answer(id, Body::Unsubscribed(v1::Unsubscribed { room: "r".into(), ..Default::default() })).await;
    let reader = tokio::spawn(async move {
        for seq in 1..=sent + 10 {
            assert_eq!(subscription.next().await.unwrap().unwrap().seq, seq);
        }
    });
    let (id, subscribe) = connection.subscribe().await;
    let Some(v1::start::At::Position(start)) = subscribe.start.unwrap().at else { panic!("no position") };
    assert!((1024..=sent).contains(&start.normal), "{}", start.normal);
    connection.answer(id, Body::Subscribed(subscribed("r", normal(start.normal), normal(sent + 10)))).await;
    connection.send((start.normal + 1..=sent + 10).map(|seq| event(seq, "x"))).await;
    soon(reader).await.unwrap();
}

#[tokio::test]
async fn signals_go_out_newest_only_and_come_in_until_they_expire() {
    // LC-SIG-011, LC-FLOW-008
    let peer = Peer::listen().await;
    let client = peer.client();
    let room = client.room("r");
    for text in ["1", "2", "3"] {
        room.signal("cursor", "me", text).ttl(Duration::from_secs(5)).await.unwrap();
    }
    let mut signals = room.signals().await.unwrap();
    let (mut connection, _) = peer.accept().await;
    connection.send([Body::Welcome(welcome())]).await;
    let mut sent = None;
    while sent.is_none() {
        match connection.body().await {
            (_, Body::Signal(signal)) => sent = Some(signal),
            (id, Body::Subscribe(subscribe)) => {
                assert!(subscribe.signals);
                connection.answer(id, Body::Subscribed(subscribed("r", normal(0), normal(0)))).await;
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    let text = v1::envelope::Body::Text("3".into());
    let decoded: v1::Envelope = prost::Message::decode(sent.unwrap().envelope).unwrap();
    assert_eq!((decoded.key.as_str(), decoded.body), ("me", Some(text)));
    // Hello may have carried the subscription instead.
    connection.send([Body::Subscribed(subscribed("r", normal(0), normal(0)))]).await;
    let signal = |counter, expires_at_ms| {
        let from = Some(v1::Sender { user: "bob".into(), instance: "i".into(), ..Default::default() });
        let envelope = v1::Envelope { r#type: "typing".into(), key: "k".into(), ..Default::default() };
        let envelope = prost::Message::encode_to_vec(&envelope).into();
        Body::Signal(v1::Signal { handle: HANDLE, counter, expires_at_ms, from, envelope, ..Default::default() })
    };
    connection.send([event(1, "thrown away"), signal(2, now_ms() + 300), signal(1, now_ms() + 9000)]).await;
    let SignalChange::Live(live) = soon(signals.next()).await.unwrap() else { panic!("not live") };
    assert_eq!((live.from.user.as_str(), live.key.as_str()), ("bob", "k"));
    assert_eq!(signals.live(), [live]);
    let gone = soon(signals.next()).await.unwrap();
    assert!(matches!(gone, SignalChange::Gone { expired: true, .. }), "{gone:?}");
    drop(signals);
    let (_, body) = connection.body().await;
    assert!(matches!(body, Body::Unsubscribe(_)), "{body:?}");
}

#[tokio::test]
async fn signals_can_be_asked_for_beside_a_subscription() {
    let peer = Peer::listen().await;
    let client = peer.client();
    let (mut connection, _) = peer.welcome().await;
    soon(client.connected()).await.unwrap();
    let room = client.room("r");
    let mut subscription = room.subscribe().await.unwrap();
    let (id, subscribe) = connection.subscribe().await;
    assert!(!subscribe.signals);
    connection.answer(id, Body::Subscribed(subscribed("r", normal(4), normal(4)))).await;
    soon(subscription.ready()).await.unwrap();
    let signals = room.signals().await.unwrap();
    let (id, subscribe) = connection.subscribe().await;
    assert!(subscribe.signals);
    assert_eq!(subscribe.start.unwrap().at, Some(v1::start::At::Position(normal(4).into())));
    connection.answer(id, Body::Subscribed(subscribed("r", normal(4), normal(4)))).await;
    drop(signals);
    assert!(!connection.subscribe().await.1.signals);
    connection.send([event(5, "x")]).await;
    assert_eq!(soon(subscription.next()).await.unwrap().unwrap().seq, 5);
}

#[tokio::test]
async fn history_comes_page_by_page_over_a_lost_connection() {
    let peer = Peer::listen().await;
    let client = peer.client();
    let history = client.room("r").history().direction(Direction::Forward).page_size(2).lanes([Lane::Normal]);
    let pages = tokio::spawn(async move { history.into_stream().map(|page| page.unwrap()).collect::<Vec<_>>().await });
    let page = |seqs: [u64; 2], next: u64| {
        let event = |seq| {
            let (lane, envelope) = (v1::Lane::Normal.into(), envelope("msg", "x"));
            v1::Event { lane, seq, order: seq, epoch: EPOCH, envelope, ..Default::default() }
        };
        let next = (next > 0).then_some(v1::Cursor { epoch: EPOCH, order: next });
        let head = Some(normal(4).into());
        Body::HistoryPage(v1::HistoryPage { events: seqs.map(event).into(), next, head, ..Default::default() })
    };
    let (mut connection, _) = peer.welcome().await;
    let (_, body) = connection.body().await;
    assert!(matches!(body, Body::History(_)), "{body:?}");
    drop(connection);
    let (mut connection, _) = peer.welcome().await;
    for (seqs, next, cursor) in [([1, 2], 2, None), ([3, 4], 0, Some(2))] {
        let (id, Body::History(asked)) = connection.body().await else { panic!("not History") };
        assert_eq!((asked.cursor.map(|cursor| cursor.order), asked.limit), (cursor, 2));
        assert_eq!(asked.direction(), v1::HistoryDirection::Forward);
        connection.answer(id, page(seqs, next)).await;
    }
    let pages = soon(pages).await.unwrap();
    let seqs: Vec<_> = pages.iter().flat_map(|page| &page.events).map(|event| event.seq).collect();
    assert_eq!((seqs, pages[1].head), (vec![1, 2, 3, 4], Some(normal(4))));
}

#[tokio::test]
async fn typed_rooms_encode_and_decode() {
    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Message {
        text: String,
    }
    let peer = Peer::listen().await;
    let client = peer.client();
    let (mut connection, _) = peer.welcome().await;
    soon(client.connected()).await.unwrap();
    let room = client.room("r").typed(Json::<Message>::new());
    let mut subscription = room.read(room.room().subscribe().await.unwrap());
    let (id, _) = connection.subscribe().await;
    connection.answer(id, Body::Subscribed(subscribed("r", normal(0), normal(0)))).await;
    let answer = spawn(room.publish("msg", &Message { text: "hi".into() }).unwrap());
    let (id, publish) = connection.publish().await;
    connection.answer(id, published(&publish)).await;
    soon(answer).await.unwrap().unwrap();
    let echo =
        v1::Event { handle: HANDLE, lane: publish.lane, seq: 1, envelope: publish.envelope, ..Default::default() };
    connection.send([Body::Event(echo), event(2, "not json")]).await;
    let good = soon(subscription.next()).await.unwrap().unwrap();
    assert_eq!(
        (good.value.unwrap(), good.event.content_type.as_str()),
        (Message { text: "hi".into() }, "application/json")
    );
    assert!(soon(subscription.next()).await.unwrap().unwrap().value.is_err());
    let raw = client.room("r").typed(Raw);
    assert_eq!(raw.decode(&good.event).unwrap(), good.event.bytes());
}

#[tokio::test]
async fn only_our_subprotocol_is_spoken() {
    let peer = Peer::listen().await;
    let client = peer.client();
    let accepted = peer.accept_as(None).await;
    assert!(accepted.is_none(), "no Hello without the subprotocol");
    let mut state = client.state();
    soon(state.wait_for(|state| matches!(state, ClientState::Suspended(cause) if !cause.detail.is_empty())))
        .await
        .unwrap();
}

#[tokio::test]
async fn text_and_garbage_end_the_connection_and_not_the_client() {
    // LC-FRM-002, LC-WS-004
    let peer = Peer::listen().await;
    let client = peer.client();
    for (message, code) in [
        (Message::text("{}"), Code::TextFrame),
        (Message::binary(vec![0xff; 9]), Code::Protocol),
        (Message::binary(vec![0x0a, 0x02, 0xff, 0xff]), Code::Protocol),
    ] {
        let (mut connection, _) = peer.welcome().await;
        connection.raw(message).await;
        assert_eq!(connection.closed().await, Some(code.number()));
    }
    let (_connection, _) = peer.welcome().await;
    soon(client.connected()).await.unwrap();
}

#[tokio::test]
async fn the_nodes_clock_is_known() {
    let peer = Peer::listen().await;
    let client = peer.client();
    let (mut connection, _) = peer.accept().await;
    let hour_ms = 3_600_000;
    connection.send([Body::Welcome(v1::Welcome { server_time_ms: now_ms() + hour_ms, ..welcome() })]).await;
    soon(client.connected()).await.unwrap();
    // The owner stores the offset right after it told the state.
    soon(async {
        while client.node_time() < std::time::SystemTime::now() + Duration::from_millis(hour_ms - 5000) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn closing_leaves_no_task_and_dropping_neither() {
    let peer = Peer::listen().await;
    let metrics = tokio::runtime::Handle::current().metrics();
    assert_eq!(metrics.num_alive_tasks(), 0);
    let client = peer.client();
    let mut subscription = client.room("r").subscribe().await.unwrap();
    let unsettled = client.room("r").publish("msg", "x").send().await.unwrap();
    let (mut connection, _) = peer.welcome().await;
    soon(client.connected()).await.unwrap();
    let ((), code) = tokio::join!(client.close(), connection.closed());
    assert_eq!(code, Some(Code::Normal.number()));
    assert_eq!(metrics.num_alive_tasks(), 0);
    assert_eq!(soon(subscription.next()).await, None);
    assert_eq!(soon(unsettled).await.unwrap_err().kind, PublishErrorKind::Closed);
    assert_eq!(client.flush().await.unwrap_err().kind, lanecast::FlushErrorKind::Closed);
    assert!(matches!(*client.state().borrow(), ClientState::Closed(_)));

    let client = peer.client();
    let (mut connection, _) = peer.welcome().await;
    let subscription = client.room("r").subscribe().await.unwrap();
    drop(client);
    connection.subscribe().await;
    drop(subscription);
    assert_eq!(connection.closed().await, Some(Code::Normal.number()), "the last handle is gone");
    soon(async {
        while metrics.num_alive_tasks() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_rolled_back_log_revokes_and_goes_on() {
    // LC-RES-014, LC-SDK-006
    let peer = Peer::listen().await;
    let client = peer.client();
    let (mut connection, _) = peer.welcome().await;
    soon(client.connected()).await.unwrap();
    let mut subscription = client.room("r").subscribe().await.unwrap();
    let (id, _) = connection.subscribe().await;
    connection.answer(id, Body::Subscribed(subscribed("r", normal(4), normal(4)))).await;
    connection.send([event(5, "a"), event(6, "revoked")]).await;
    let lost = v1::Gap {
        lane: v1::Lane::Normal.into(),
        epoch: EPOCH,
        from: 6,
        to: 6,
        cause: v1::GapCause::RolledBack.into(),
        ..Default::default()
    };
    let after = Position { epoch: EPOCH + 1, normal: 5, ..Default::default() };
    let news = v1::Subscribed {
        handle: HANDLE + 1,
        cause: v1::SubscribedCause::Epoch.into(),
        rolled_back: vec![lost],
        ..subscribed("r", after, after)
    };
    let Body::Event(next) = event(6, "instead") else { unreachable!() };
    connection.send([Body::Subscribed(news), Body::Event(v1::Event { handle: HANDLE + 1, ..next })]).await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(match soon(subscription.next()).await.unwrap() {
            Ok(event) => format!("{} {}", event.epoch, event.text().unwrap()),
            Err(gap) => gap.to_string(),
        });
    }
    assert_eq!(seen, ["7 a", "7 revoked", "normal 6 to 6 of epoch 7 rolled back", "8 instead"]);
    assert_eq!(subscription.position(), Some(after));
}
