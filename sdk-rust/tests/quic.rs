//! The client over QUIC, against a node that says exactly what the test tells it to.

#![cfg(feature = "quic")]
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use lanecast::{Client, ClientState, Code, Lane, Position, SignalChange};
use lanecast_protocol::binding::Purpose;
use lanecast_protocol::lane::Lane as WireLane;
use lanecast_protocol::v1;
use lanecast_protocol::v1::frame::Body;
use prost::Message as _;

use self::support::quic::{QuicConnection, QuicPeer};
use self::support::relay::{Relay, Weather};
use self::support::{HANDLE, event, normal, now_ms, published, soon, subscribed};

fn urgent(seq: u64, text: &str) -> Body {
    let Body::Event(event) = event(seq, text) else { unreachable!() };
    Body::Event(v1::Event { lane: v1::Lane::Urgent.into(), ..event })
}

fn urgents(seq: u64) -> Position {
    Position { epoch: support::EPOCH, urgent: seq, ..Default::default() }
}

/// Takes Subscribe and answers it.
async fn take_subscribe(connection: &mut QuicConnection, position: Position, head: Position) {
    let (lane, id, body) = connection.body().await;
    assert!(matches!(body, Body::Subscribe(_)), "{body:?}");
    assert_eq!(lane, WireLane::Control);
    connection.answer(id, Body::Subscribed(subscribed("r", position, head))).await;
}

#[tokio::test]
async fn each_lane_has_its_stream_and_signals_are_datagrams() {
    // LC-QUIC-001, LC-QUIC-002, LC-QUIC-003, LC-QUIC-009
    let peer = QuicPeer::listen();
    let client = peer.builder().connect().unwrap();
    let (mut connection, hello) = peer.welcome().await;
    assert_eq!(hello.token, "secret");
    soon(client.connected()).await.unwrap();
    let room = client.room("r");
    let mut receipts = Vec::new();
    for (number, lane) in [(1, Lane::Normal), (2, Lane::Normal), (1, Lane::Urgent), (1, Lane::Bulk)] {
        receipts.push(room.publish("msg", "x").lane(lane).send().await.unwrap());
        let (came_on, id, publish) = connection.publish().await;
        assert_eq!((came_on, publish.number), (WireLane::from(lane), number), "the support checks lane and stream");
        connection.answer(id, published(&publish)).await;
    }
    for receipt in receipts {
        soon(receipt).await.unwrap();
    }
    room.signal("typing", "small", "x").await.unwrap();
    room.signal("typing", "large", "y".repeat(3000)).await.unwrap();
    for _ in 0..2 {
        let (lane, _, body) = connection.body().await;
        assert!(matches!(body, Body::Signal(_)) && lane == WireLane::Signal, "{body:?}");
    }
}

#[tokio::test]
async fn urgent_events_are_handed_over_as_they_arrive_and_the_rest_in_order() {
    // LC-QUIC-005, LC-QUIC-010, LC-SDK-001
    let peer = QuicPeer::listen();
    let client = peer.builder().connect().unwrap();
    let (mut connection, _) = peer.welcome().await;
    let mut subscription = client.room("r").subscribe().await.unwrap();
    // Before Subscribed: held until its handle is known.
    let header = Purpose::Message.header();
    connection.alone(&header, urgent(2, "second")).await.finish().unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    take_subscribe(&mut connection, Position { epoch: support::EPOCH, ..Default::default() }, urgents(0)).await;
    let first = soon(subscription.next()).await.unwrap().unwrap();
    assert_eq!((first.seq, first.text(), first.lane), (2, Some("second"), Lane::Urgent));
    connection.alone(&header, urgent(1, "first")).await.finish().unwrap();
    assert_eq!(soon(subscription.next()).await.unwrap().unwrap().seq, 1);
    connection.alone(&header, urgent(2, "again")).await.finish().unwrap();
    connection.send(WireLane::Normal, event(1, "a")).await;
    connection.send(WireLane::Normal, event(2, "b")).await;
    for seq in 1..=2 {
        let event = soon(subscription.next()).await.unwrap().unwrap();
        assert_eq!((event.seq, event.lane), (seq, Lane::Normal));
    }
}

