//! What a node finds at its start: it ends with a sentence, or waits and says for what, or warns.

use crate::fake;
use crate::support::{Directory, Node, Redis, free_port};

/// The node ends with a failure, and its last line says all of this.
fn assert_refused(arguments: &[&str], words: &[&str]) {
    let (code, log) = Node::refused(arguments);
    assert_eq!(code, Some(1), "{log}");
    let last = log.lines().last().unwrap_or_default();
    for word in words {
        assert!(last.contains(word), "{word:?} is not in:\n{last}");
    }
}

#[test]
fn a_wrong_address_is_refused() {
    for (url, word) in [
        ("redis:/nowhere", "redis.url is not redis://user:password@host:port"),
        ("http://127.0.0.1:6379", "redis.url is not redis://user:password@host:port"),
        ("redis+unix:///tmp/redis.sock", "must begin with redis://"),
    ] {
        assert_refused(&["--redis", url], &[word]);
    }
}

#[test]
fn a_redis_that_is_away_is_waited_for() {
    let port = free_port();
    let node = Node::start(&["--redis", &format!("redis://127.0.0.1:{port}")]);
    node.says("it cannot be reached");
    assert_eq!(node.readiness(), (503, "starting".to_owned()));
    assert_eq!(node.get("/healthz").status, 200);
    let refused = node.publish("r", "too early");
    assert_eq!((refused.status, refused.retry_after), (503, 1));

    let _redis = Redis::at(port, &["--requirepass", "late"]);
    node.says("user name or password are wrong");
    drop(_redis);
    let redis = Redis::at(port, &[]);
    node.becomes(200, "ready");
    assert_eq!(node.publish("r", "hello").status, 200);
    assert_eq!(node.history("r"), ["hello"]);
    drop(redis);
}

#[test]
fn a_wrong_password_is_refused() {
    let redis = Redis::with(&["--requirepass", "right"]);
    let words = ["user name or password are wrong", "…@127.0.0.1"];
    assert_refused(&["--redis", &redis.url_of("", "secret-that-is-wrong")], &words);
    assert_refused(&["--redis", &redis.url()], &words[..1]);
    let (_, log) = Node::refused(&["--redis", &redis.url_of("", "secret-that-is-wrong")]);
    assert!(!log.contains("secret-that-is-wrong"), "a log is no place for passwords:\n{log}");
}

/// The words after ACL in the README's part for operators, for a user with a password of the test.
fn documented_acl() -> Vec<String> {
    let readme = include_str!("../../../README.md");
    let line = readme.lines().find_map(|line| line.strip_prefix("ACL SETUSER lanecast ")).expect("the README's ACL");
    line.replace(">PASSWORD", ">pw").split(' ').map(str::to_owned).collect()
}

/// Gives the user `lanecast` exactly these rights.
fn allow<'a>(redis: &Redis, rules: impl IntoIterator<Item = &'a str>) {
    let rules: Vec<&str> = rules.into_iter().collect();
    redis.command("FLUSHALL");
    redis.command(&format!("ACL SETUSER lanecast reset {}", rules.join(" ")));
}

#[test]
fn the_documented_rights_suffice() {
    let redis = Redis::start();
    allow(&redis, documented_acl().iter().map(String::as_str));
    let node = Node::start(&["--redis", &redis.url_of("lanecast", "pw")]);
    node.becomes(200, "ready");
    let mut events = node.subscribe("r");
    for text in ["one", "two"] {
        assert_eq!(node.publish("r", text).status, 200);
    }
    assert_eq!(events.texts(2), ["one", "two"]);
    assert_eq!(node.history("r").len(), 2);
    assert_eq!(node.get("/v1/nodes").status, 200);
    assert!(!node.log().contains("refused"), "{}", node.log());
}

#[test]
fn each_documented_right_is_needed() {
    let redis = Redis::start();
    let acl = documented_acl();
    let url = redis.url_of("lanecast", "pw");
    let rights: Vec<&String> = acl.iter().filter(|rule| rule.starts_with(['~', '&', '+'])).collect();
    assert!(rights.len() > 30, "{acl:?}");
    for right in rights {
        allow(&redis, acl.iter().filter(|rule| *rule != right).map(String::as_str));
        let name = right.trim_start_matches('+').replace('|', " ").to_uppercase();
        match (&**right, right.strip_prefix('+')) {
            ("~lanecast", _) => assert_refused(&["--redis", &url], &["HGETALL", "README's part for operators"]),
            ("+subscribe" | "+unsubscribe", _) => assert_refused(&["--redis", &url], &["may not subscribe"]),
            (_, Some(_)) => assert_refused(&["--redis", &url], &["may not use", &name, "README's part for operators"]),
            (_, None) => assert_refused(&["--redis", &url], &["keys and channels that begin with \"lc\""]),
        }
    }
}

