//! Three nodes on a real Redis.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lanecast_protocol::codes::Code;
use lanecast_protocol::v1;
use tokio::task::JoinHandle;

use super::{closed_with, connect, disconnect};
use crate::auth::TokenMark;
use crate::clock::Clock;
use crate::cluster::message::Deed;
use crate::cluster::revocations::to_wire;
use crate::cluster::{self, ask, join, retire, run};
use crate::config::Config;
use crate::engine::redis::tests::Server;
use crate::engine::{EngineSink, RedisEngine, RedisOptions, Revocation, Subject};
use crate::node::Node;

async fn start(options: &RedisOptions) -> (Arc<Node>, JoinHandle<()>) {
    let node = Arc::new(Node::without_engine(Config::default(), Clock::system()));
    let sink = Arc::clone(&node.hub) as Arc<dyn EngineSink>;
    let engine = RedisEngine::start(options.clone(), node.clock.clone(), sink).await.unwrap();
    node.hub.connect(Arc::new(engine));
    join(&node).await;
    let running = tokio::spawn(run(Arc::clone(&node)));
    (node, running)
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the time of a real Redis is real")]
async fn a_user_is_disconnected_on_three_nodes_within_a_second() {
    let options = Server::shared().options();
    let [(one, _), (two, _), (three, running)] = [start(&options).await, start(&options).await, start(&options).await];
    let (leases, complete) = cluster::nodes(&two).await;
    assert_eq!((leases.len(), complete), (3, true));

    let entries: Vec<_> = [&one, &two, &three].into_iter().map(|node| connect(node, "ann", "phone")).collect();
    let began = Instant::now();
    let gathered = ask(&one, None, disconnect("ann", "")).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!((gathered.connections(), gathered.answers.len(), gathered.complete), (3, 3, true));
    assert!(entries.iter().all(|entry| closed_with(entry) == Some(Code::Disconnected)));

    let drain = Deed::Drain(v1::DrainNodeRequest { node: two.id.to_string() });
    assert!(ask(&one, Some(&two.id), drain.into()).await.unwrap().complete);
    assert!(two.shutdown.is_draining() && !three.shutdown.is_draining());

    // One dies without a word, and is named while its lease lasts; when that has ended nobody waits for it.
    running.abort();
    let gathered = ask(&one, None, disconnect("ann", "")).await.unwrap();
    assert_eq!((gathered.missing.as_slice(), gathered.complete), ([three.id.to_string()].as_slice(), false));
    retire(&three).await;
    let gathered = ask(&one, None, disconnect("ann", "")).await.unwrap();
    assert_eq!((gathered.answers.len(), gathered.complete), (2, true));
}

#[tokio::test]
async fn a_revocation_holds_on_nodes_that_start_later_and_after_all_have_ended() {
    // LC-AUTH-003
    let options = Server::shared().options();
    let (one, running) = start(&options).await;
    let (two, _) = start(&options).await;
    let entry = connect(&two, "ann", "phone");
    let now_ms = one.clock.now_ms();
    let subject = Subject::Device("ann".into(), "phone".into());
    let change =
        Revocation { subject, issued_through_ms: now_ms, until_ms: now_ms + 60_000, changed_ms: 0, lifted: false };
    let kept = one.hub.engine().revoke(change).await.unwrap();
    assert!(ask(&one, None, Deed::Revoke(to_wire(&kept)).into()).await.unwrap().complete);
    assert_eq!(closed_with(&entry), Some(Code::TokenRevoked));
    running.abort();
    drop((one, two));
    let (three, _) = start(&options).await;
    let revoked = |node: &Node, device: &str| node.auth.is_revoked(&"ann".into(), device, &TokenMark::default());
    assert!(revoked(&three, "phone") && !revoked(&three, "tablet"));
    // The store loses everything: the node that knows hands it in, and the next one finds it.
    Server::shared().forget(&options).await;
    until(|| async { three.hub.engine().revocations(None).await.is_ok_and(|page| page.changes.len() == 1) }).await;
    let (four, _) = start(&options).await;
    assert!(revoked(&four, "phone"));
}

/// Waits until something is so, ten seconds at most.
async fn until<F: Future<Output = bool>>(holds: impl Fn() -> F) {
    for _ in 0..200 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it did not come about");
}
