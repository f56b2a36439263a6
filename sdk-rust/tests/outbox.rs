//! The outbox file, against a node that says exactly what the test tells it to.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lanecast::{Builder, Client, ClientState, ConnectErrorKind, Lane, OutboxSync, Outcome, PublishErrorKind};
use lanecast_protocol::codes::Code;
use lanecast_protocol::v1;
use lanecast_protocol::v1::frame::Body;

use self::support::{Connection, Peer, published, soon, welcome};

/// A folder of a test's own, removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("lanecast-sdk-outbox-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("outbox")
    }

    fn builder(&self, peer: &Peer) -> Builder {
        Client::builder(&peer.url).token("secret").outbox_file(self.file())
    }

    fn client(&self, peer: &Peer) -> Client {
        self.builder(peer).connect().unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn welcome_with(peer: &Peer, change: impl FnOnce(&mut v1::Welcome)) -> (Connection, v1::Hello) {
    let (mut connection, hello) = peer.accept().await;
    let mut welcome = welcome();
    change(&mut welcome);
    connection.send([Body::Welcome(welcome)]).await;
    (connection, hello)
}

fn error(code: Code) -> Body {
    Body::Error(v1::Error { code: code.number().into(), detail: "says the test".into(), ..Default::default() })
}

/// What identifies a publish on the wire.
fn numbers(publish: &v1::Publish) -> (i32, u64, u64) {
    (publish.lane, publish.number, publish.after)
}

/// A publish without what differs when it is sent again: what is left of its time, and when it was asked for.
fn lasting(publish: &v1::Publish) -> v1::Publish {
    v1::Publish { ttl_ms: publish.ttl_ms.min(1), asked_at_ms: 0, ..publish.clone() }
}

async fn next(connection: &mut Connection, count: usize) -> Vec<v1::Publish> {
    let mut publishes = Vec::new();
    for _ in 0..count {
        publishes.push(connection.publish().await.1);
    }
    publishes
}

#[tokio::test]
async fn the_next_process_sends_the_same_again_under_the_same_numbers() {
    // LC-SDK-016, LC-PUB-026, LC-PUB-027, LC-HS-021, LC-SIG-012
    let (folder, peer) = (Folder::new(), Peer::listen().await);
    let client = folder.client(&peer);
    assert!(client.outbox().has_file() && client.outbox().restored() == 0);
    assert_eq!(soon(client.outbox().outcomes().unwrap().next()).await, None);
    let room = client.room("r");
    for (lane, text) in [(Lane::Normal, "1"), (Lane::Normal, "2"), (Lane::Urgent, "3")] {
        soon(room.publish("msg", text).key(text).lane(lane).ttl(Duration::from_secs(60)).send()).await.unwrap();
    }
    soon(room.publish("msg", "4").replicated().send()).await.unwrap();
    assert_eq!(*client.outbox().pending().borrow(), 4);
    let serves = [v1::Capability::Replicated.into(), v1::Capability::Signals.into()];
    let replicates = |welcome: &mut v1::Welcome| welcome.capabilities = serves.to_vec();
    let (mut connection, hello) = welcome_with(&peer, replicates).await;
    let instance = hello.instance;
    let sent = next(&mut connection, 4).await;
    let (urgent, normal) = (v1::Lane::Urgent.into(), v1::Lane::Normal.into());
    assert_eq!(
        sent.iter().map(numbers).collect::<Vec<_>>(),
        [(urgent, 1, 0), (normal, 1, 0), (normal, 2, 1), (normal, 3, 2)]
    );
    let (lives, lasts) = (&sent[..3], &sent[3]);
    assert!(lives.iter().all(|publish| (50_000..=60_000).contains(&publish.ttl_ms)) && lasts.ttl_ms == 0);
    assert!(sent.iter().all(|publish| publish.asked_at_ms > 0));
    assert_eq!(sent[3].ack(), v1::AckLevel::Replicated);
    room.signal("typing", "me", "").await.unwrap();
    let Body::Signal(signal) = connection.body().await.1 else { panic!("no signal") };
    assert_eq!((signal.start, signal.counter), (1, 1));
    // Not one answer came.
    soon(client.close()).await;

    let client = folder.client(&peer);
    assert_eq!((client.outbox().restored(), *client.outbox().pending().borrow()), (4, 4));
    let mut outcomes = client.outbox().outcomes().unwrap();
    assert!(client.outbox().outcomes().is_none());
    let receipt = soon(client.room("r").publish("msg", "5").send()).await.unwrap();
    client.room("r").signal("typing", "me", "").await.unwrap();
    let (mut connection, hello) = welcome_with(&peer, replicates).await;
    assert_eq!(hello.instance, instance);
    let mut again = Vec::new();
    while again.len() < 4 {
        match connection.body().await {
            (id, Body::Publish(publish)) => again.push((id, publish)),
            (_, Body::Signal(signal)) => assert_eq!((signal.start, signal.counter), (2, 1)),
            (_, other) => panic!("{other:?}"),
        }
    }
    let (sent, again_sent): (Vec<_>, Vec<_>) =
        sent.iter().zip(&again).map(|(one, (_, two))| (lasting(one), lasting(two))).unzip();
    assert_eq!(again_sent, sent);
    let (_, new) = loop {
        // The signal may come here too.
        if let (id, Body::Publish(publish)) = connection.body().await {
            again.push((id, publish.clone()));
            break (id, publish);
        }
    };
    assert_eq!((new.lane, new.after), (normal, 3));
    assert!(new.number > 3);
    for (id, publish) in &again {
        connection.answer(*id, published(publish)).await;
    }
    for (text, number) in [("3", 1), ("1", 1), ("2", 2), ("4", 3)] {
        let Outcome { room, r#type, body, result, .. } = soon(outcomes.next()).await.unwrap();
        assert_eq!((room.as_str(), r#type.as_str(), body.as_text()), ("r", "msg", Some(text)));
        assert_eq!(result.unwrap().seq, number);
    }
    assert_eq!(soon(outcomes.next()).await, None);
    assert_eq!(soon(receipt).await.unwrap().seq, new.number);
    soon(client.outbox().pending().wait_for(|pending| *pending == 0)).await.unwrap();
    soon(client.close()).await;

    let client = folder.client(&peer);
    assert_eq!(client.outbox().restored(), 0, "what is stored is gone from the file");
}

#[tokio::test]
async fn what_was_refused_or_given_up_is_not_sent_again() {
    // LC-SDK-016
    let (folder, peer) = (Folder::new(), Peer::listen().await);
    let client = folder.builder(&peer).outbox_sync(OutboxSync::Disk).connect().unwrap();
    let room = client.room("r");
    let refused = soon(room.publish("msg", "1").send()).await.unwrap();
    soon(room.publish("msg", "2").send()).await.unwrap();
    let late = soon(room.publish("msg", "3").lane(Lane::Bulk).outbox_ttl(Duration::ZERO).send()).await.unwrap();
    assert_eq!(soon(late).await.unwrap_err().kind, PublishErrorKind::GivenUp);
    let (mut connection, _) = peer.welcome().await;
    let (id, _) = connection.publish().await;
    let (later, _) = connection.publish().await;
    connection.answer(id, error(Code::Forbidden)).await;
    connection.answer(later, error(Code::OutOfOrder)).await;
    assert_eq!(soon(refused).await.unwrap_err().known_code(), Some(Code::Forbidden));
    let (_, second) = connection.publish().await;
    assert_eq!((second.number, second.after), (2, 0));
    soon(client.close()).await;

    let client = folder.client(&peer);
    assert_eq!(client.outbox().restored(), 1);
    let (mut connection, _) = peer.welcome().await;
    assert_eq!(lasting(&connection.publish().await.1), lasting(&second));
}

#[tokio::test]
async fn what_is_too_old_is_reported_and_not_sent() {
    // LC-SDK-010
    let (folder, peer, nobody) = (Folder::new(), Peer::listen().await, Peer::listen().await);
    let client = folder.client(&nobody);
    let (room, soon_over) = (client.room("r"), Duration::from_millis(300));
    soon(room.publish("msg", "old").key("k").outbox_ttl(soon_over).send()).await.unwrap();
    soon(room.publish("msg", "young").send()).await.unwrap();
    soon(client.close()).await;
    // The time that it may wait passes while no process looks after it.
    tokio::time::sleep(soon_over).await;
    let client = folder.client(&peer);
    let outcome = soon(client.outbox().outcomes().unwrap().next()).await.unwrap();
    assert_eq!((outcome.key.as_str(), outcome.body.as_text()), ("k", Some("old")));
    assert_eq!(outcome.result.unwrap_err().kind, PublishErrorKind::GivenUp);
    let (mut connection, _) = peer.welcome().await;
    let (_, publish) = connection.publish().await;
    assert_eq!((publish.number, publish.after), (2, 0));
}

#[tokio::test]
async fn a_full_outbox_refuses_the_newest() {
    // LC-SDK-011
    let (folder, peer, nobody) = (Folder::new(), Peer::listen().await, Peer::listen().await);
    let client = folder.builder(&nobody).outbox(2, 1000).connect().unwrap();
    let room = client.room("r");
    for text in ["1", "2"] {
        soon(room.publish("msg", text).send()).await.unwrap();
    }
    let error = soon(room.publish("msg", "3").send()).await.unwrap_err();
    assert_eq!((error.kind, error.retryable), (PublishErrorKind::OutboxFull, true));
    soon(client.close()).await;
    let client = folder.builder(&peer).outbox(1, 1000).connect().unwrap();
    assert_eq!(client.outbox().restored(), 2, "what it took it keeps");
    let error = soon(client.room("r").publish("msg", "3").send()).await.unwrap_err();
    assert_eq!(error.kind, PublishErrorKind::OutboxFull);
    let (mut connection, _) = peer.welcome().await;
    assert_eq!(next(&mut connection, 2).await.iter().map(|publish| publish.number).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn one_client_at_a_time_has_the_file() {
    // LC-HS-021
    let (folder, peer) = (Folder::new(), Peer::listen().await);
    let client = folder.client(&peer);
    let error = folder.builder(&peer).connect().unwrap_err();
    assert_eq!((error.kind, error.retryable), (ConnectErrorKind::OutboxLocked, true));
    soon(client.close()).await;
    folder.client(&peer);
}

#[tokio::test]
async fn a_damaged_file_is_an_error_once_and_then_goes_on() {
    // LC-SDK-018
    let (folder, peer, nobody) = (Folder::new(), Peer::listen().await, Peer::listen().await);
    let client = folder.client(&nobody);
    for text in ["first", "second", "third"] {
        soon(client.room("r").publish("msg", text).send()).await.unwrap();
    }
    soon(client.close()).await;
    let mut bytes = std::fs::read(folder.file()).unwrap();
    let at = bytes.windows(6).position(|window| window == b"second").unwrap();
    bytes[at] = b'S';
    std::fs::write(folder.file(), &bytes).unwrap();
    let error = folder.builder(&peer).connect().unwrap_err();
    assert_eq!((error.kind, error.retryable), (ConnectErrorKind::OutboxDamaged, true));
    assert!(error.to_string().contains("2 unsettled publishes are intact"), "{error}");
    let _client = folder.client(&peer);
    let (mut connection, _) = peer.welcome().await;
    let again = next(&mut connection, 2).await;
    assert_eq!(again.iter().map(|publish| (publish.number, publish.after)).collect::<Vec<_>>(), [(1, 0), (3, 1)]);
}

#[tokio::test]
async fn nobody_publishes_what_another_user_queued() {
    // LC-SDK-017
    let (folder, peer) = (Folder::new(), Peer::listen().await);
    let user = |name: &'static str| move |welcome: &mut v1::Welcome| welcome.user = name.into();
    let client = folder.client(&peer);
    let (mut connection, _) = welcome_with(&peer, user("ann")).await;
    soon(client.connected()).await.unwrap();
    soon(client.room("r").publish("msg", "from ann").send()).await.unwrap();
    connection.publish().await;
    soon(client.close()).await;

    let client = folder.client(&peer);
    let (mut connection, _) = welcome_with(&peer, user("bob")).await;
    assert_eq!(connection.closed().await, Some(Code::Normal.number()), "and no publish before");
    let error = soon(client.connected()).await.unwrap_err();
    assert_eq!(error.known_code(), Some(Code::UserMismatch));
    soon(client.close()).await;

    let client = folder.client(&peer);
    let (mut connection, _) = welcome_with(&peer, user("ann")).await;
    let (id, publish) = connection.publish().await;
    connection.answer(id, published(&publish)).await;
    soon(client.flush()).await.unwrap();
    soon(client.close()).await;

    // With nothing left of hers it may be anyone's, and what bob queued before he connected is his.
    let client = folder.client(&peer);
    soon(client.room("r").publish("msg", "from bob").send()).await.unwrap();
    let (mut connection, _) = welcome_with(&peer, user("bob")).await;
    connection.publish().await;
}

#[tokio::test]
async fn a_node_without_replicas_refuses_what_asks_for_them() {
    // LC-PUB-031, LC-HS-020
    let peer = Peer::listen().await;
    let client = peer.client();
    let room = client.room("r");
    let asks = soon(room.publish("msg", "1").replicated().send()).await.unwrap();
    let (mut connection, _) = peer.welcome().await;
    let error = soon(asks).await.unwrap_err();
    assert_eq!(
        (error.kind, error.known_code(), error.retryable),
        (PublishErrorKind::Refused, Some(Code::Unimplemented), false)
    );
    soon(room.publish("msg", "2").send()).await.unwrap();
    let (_, publish) = connection.publish().await;
    assert_eq!((publish.number, publish.after), (2, 0), "the first was not sent");
}

#[tokio::test]
async fn a_replica_that_is_late_means_the_same_number_again() {
    // LC-PUB-030
    let peer = Peer::listen().await;
    let client = peer.client();
    let receipt = soon(client.room("r").publish("msg", "1").replicated().send()).await.unwrap();
    let serves = [v1::Capability::Replicated.into(), v1::Capability::Signals.into()];
    let replicates = |welcome: &mut v1::Welcome| welcome.capabilities = serves.to_vec();
    let (mut connection, hello) = welcome_with(&peer, replicates).await;
    assert!(hello.capabilities.contains(&v1::Capability::Replicated.into()));
    let (id, first) = connection.publish().await;
    assert_eq!(first.ack(), v1::AckLevel::Replicated);
    connection.answer(id, error(Code::Unavailable)).await;
    let (id, second) = connection.publish().await;
    assert_eq!(lasting(&second), lasting(&first));
    connection.answer(id, published(&second)).await;
    assert_eq!(soon(receipt).await.unwrap().seq, 1);
}

#[tokio::test]
async fn what_the_file_does_not_take_is_not_queued() {
    let (folder, nobody) = (Folder::new(), Peer::listen().await);
    let client = folder.client(&nobody);
    let room = client.room("r");
    // A folder in the way of the new file: the old one cannot be rewritten, and grows up to its bound.
    let in_the_way = folder.0.join("outbox.new");
    std::fs::create_dir(&in_the_way).unwrap();
    let mut taken = 0;
    let error = loop {
        let publish = room.publish("msg", vec![0; 200_000]).outbox_ttl(Duration::from_millis(10));
        match soon(publish.send()).await {
            Ok(receipt) => assert_eq!(soon(receipt).await.unwrap_err().kind, PublishErrorKind::GivenUp),
            Err(error) => break error,
        }
        taken += 1;
        assert!(taken < 100);
    };
    assert_eq!((error.kind, error.retryable), (PublishErrorKind::NotKept, true));
    assert_eq!(*client.outbox().pending().borrow(), 0);
    std::fs::remove_dir(in_the_way).unwrap();
    soon(room.publish("msg", "small").send()).await.unwrap();
    soon(client.close()).await;
    assert_eq!(folder.client(&nobody).outbox().restored(), 1);
}

#[tokio::test]
async fn a_client_that_ends_answers_whoever_waits_for_the_file() {
    let (folder, nobody) = (Folder::new(), Peer::listen().await);
    let client = folder.client(&nobody);
    let sends: Vec<_> = (0..50)
        .map(|number| {
            let publish = client.room("r").publish("msg", number.to_string());
            tokio::spawn(async move { publish.send().await.map(drop) })
        })
        .collect();
    soon(client.close()).await;
    assert!(matches!(*client.state().borrow(), ClientState::Closed(_)));
    let mut queued = 0;
    for send in sends {
        match soon(send).await.unwrap() {
            Ok(()) => queued += 1,
            Err(error) => assert_eq!(error.kind, PublishErrorKind::Closed),
        }
    }
    assert_eq!(folder.client(&nobody).outbox().restored(), queued, "queued is what the next process finds");
}
