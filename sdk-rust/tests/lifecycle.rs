//! A client whose application goes to the background and comes back, and whose positions outlive it.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lanecast::{Builder, Client, ClientState, ConnectErrorKind, Position, SubscribeErrorKind};
use lanecast_protocol::v1;
use lanecast_protocol::v1::frame::Body;
use lanecast_protocol::v1::start::At;
use tokio::time::Instant;

use self::support::{Connection, Peer, event, normal, published, soon, subscribed, welcome};

/// A folder of a test's own, removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("lanecast-life-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn positions(&self) -> PathBuf {
        self.0.join("positions")
    }

    fn builder(&self, peer: &Peer) -> Builder {
        Client::builder(&peer.url).token("secret").positions_file(self.positions())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A node that wants its clients to wait for long before they come back.
async fn welcome_patiently(peer: &Peer) -> Connection {
    let (mut connection, _) = peer.accept().await;
    let reconnect = Some(v1::ReconnectWindow { min_ms: 3_600_000, max_ms: 3_600_000 });
    connection.send([Body::Welcome(v1::Welcome { reconnect, ..welcome() })]).await;
    connection
}

async fn suspended(client: &Client) {
    soon(client.state().wait_for(|state| matches!(state, ClientState::Suspended(_)))).await.unwrap();
}

/// Whether nobody connects within half a second.
async fn nobody_connects(peer: &Peer) -> bool {
    tokio::time::timeout(Duration::from_millis(500), peer.tcp()).await.is_err()
}

async fn ping(connection: &mut Connection) -> u64 {
    match connection.body().await {
        (_, Body::Ping(ping)) => ping.stamp,
        other => panic!("not Ping: {other:?}"),
    }
}

#[tokio::test]
async fn the_foreground_connects_at_once() {
    // LC-SDK-022
    let peer = Peer::listen().await;
    let client = peer.client();
    let connection = welcome_patiently(&peer).await;
    soon(client.connected()).await.unwrap();
    drop(connection);
    suspended(&client).await;
    let began = Instant::now();
    client.entered_foreground().await;
    peer.welcome().await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn the_foreground_asks_the_connection_and_leaves_a_silent_one() {
    // LC-SDK-022, LC-LIFE-004
    let peer = Peer::listen().await;
    let client = peer.client();
    let mut connection = welcome_patiently(&peer).await;
    soon(client.connected()).await.unwrap();
    client.entered_foreground().await;
    let stamp = ping(&mut connection).await;
    connection.send([Body::Pong(v1::Pong { stamp, server_time_ms: 0 })]).await;
    assert!(nobody_connects(&peer).await, "it answered");

    let began = Instant::now();
    client.entered_foreground().await;
    ping(&mut connection).await;
    peer.welcome().await;
    let took = began.elapsed();
    assert!((Duration::from_millis(1_900)..Duration::from_millis(2_900)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn in_the_background_only_what_waits_connects() {
    // LC-SDK-023
    let peer = Peer::listen().await;
    let client = peer.client();
    let (mut connection, _) = peer.welcome().await;
    soon(client.connected()).await.unwrap();
    soon(client.entered_background()).await;
    connection.heartbeat().await;
    drop(connection);
    suspended(&client).await;
    // The node's window is 10 ms.
    assert!(nobody_connects(&peer).await);

    let receipt = client.room("r").publish("msg", "waits").send().await.unwrap();
    let (mut connection, _) = peer.welcome().await;
    let (id, publish) = connection.publish().await;
    connection.answer(id, published(&publish)).await;
    soon(receipt).await.unwrap();
    drop(connection);
    suspended(&client).await;
    assert!(nobody_connects(&peer).await, "nothing waits any more");

    client.entered_foreground().await;
    peer.welcome().await;
}

#[tokio::test]
async fn a_closed_client_takes_hints() {
    let peer = Peer::listen().await;
    let client = peer.client();
    peer.welcome().await;
    client.close().await;
    soon(client.entered_background()).await;
    soon(client.entered_foreground()).await;
    soon(client.network_changed()).await;
}

/// Where the client asks to begin in room `r`, and the subscription once the node began it there.
async fn begins(peer: &Peer, client: &Client, at: Position) -> (Option<At>, lanecast::Subscription, Connection) {
    let (mut connection, _) = peer.welcome().await;
    let subscription = client.room("r").subscribe().await.unwrap();
    let (id, subscribe) = connection.subscribe().await;
    connection.answer(id, Body::Subscribed(subscribed("r", at, normal(9)))).await;
    soon(subscription.ready()).await.unwrap();
    (subscribe.start.and_then(|start| start.at), subscription, connection)
}

#[tokio::test]
async fn a_subscription_goes_on_where_the_last_process_stopped() {
    // LC-SDK-005, LC-SDK-024, LC-RES-004
    let (peer, folder) = (Peer::listen().await, Folder::new());
    let client = folder.builder(&peer).connect().unwrap();
    let (live, mut subscription, mut connection) = begins(&peer, &client, normal(4)).await;
    assert_eq!(live, None);
    client.close().await;
    drop((subscription, connection));

    let client = folder.builder(&peer).connect().unwrap();
    let start;
    (start, subscription, connection) = begins(&peer, &client, normal(4)).await;
    assert_eq!(start, Some(At::Position(normal(4).into())), "where it began");
    connection.send([event(5, "a"), event(6, "b"), event(7, "c")]).await;
    assert_eq!(soon(subscription.next()).await.unwrap().unwrap().seq, 5);
    assert_eq!(soon(subscription.next()).await.unwrap().unwrap().seq, 6);
    // A process that is killed now: what the file has is what the next one gets.
    let killed = Folder::new();
    std::fs::copy(folder.positions(), killed.positions()).unwrap();
    soon(subscription.next()).await.unwrap().unwrap();
    subscription.acknowledge();
    assert_eq!(subscription.position(), Some(normal(7)));
    client.close().await;
    drop(connection);

    for (folder, at) in [(&killed, 5), (&folder, 7)] {
        let client = folder.builder(&peer).connect().unwrap();
        let (start, _subscription, _connection) = begins(&peer, &client, normal(at)).await;
        assert_eq!(start, Some(At::Position(normal(at).into())));
        client.close().await;
    }
}

#[tokio::test]
async fn a_start_that_is_named_wins_and_a_position_holds_within_a_life() {
    // LC-SDK-024
    let (peer, folder) = (Peer::listen().await, Folder::new());
    let client = folder.builder(&peer).connect().unwrap();
    let (_, mut subscription, mut connection) = begins(&peer, &client, normal(4)).await;
    connection.send([event(5, "a")]).await;
    soon(subscription.next()).await.unwrap().unwrap();
    subscription.acknowledge();
    drop(subscription);
    assert!(matches!(connection.body().await, (_, Body::Unsubscribe(_))));

    let subscription = client.room("r").subscribe().await.unwrap();
    let (_, subscribe) = connection.subscribe().await;
    assert_eq!(subscribe.start.unwrap().at, Some(At::Position(normal(5).into())));
    drop(subscription);
    assert!(matches!(connection.body().await, (_, Body::Unsubscribe(_))));

    let _subscription = client.room("r").subscribe().from_live().await.unwrap();
    let (_, subscribe) = connection.subscribe().await;
    assert_eq!(subscribe.start.unwrap().at, Some(At::Live(v1::StartLive {})));
}

#[tokio::test]
async fn what_is_acknowledged_is_on_the_disk_when_the_background_is_entered() {
    // LC-SDK-023, LC-SDK-024
    let (peer, folder) = (Peer::listen().await, Folder::new());
    let client = folder.builder(&peer).outbox_file(folder.0.join("outbox")).connect().unwrap();
    let (_, mut subscription, mut connection) = begins(&peer, &client, normal(4)).await;
    for seq in 5..8 {
        connection.send([event(seq, "a")]).await;
        soon(subscription.next()).await.unwrap().unwrap();
        subscription.acknowledge();
        soon(client.entered_background()).await;
        let killed = Folder::new();
        std::fs::copy(folder.positions(), killed.positions()).unwrap();
        let next = killed.builder(&peer).connect().unwrap();
        let (start, _subscription, _connection) = begins(&peer, &next, normal(seq)).await;
        assert_eq!(start, Some(At::Position(normal(seq).into())));
        next.close().await;
    }
}

#[tokio::test]
async fn a_file_is_for_one_client_and_damage_is_told() {
    // LC-SDK-024
    let (peer, folder) = (Peer::listen().await, Folder::new());
    let client = folder.builder(&peer).connect().unwrap();
    let error = folder.builder(&peer).connect().unwrap_err();
    assert_eq!((error.kind, error.retryable), (ConnectErrorKind::PositionsLocked, true));
    let (_, subscription, _connection) = begins(&peer, &client, normal(4)).await;
    client.close().await;
    drop(subscription);

    let mut bytes = std::fs::read(folder.positions()).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(folder.positions(), bytes).unwrap();
    let error = folder.builder(&peer).connect().unwrap_err();
    assert_eq!((error.kind, error.retryable), (ConnectErrorKind::PositionsDamaged, true));
    folder.builder(&peer).connect().unwrap().close().await;
}

#[tokio::test]
async fn a_refused_room_keeps_no_place() {
    let (peer, folder) = (Peer::listen().await, Folder::new());
    let client = folder.builder(&peer).connect().unwrap();
    let (mut connection, _) = peer.welcome().await;
    let subscription = client.room("r").subscribe().await.unwrap();
    let (id, _) = connection.subscribe().await;
    let code = lanecast::Code::Forbidden.number().into();
    connection.answer(id, Body::Error(v1::Error { code, room: "r".into(), ..Default::default() })).await;
    assert_eq!(soon(subscription.ready()).await.unwrap_err().kind, SubscribeErrorKind::Refused);
    client.close().await;
}