#[test]
fn too_old_a_redis_is_refused() {
    let url = fake::start("redis_version:6.2.14\r\nrole:master\r\nmaster_replid:abc\r\nloading:0\r\n");
    assert_refused(&["--redis", &url], &["version 6.2.14", "7.0 or newer"]);
}

#[test]
fn cluster_mode_is_refused() {
    let redis = Redis::with(&["--cluster-enabled", "yes"]);
    assert_refused(&["--redis", &redis.url()], &["cluster mode"]);
}

#[test]
fn a_redis_that_forgets_is_warned_of() {
    let redis = Redis::with(&[
        "--appendonly",
        "no",
        "--maxmemory",
        "1gb",
        "--maxmemory-policy",
        "allkeys-lru",
        "--client-output-buffer-limit",
        "pubsub 1mb 1mb 60",
    ]);
    let node = Node::on(&redis);
    node.says("maxmemory-policy is allkeys-lru: when memory is full Redis deletes logs");
    node.says("appendonly is off");
    node.says("client-output-buffer-limit allows 1048576 bytes for pubsub");
    assert_eq!(node.publish("r", "hello").status, 200);
    drop(node);

    let redis = Redis::start();
    let node = Node::on(&redis);
    node.says("rooms live in Redis 7");
    assert!(!node.log().contains("WARN"), "nothing to warn of:\n{}", node.log());
}

#[test]
fn a_replica_is_waited_for_until_it_is_promoted() {
    let redis = Redis::with(&["--appendonly", "yes", "--replicaof", &format!("127.0.0.1 {}", free_port())]);
    let node = Node::start(&["--redis", &redis.url()]);
    node.says("it is a read-only replica; name the primary in redis.url, or promote this one");
    assert_eq!(node.readiness(), (503, "starting".to_owned()));
    redis.command("REPLICAOF NO ONE");
    node.becomes(200, "ready");
    assert_eq!(node.publish("r", "hello").status, 200);
}

#[test]
fn a_redis_that_loads_is_waited_for() {
    let mut redis = Redis::with(&["--enable-debug-command", "yes"]);
    redis.command("DEBUG POPULATE 3000");
    redis.command("SAVE");
    redis.kill();
    assert!(redis.run(&["--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024"]));
    let node = Node::start(&["--redis", &redis.url()]);
    node.says("it is loading its data; the node waits");
    assert_eq!(node.readiness(), (503, "starting".to_owned()));
    node.becomes(200, "ready");
    assert_eq!(node.publish("r", "hello").status, 200);
}

#[test]
fn another_store_is_not_mistaken_for_this_one() {
    let redis = Redis::start();
    drop(Node::on(&redis));
    let directory = Directory::new();
    let config = |name: &str, text: &str| {
        directory.write(name, &format!("[engine]\nkind = \"redis\"\n[redis]\nurl = \"{}\"\n{text}\n", redis.url()))
    };
    let other_prefix = config("prefix", "prefix = \"chat\"");
    assert_refused(&["--config", &other_prefix], &["\"lc\"", "\"chat\"", "redis.beside_others"]);
    let other_partitions = config("partitions", "partitions = 64");
    assert_refused(&["--config", &other_partitions], &["partitions=128", "partitions=64"]);
    let beside = config("beside", "prefix = \"chat\"\nbeside_others = true");
    let (one, other) = (Node::on(&redis), Node::start(&["--config", &beside]));
    other.becomes(200, "ready");
    assert_eq!([one.publish("r", "one").status, other.publish("r", "other").status], [200, 200]);
    assert_eq!((one.history("r"), other.history("r")), (vec!["one".to_owned()], vec!["other".to_owned()]));
}

#[test]
fn the_address_may_stand_in_a_file() {
    let redis = Redis::with(&["--requirepass", "in-a-file"]);
    let directory = Directory::new();
    let url = directory.write("url", &format!("{}\n", redis.url_of("", "in-a-file")));
    let file = |name: &str, url: &str| {
        directory.write(name, &format!("[engine]\nkind = \"redis\"\n[redis]\nurl_file = \"{url}\"\n"))
    };
    let node = Node::start(&["--config", &file("there", &url)]);
    node.becomes(200, "ready");
    assert_refused(&["--config", &file("absent", "/nonexistent/url")], &["redis.url_file /nonexistent/url"]);
}

#[test]
fn a_prefix_with_braces_is_refused() {
    let directory = Directory::new();
    let config = directory.write("config", "[engine]\nkind = \"redis\"\n[redis]\nprefix = \"a{b}\"\n");
    let (code, log) = Node::refused(&["--config", &config]);
    assert_eq!(code, Some(1));
    assert!(log.contains("line 4: redis.prefix: must not contain { or }"), "{log}");
}
