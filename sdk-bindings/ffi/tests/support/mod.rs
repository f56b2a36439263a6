//! A node as a process of its own, and what the tests say again and again.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use lanecast_ffi::{
    Body, Client, Delivery, Lane, Options, Publication, Receipt, Room, Start, SubscribeOptions, Subscription, connect,
};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

const CONFIG: &str = "[[policies]]\nrooms = \"**\"\nretention_events = 50_000\n";

/// Nothing in these tests takes this long unless it hangs.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it should not take so long")
}

/// The binary `lanecast`: from LANECAST_BIN, else beside this test in the target directory.
fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("LANECAST_BIN") {
        return path.into();
    }
    let path = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("lanecast");
    assert!(path.is_file(), "no node at {}: run `cargo build -p lanecast-server` or set LANECAST_BIN", path.display());
    path
}

/// A running node for development.
pub struct Node {
    pub url: String,
    pub folder: tempfile::TempDir,
    child: Child,
    /// What the node prints; kept, or it could not print any more.
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Node {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("lanecast.toml");
        std::fs::write(&config, CONFIG).unwrap();
        let mut command = Command::new(binary());
        command.args(["serve", "--dev", "--listen", "127.0.0.1:0", "--config"]).arg(&config);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = soon(async {
            loop {
                let line = stdout.next_line().await.unwrap().expect("the node ended");
                if let Some(address) = line.strip_prefix("listening on http://") {
                    return format!("ws://{}", address.trim_end_matches('/'));
                }
            }
        });
        Self { url: url.await, folder, child, stdout }
    }

    pub fn file(&self, name: &str) -> Option<String> {
        Some(self.folder.path().join(name).to_str().unwrap().to_owned())
    }

    pub async fn client(&self, user: &str) -> Arc<Client> {
        connect(options(&self.url, Some(format!("dev:{user}"))), None).await.unwrap()
    }
}

pub fn options(url: &str, token: Option<String>) -> Options {
    Options {
        sdk: "lanecast-ffi".to_owned(),
        url: url.to_owned(),
        token,
        device: None,
        app: None,
        app_version: None,
        outbox: None,
        outbox_ttl_ms: None,
        outbox_file: None,
        outbox_sync: None,
        positions_file: None,
        extra_roots: Vec::new(),
        certificate_hash: None,
        http_proxy: None,
        quic_port: None,
    }
}

pub fn text(text: impl Into<String>) -> Publication {
    Publication {
        r#type: "msg".into(),
        body: Body::Text { text: text.into() },
        lane: Lane::Normal,
        delivery: Delivery::Stored,
        key: String::new(),
        headers: HashMap::new(),
        content_type: String::new(),
        ttl_ms: None,
        outbox_ttl_ms: None,
    }
}

pub async fn publish(room: &Room, publication: Publication) -> Arc<Receipt> {
    soon(room.publish(publication, None)).await.unwrap()
}

/// Publishes the numbers from 1 on, and waits until the last one is stored.
pub async fn fill(room: &Room, events: u64) {
    let mut window = std::collections::VecDeque::new();
    for number in 1..=events {
        if window.len() == 200 {
            let oldest: Arc<Receipt> = window.pop_front().unwrap();
            soon(oldest.stored(None)).await.unwrap();
        }
        window.push_back(publish(room, text(number.to_string())).await);
    }
    for receipt in window {
        soon(receipt.stored(None)).await.unwrap();
    }
}

pub async fn subscribe(room: &Room, start: Start) -> Arc<Subscription> {
    soon(room.subscribe(SubscribeOptions { start: Some(start), signals: false }, None)).await.unwrap()
}