#[tokio::test]
async fn a_stream_that_is_blocked_blocks_no_other() {
    // LC-QUIC-003
    let peer = QuicPeer::listen();
    let client = peer.builder().connect().unwrap();
    let (mut connection, _) = peer.welcome().await;
    let mut subscription = client.room("r").subscribe().await.unwrap();
    take_subscribe(&mut connection, normal(0), normal(0)).await;
    // A record of lane normal whose end does not come.
    let mut half = lanecast_protocol::codec::encode_body(0, event(1, "whole")).to_vec();
    let rest = half.split_off(7);
    let mut stream = connection.connection.open_uni().await.unwrap();
    stream.write_all(&Purpose::Lane(WireLane::Normal).header()).await.unwrap();
    stream.write_all(&half).await.unwrap();
    connection.alone(&Purpose::Message.header(), urgent(1, "urgent")).await.finish().unwrap();
    assert_eq!(soon(subscription.next()).await.unwrap().unwrap().text(), Some("urgent"));
    stream.write_all(&rest).await.unwrap();
    assert_eq!(soon(subscription.next()).await.unwrap().unwrap().text(), Some("whole"));
}

#[tokio::test]
async fn signals_come_by_datagram_and_by_stream() {
    // LC-QUIC-009
    let peer = QuicPeer::listen();
    let client = peer.builder().connect().unwrap();
    let (mut connection, _) = peer.welcome().await;
    let mut signals = client.room("r").signals().await.unwrap();
    take_subscribe(&mut connection, normal(0), normal(0)).await;
    let signal = |key: &str, counter| {
        let envelope = v1::Envelope {
            r#type: "typing".into(),
            key: key.into(),
            body: Some(v1::envelope::Body::Text("x".into())),
            ..Default::default()
        };
        Body::Signal(v1::Signal {
            handle: HANDLE,
            counter,
            from: Some(v1::Sender { user: "ann".into(), instance: "i".into(), ..Default::default() }),
            expires_at_ms: now_ms() + 60_000,
            envelope: envelope.encode_to_vec().into(),
            ..Default::default()
        })
    };
    let datagram = lanecast_protocol::codec::encode_body(0, signal("a", 1));
    connection.connection.send_datagram(datagram).unwrap();
    assert!(matches!(soon(signals.next()).await, Some(SignalChange::Live(_))));
    // One that was superseded before it came is no loss.
    let mut superseded = connection.connection.open_uni().await.unwrap();
    superseded.write_all(&Purpose::Signal.header()).await.unwrap();
    superseded.reset(quinn::VarInt::from_u32(0)).unwrap();
    connection.alone(&Purpose::Signal.header(), signal("b", 2)).await.finish().unwrap();
    assert!(matches!(soon(signals.next()).await, Some(SignalChange::Live(_))));
    assert_eq!(*client.state().borrow(), ClientState::Connected);
}

#[tokio::test]
async fn a_stream_of_an_unknown_kind_is_not_read() {
    // LC-QUIC-001
    let peer = QuicPeer::listen();
    let client = peer.builder().connect().unwrap();
    let (connection, _) = peer.welcome().await;
    let packet =
        v1::Packet { stream_header: Some(v1::StreamHeader { kind: 77, lane: 99, transfer: 0 }), ..Default::default() };
    let mut stream = connection.connection.open_uni().await.unwrap();
    stream.write_all(&packet.encode_to_vec()).await.unwrap();
    stream.write_all(&[0xff; 100]).await.unwrap();
    assert!(soon(stream.stopped()).await.unwrap().is_some());
    assert_eq!(*client.state().borrow(), ClientState::Connected);
}

