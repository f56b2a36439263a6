//! Three nodes on a real Redis.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lanecast_protocol::codes::Code;
use lanecast_protocol::v1;
use tokio::task::JoinHandle;

use super::{closed_with, connect, disconnect};
use crate::clock::Clock;
use crate::cluster::message::Deed;
use crate::cluster::{self, ask, join, retire, run};
use crate::config::Config;
use crate::engine::redis::tests::Server;
use crate::engine::{EngineSink, RedisEngine, RedisOptions};
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
