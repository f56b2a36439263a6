//! What happens to a Redis while a node serves on it: nothing is lost, and the node says what it can and cannot do.

use crate::support::{Node, Redis, free_port};

/// Publishes, and says how it was answered.
fn publish(node: &Node, text: &str) -> (u16, u64, u32) {
    let answer = node.publish("r", text);
    (answer.status, answer.json["code"].as_u64().unwrap_or_default(), answer.retry_after)
}

const STORED: (u16, u64, u32) = (200, 0, 0);

#[test]
fn a_demoted_primary_is_left_alone_until_it_is_promoted() {
    let redis = Redis::start();
    let node = Node::on(&redis);
    let mut events = node.subscribe("r");
    assert_eq!(publish(&node, "before"), STORED);

    redis.command(&format!("REPLICAOF 127.0.0.1 {}", free_port()));
    // Nobody publishes: the node finds out by itself.
    node.becomes(200, "degraded");
    node.says("read-only replica");
    assert_eq!(publish(&node, "refused"), (503, 4401, 1));

    redis.command("REPLICAOF NO ONE");
    node.becomes(200, "ready");
    assert_eq!(publish(&node, "after"), STORED);
    assert_eq!(events.texts(2), ["before", "after"]);
    assert_eq!(node.history("r"), ["before", "after"]);
}

#[test]
fn a_full_memory_refuses_what_is_stored_and_nothing_else() {
    let redis = Redis::start();
    let node = Node::on(&redis);
    let mut events = node.subscribe("r");
    assert_eq!(publish(&node, "before"), STORED);
    assert_eq!(events.texts(1), ["before"]);

    redis.command("CONFIG SET maxmemory 1");
    assert_eq!(publish(&node, "refused"), (429, 4400, 5));
    node.says("OOM");
    assert_eq!(node.history("r"), ["before"]);
    assert_eq!(node.subscribe("r").texts(1), ["before"]);
    assert_eq!(node.readiness(), (200, "ready".to_owned()));

    // A node that starts now serves what it can.
    let second = Node::on(&redis);
    assert_eq!(second.history("r"), ["before"]);

    redis.command("CONFIG SET maxmemory 0");
    assert_eq!(publish(&node, "after"), STORED);
    assert_eq!(events.texts(1), ["after"]);
}

#[test]
fn flushed_scripts_are_loaded_again_unnoticed() {
    let redis = Redis::start();
    let node = Node::on(&redis);
    let mut events = node.subscribe("r");
    let texts: Vec<String> = (0..40).map(|number| format!("event {number}")).collect();
    for text in &texts {
        redis.command("SCRIPT FLUSH");
        assert_eq!(publish(&node, text), STORED);
    }
    redis.command("SCRIPT FLUSH");
    assert_eq!(node.history("r"), texts);
    assert_eq!(events.texts(texts.len()), texts);
    assert!(!node.log().contains("WARN"), "{}", node.log());
}

#[test]
fn a_redis_that_was_restarted_is_found_again() {
    let options = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut redis = Redis::with(&options);
    let node = Node::on(&redis);
    let mut events = node.subscribe("r");
    assert_eq!(publish(&node, "before"), STORED);
    redis.kill();
    node.becomes(200, "degraded");
    assert_eq!(publish(&node, "refused"), (503, 4401, 1));
    assert!(redis.run(&options));
    node.becomes(200, "ready");
    assert_eq!(publish(&node, "after"), STORED);
    assert_eq!(events.texts(2), ["before", "after"]);
}