#[tokio::test]
async fn a_stream_that_is_reset_is_forgotten_and_what_it_cut_is_asked_for() {
    // LC-QUIC-013, LC-SDK-002
    let peer = QuicPeer::listen();
    let client = peer.builder().connect().unwrap();
    let (mut connection, _) = peer.welcome().await;
    let mut subscription = client.room("r").subscribe().await.unwrap();
    take_subscribe(&mut connection, normal(0), normal(0)).await;
    let mut cut = connection.connection.open_uni().await.unwrap();
    cut.write_all(&Purpose::Lane(WireLane::Normal).header()).await.unwrap();
    cut.write_all(&lanecast_protocol::codec::encode_body(0, event(1, "a"))[..9]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    cut.reset(quinn::VarInt::from_u32(0)).unwrap();
    connection.send(WireLane::Normal, event(2, "b")).await;
    take_subscribe(&mut connection, normal(0), normal(2)).await;
    connection.send(WireLane::Normal, event(1, "a")).await;
    connection.send(WireLane::Normal, event(2, "b")).await;
    for seq in 1..=2 {
        assert_eq!(soon(subscription.next()).await.unwrap().unwrap().seq, seq);
    }
}

#[tokio::test]
async fn a_stream_that_ends_within_a_record_closes_the_connection() {
    // LC-QUIC-013
    let peer = QuicPeer::listen();
    let _client = peer.builder().connect().unwrap();
    let (connection, _) = peer.welcome().await;
    let mut stream = connection.connection.open_uni().await.unwrap();
    stream.write_all(&Purpose::Lane(WireLane::Normal).header()).await.unwrap();
    stream.write_all(&[0x0a, 9, 1]).await.unwrap();
    stream.finish().unwrap();
    assert_eq!(connection.closed().await, u64::from(Code::Protocol.number()));
}

#[tokio::test]
async fn a_frame_on_a_stream_of_another_lane_closes_the_connection() {
    // LC-QUIC-003
    let peer = QuicPeer::listen();
    let _client = peer.builder().connect().unwrap();
    let (mut connection, _) = peer.welcome().await;
    connection.send(WireLane::Bulk, event(1, "x")).await;
    assert_eq!(connection.closed().await, u64::from(Code::Protocol.number()));
}

#[tokio::test]
async fn codes_of_the_table_are_application_codes() {
    // LC-QUIC-006, LC-LIFE-013
    for told_first in [true, false] {
        let peer = QuicPeer::listen();
        let client = peer.builder().connect().unwrap();
        let (mut connection, _) = peer.welcome().await;
        soon(client.connected()).await.unwrap();
        let code = u32::from(Code::Disconnected.number());
        if told_first {
            connection.answer(0, Body::Error(v1::Error { code, closing: true, ..Default::default() })).await;
            assert_eq!(connection.closed().await, u64::from(code), "the node waits for the client to close");
        } else {
            connection.connection.close(code.into(), b"");
        }
        let mut state = client.state();
        let state = soon(state.wait_for(|state| matches!(state, ClientState::Closed(_)))).await.unwrap().clone();
        let ClientState::Closed(cause) = state else { unreachable!() };
        assert_eq!(cause.code, Some(code), "told first: {told_first}");
    }
}

#[tokio::test]
async fn closing_sends_what_was_handed_over_and_says_normal() {
    // LC-LIFE-013
    let peer = QuicPeer::listen();
    let client = peer.builder().connect().unwrap();
    let (mut connection, _) = peer.welcome().await;
    soon(client.connected()).await.unwrap();
    for _ in 0..20 {
        client.room("r").publish("msg", "x".repeat(5_000)).send().await.unwrap();
    }
    let closing = tokio::spawn(async move { client.close().await });
    let mut count = 0;
    while let Some((_, frame)) = connection.frame().await {
        count += usize::from(matches!(frame.body, Some(Body::Publish(_))));
    }
    assert!(count > 0, "what was taken before is sent");
    assert_eq!(connection.closed().await, u64::from(Code::Normal.number()));
    soon(closing).await.unwrap();
}

#[tokio::test]
async fn only_the_node_with_the_right_certificate_is_believed() {
    let peer = QuicPeer::listen();
    let wrong = Client::builder(format!("quic://{}", peer.address)).token("t").certificate_hash([7; 32]);
    let system = Client::builder(format!("quic://{}", peer.address)).token("t");
    for builder in [wrong, system] {
        let client = builder.connect().unwrap();
        let incoming = soon(peer.endpoint.accept()).await.unwrap();
        let error = soon(incoming.accept().unwrap()).await.unwrap_err();
        assert!(error.to_string().contains("certificate"), "{error}");
        client.close().await;
    }
    let root = Client::builder(format!("quic://localhost:{}", peer.address.port())).token("t");
    let client = root.extra_root(peer.certificate.pem()).connect().unwrap();
    let (_connection, _) = peer.welcome().await;
    soon(client.connected()).await.unwrap();
}

/// A client of a node behind a relay, connected and subscribed.
async fn behind(relay: &Relay, peer: &QuicPeer) -> (Client, lanecast::Subscription, QuicConnection) {
    let client = peer.builder_at(relay.address).connect().unwrap();
    let (mut connection, _) = peer.welcome().await;
    let subscription = client.room("r").subscribe().await.unwrap();
    take_subscribe(&mut connection, normal(0), normal(0)).await;
    soon(client.connected()).await.unwrap();
    (client, subscription, connection)
}

/// The next urgent publish with that number; copies of earlier ones may come late.
async fn numbered(connection: &mut QuicConnection, number: u64) -> (u32, v1::Publish) {
    loop {
        let (lane, id, publish) = connection.publish().await;
        assert_eq!(lane, WireLane::Urgent);
        if publish.number == number {
            return (id, publish);
        }
    }
}

#[tokio::test]
async fn an_urgent_publish_that_may_be_lost_goes_again_beside_it() {
    // LC-QUIC-015
    let peer = QuicPeer::listen();
    let weather = Weather { delay_ms: 10..=10, ..Weather::fine() };
    let relay = Relay::new(peer.address, weather, 1, || {}).await;
    let (client, _subscription, mut connection) = behind(&relay, &peer).await;
    let room = client.room("r");
    for number in 1..=100 {
        relay.lose_next();
        let receipt = room.publish("msg", "x").lane(Lane::Urgent).send().await.unwrap();
        let (id, publish) = numbered(&mut connection, number).await;
        // It is not answered. On a path of which no loss is known yet it goes only once.
        let copy = tokio::time::timeout(Duration::from_millis(200), numbered(&mut connection, number)).await;
        let Ok((copy_id, copy)) = copy else {
            connection.answer(id, published(&publish)).await;
            soon(receipt).await.unwrap();
            continue;
        };
        assert_eq!((copy.after, &copy.envelope), (0, &publish.envelope));
        assert_ne!(copy_id, id, "LC-FRM-016");
        assert!(connection.messages() >= 1, "on a stream of its own");
        connection.answer(copy_id, published(&copy)).await;
        soon(receipt).await.unwrap();
        connection.answer(id, published(&publish)).await;
        let receipt = room.publish("msg", "y").lane(Lane::Urgent).send().await.unwrap();
        let (id, next) = numbered(&mut connection, number + 1).await;
        assert_eq!(next.after, 0);
        connection.answer(id, published(&next)).await;
        return soon(receipt).await.map(drop).unwrap();
    }
    panic!("nothing was copied");
}

#[tokio::test]
async fn a_router_that_forgets_the_port_breaks_nothing() {
    // LC-QUIC-012
    let peer = QuicPeer::listen();
    let relay = Relay::new(peer.address, Weather::fine(), 1, || {}).await;
    let (client, mut subscription, mut connection) = behind(&relay, &peer).await;
    relay.change_ports();
    // The node learns the new port from the next packet.
    let receipt = client.room("r").publish("msg", "x").send().await.unwrap();
    let (_, id, publish) = connection.publish().await;
    connection.answer(id, published(&publish)).await;
    soon(receipt).await.unwrap();
    connection.send(WireLane::Normal, event(1, "a")).await;
    assert_eq!(soon(subscription.next()).await.unwrap().unwrap().seq, 1);
}

#[tokio::test]
async fn a_hint_moves_the_connection_to_another_socket() {
    // LC-QUIC-012
    let peer = QuicPeer::listen();
    let relay = Relay::new(peer.address, Weather::fine(), 1, || {}).await;
    let (client, mut subscription, mut connection) = behind(&relay, &peer).await;
    relay.cut();
    client.network_changed().await;
    let (_, id, body) = connection.body().await;
    let Body::Ping(ping) = body else { panic!("not Ping: {body:?}") };
    connection.answer(id, Body::Pong(v1::Pong { stamp: ping.stamp, server_time_ms: now_ms() })).await;
    connection.send(WireLane::Normal, event(1, "a")).await;
    assert_eq!(soon(subscription.next()).await.unwrap().unwrap().seq, 1);
    assert_eq!(*client.state().borrow(), ClientState::Connected);
}

/// The path is dead; within 3 s the client is there again and goes on where it was.
async fn comes_back(hint: bool) {
    let peer = QuicPeer::listen();
    let relay = Relay::new(peer.address, Weather::fine(), 1, || {}).await;
    let (client, mut subscription, mut connection) = behind(&relay, &peer).await;
    connection.send(WireLane::Normal, event(1, "a")).await;
    assert_eq!(soon(subscription.next()).await.unwrap().unwrap().seq, 1);
    // Not only this address is unknown now: the node is another one, to which no connection can move.
    relay.cut_strictly();
    let began = std::time::Instant::now();
    match hint {
        true => client.network_changed().await,
        false => drop(client.room("r").publish("msg", "x").send().await.unwrap()),
    }
    let (mut connection, hello) = peer.welcome().await;
    let start = hello.subscriptions[0].start.clone().unwrap().at.unwrap();
    let v1::start::At::Position(position) = start else { panic!("{start:?}") };
    assert_eq!(position.normal, 1, "it goes on where it was");
    connection.answer(0, Body::Subscribed(subscribed("r", normal(1), normal(2)))).await;
    connection.send(WireLane::Normal, event(2, "b")).await;
    assert_eq!(soon(subscription.next()).await.unwrap().unwrap().seq, 2);
    let took = began.elapsed();
    println!("current again after {took:?}, hint {hint}");
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test]
async fn a_path_that_a_hint_cannot_move_is_left_within_three_seconds() {
    // LC-QUIC-012
    comes_back(true).await;
}

#[tokio::test]
async fn a_dead_path_is_noticed_without_a_hint() {
    // LC-QUIC-012
    comes_back(false).await;
}

#[tokio::test]
async fn an_idle_connection_on_a_slow_and_lossy_path_is_left_alone() {
    let peer = QuicPeer::listen();
    let weather = Weather { loss: 0.1, delay_ms: 200..=400, cuts: Vec::new() };
    let relay = Relay::new(peer.address, weather, 3, || {}).await;
    let (client, mut subscription, mut connection) = behind(&relay, &peer).await;
    let mut state = client.state();
    state.mark_unchanged();
    for seq in 1..=10 {
        connection.send(WireLane::Normal, event(seq, "a")).await;
        assert_eq!(soon(subscription.next()).await.unwrap().unwrap().seq, seq);
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!state.has_changed().unwrap(), "{:?}", state.borrow());
}
