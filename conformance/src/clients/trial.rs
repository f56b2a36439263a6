//! What a case for clients has at hand: a driver, a scripted server, and the words to speak of both.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::certificate::Pair;
use crate::client::{Transport, WireLog, short};
use crate::driver::{Driver, Launch, kind};
use crate::peer::{Conn, Peer, Settings};
use crate::verdict::{Outcome, Stop};

/// How long what should come at once may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How long a case listens for what must not come.
pub(crate) const QUIET: Duration = Duration::from_millis(250);

/// A case that runs.
pub struct Trial {
    /// What carries the connections of this run.
    pub transport: Transport,
    /// The log of the case.
    pub log: WireLog,
    /// How the scripted server takes connections; read when the client connects first.
    pub settings: Settings,
    driver: Option<Driver>,
    launch: Launch,
    pair: Arc<Pair>,
    peer: Option<Peer>,
    directory: Option<PathBuf>,
    /// The address that the client is told in place of the server's own.
    pub url: Option<String>,
}

impl Trial {
    pub(super) fn new(driver: Driver, launch: Launch, pair: Arc<Pair>, transport: Transport, log: WireLog) -> Self {
        let settings = Settings::default();
        Self { transport, log, settings, driver: Some(driver), launch, pair, peer: None, directory: None, url: None }
    }

    /// The driver.
    pub fn driver(&mut self) -> Outcome<&mut Driver> {
        self.driver.as_mut().ok_or_else(|| Stop::harness("the driver was killed and not started again"))
    }

    /// A second driver, of the same command.
    pub async fn another(&self) -> Outcome<Driver> {
        let mut driver = self.launch.start().await?;
        driver.log_to(self.log.clone());
        Ok(driver)
    }

    /// Kills the driver as an operating system does, and starts another one.
    pub async fn kill_and_start(&mut self) -> Outcome {
        if let Some(driver) = self.driver.take() {
            driver.kill().await;
        }
        self.driver = Some(self.another().await?);
        Ok(())
    }

    /// The scripted server.
    pub async fn peer(&mut self) -> Outcome<&mut Peer> {
        if self.peer.is_none() {
            self.peer = Some(Peer::start(&self.pair, self.settings, self.log.clone()).await?);
        }
        self.peer.as_mut().ok_or_else(|| Stop::harness("no server"))
    }

    /// Another scripted server beside it.
    pub async fn other_peer(&self) -> Outcome<Peer> {
        Peer::start(&self.pair, self.settings, self.log.clone()).await
    }

    /// A file of the case's own, which does not exist yet.
    pub fn file(&mut self, name: &str) -> Outcome<String> {
        let directory = match &self.directory {
            Some(directory) => directory.clone(),
            None => {
                let path = std::env::temp_dir().join(format!("lanecast-conform-{:016x}", rand::random::<u64>()));
                std::fs::create_dir_all(&path).map_err(Stop::harness)?;
                self.directory.insert(path).clone()
            }
        };
        Ok(directory.join(name).to_string_lossy().into_owned())
    }

    /// What a client is connected with, unless a case lays something over it.
    pub async fn connecting(&mut self, over: Value) -> Outcome<Value> {
        let transport = self.transport;
        let peer = self.peer().await?;
        let hash: String = peer.certificate_hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let hash = if transport == Transport::Quic { hash } else { String::new() };
        let own = peer.url(transport);
        let url = self.url.clone().unwrap_or(own);
        let mut connect = json!({"url": url, "transport": transport.name(), "token": "token-1", "certificateSha256": hash,
            "app": "conform", "appVersion": "1"});
        crate::peer::lay_over(&mut connect, &over);
        Ok(json!({ "connect": connect }))
    }

    /// Has the driver make a client.
    pub async fn connect(&mut self, over: Value) -> Outcome {
        let command = self.connecting(over).await?;
        self.done(command).await?;
        Ok(())
    }

    /// The next connection.
    pub async fn accept(&mut self) -> Outcome<Conn> {
        self.accept_within(PATIENCE).await
    }

    /// The next connection, within the time.
    pub async fn accept_within(&mut self, within: Duration) -> Outcome<Conn> {
        let conn = self.peer().await?.accept(within).await;
        conn.ok_or_else(|| Stop::fail(format!("the client does not connect within {} ms", within.as_millis())))
    }

    /// Fails if the client connects within the time.
    pub async fn no_connection(&mut self, within: Duration) -> Outcome {
        match self.peer().await?.accept(within).await {
            None => Ok(()),
            Some(_) => Err(Stop::fail("the client connects, which it must not")),
        }
    }

    /// The next connection, after Hello and Welcome, into which `over` is laid.
    pub async fn welcomed(&mut self, over: Value) -> Outcome<Conn> {
        let mut conn = self.accept().await?;
        conn.take_hello().await?;
        conn.welcome(over).await?;
        self.state("connected").await?;
        Ok(conn)
    }

    /// A client that is connected.
    pub async fn live(&mut self) -> Outcome<Conn> {
        self.connect(json!({})).await?;
        self.welcomed(json!({})).await
    }

    /// A client that is connected and subscribed to `r` with handle 1, from the beginning of an empty epoch 7.
    pub async fn live_room(&mut self) -> Outcome<Conn> {
        let mut conn = self.live().await?;
        self.subscribe(&mut conn, json!({}), "7-0-0-0").await?;
        Ok(conn)
    }

    /// Subscribes to `r`, into which `over` is laid, and answers with handle 1 and the position.
    pub async fn subscribe(&mut self, conn: &mut Conn, over: Value, at: &str) -> Outcome {
        self.ask_subscribe(over).await?;
        let subscribe = conn.frame("subscribe").await?;
        conn.subscribed(subscribe.id, "r", 1, at, json!({})).await
    }

    /// Tells the client to subscribe to `r`, into which `over` is laid.
    pub async fn ask_subscribe(&mut self, over: Value) -> Outcome {
        let mut subscribe = json!({"room": "r", "start": "beginning"});
        crate::peer::lay_over(&mut subscribe, &over);
        self.done(json!({ "subscribe": subscribe })).await?;
        Ok(())
    }

    /// Tells the driver something and waits until it says that it is done.
    pub async fn done(&mut self, command: Value) -> Outcome<u32> {
        let id = self.driver()?.tell(command).await?;
        let answer = self.answer(id).await?;
        if answer.get("done").is_some() {
            return Ok(id);
        }
        Err(Stop::fail(format!("the command is not done: {}", short(&answer))))
    }

    /// Tells the driver something.
    pub async fn tell(&mut self, command: Value) -> Outcome<u32> {
        self.driver()?.tell(command).await
    }

    /// Tells the driver to publish to `r`, with `over` laid into it.
    pub async fn publish(&mut self, over: Value) -> Outcome<u32> {
        let mut publish = json!({"room": "r", "type": "msg", "body": {"text": "hello"}});
        crate::peer::lay_over(&mut publish, &over);
        self.tell(json!({ "publish": publish })).await
    }

    /// How a command ended.
    pub async fn answer(&mut self, id: u32) -> Outcome<Value> {
        self.answer_within(id, PATIENCE).await
    }

    /// How a command ended, within the time.
    pub async fn answer_within(&mut self, id: u32, within: Duration) -> Outcome<Value> {
        let found = self.driver()?.find(within, |report| report["command"] == id && kind(report) != "queued").await?;
        found.ok_or_else(|| Stop::fail(format!("no answer to command {id} within {} ms", within.as_millis())))
    }

    /// A command that has to end with a report of this kind: what that says.
    pub async fn ends(&mut self, id: u32, name: &str) -> Outcome<Value> {
        let answer = self.answer(id).await?;
        match answer.get(name) {
            Some(body) => Ok(body.clone()),
            None => Err(Stop::fail(format!("command {id} ends with {} instead of {name}", short(&answer)))),
        }
    }

    /// Fails if a command ends within the time.
    pub async fn undecided(&mut self, id: u32) -> Outcome {
        let found = self.driver()?.find(QUIET, |report| report["command"] == id && kind(report) != "queued").await?;
        match found {
            None => Ok(()),
            Some(answer) => Err(Stop::fail(format!("command {id} ended too early: {}", short(&answer)))),
        }
    }

    /// The next report of a kind: what it says.
    pub async fn report(&mut self, name: &str) -> Outcome<Value> {
        let found = self.driver()?.find(PATIENCE, |report| kind(report) == name).await?;
        let mut report = found.ok_or_else(|| Stop::fail(format!("the client tells of no {name}")))?;
        Ok(report[name].take())
    }

    /// Fails if a report of a kind comes soon.
    pub async fn no_report(&mut self, name: &str) -> Outcome {
        match self.driver()?.find(QUIET, |report| kind(report) == name).await? {
            None => Ok(()),
            Some(report) => Err(Stop::fail(format!("the client tells of what must not be: {}", short(&report)))),
        }
    }

    /// The next event or gap.
    pub async fn item(&mut self) -> Outcome<Value> {
        let found = self.driver()?.find(PATIENCE, |report| matches!(kind(report), "event" | "gap")).await?;
        found.ok_or_else(|| Stop::fail("the client hands no event and no gap over"))
    }

    /// The next events and gaps, in short: `3` for seq 3, `urgent 3`, `t` for a transient, `2-4 trimmed`, `count 5 dropped`.
    pub async fn items(&mut self, expected: &[&str]) -> Outcome {
        for (index, wanted) in expected.iter().enumerate() {
            let item = self.item().await?;
            let found = in_short(&item);
            if found != *wanted {
                return Err(Stop::fail(format!(
                    "item {} is {found:?} instead of {wanted:?}: {}",
                    index + 1,
                    short(&item)
                )));
            }
        }
        Ok(())
    }

    /// Fails if an event or a gap is handed over soon.
    pub async fn no_item(&mut self) -> Outcome {
        match self.driver()?.find(QUIET, |report| matches!(kind(report), "event" | "gap")).await? {
            None => Ok(()),
            Some(report) => Err(Stop::fail(format!("handed over, which must not be: {}", short(&report)))),
        }
    }

    /// Waits until the client has said that it is in this state.
    pub async fn state(&mut self, name: &str) -> Outcome<Value> {
        let found = self.driver()?.find(PATIENCE, |report| report["state"]["name"] == name).await?;
        let mut report = found.ok_or_else(|| Stop::fail(format!("the client is never {name}")))?;
        Ok(report["state"].take())
    }

    /// Waits until the room has said that it is in this state.
    pub async fn room_state(&mut self, name: &str) -> Outcome<Value> {
        let found = self.driver()?.find(PATIENCE, |report| report["roomState"]["name"] == name).await?;
        let mut report = found.ok_or_else(|| Stop::fail(format!("the room is never {name}")))?;
        Ok(report["roomState"].take())
    }

    /// Closes the client. `Some`: the driver can serve another case.
    pub(super) async fn finish(mut self) -> Option<Driver> {
        let driver = self.driver.take();
        if let Some(directory) = &self.directory {
            // Left to the system's own cleaning if that fails.
            let _ = std::fs::remove_dir_all(directory);
        }
        driver?.emptied().await
    }
}

fn in_short(item: &Value) -> String {
    let lane = |item: &Value| match item["lane"].as_str() {
        None | Some("normal" | "") => String::new(),
        Some(lane) => format!("{lane} "),
    };
    match (item.get("event"), item.get("gap")) {
        (Some(event), _) if event["seq"] == 0 => format!("{}t", lane(event)),
        (Some(event), _) => format!("{}{}", lane(event), event["seq"]),
        (_, Some(gap)) => {
            let cause = gap["cause"].as_str().unwrap_or("?");
            match (gap["from"].as_u64(), gap["to"].as_u64(), gap["count"].as_u64()) {
                (Some(0) | None, _, count) => format!("{}count {} {cause}", lane(gap), count.unwrap_or(0)),
                (Some(from), Some(to), _) => format!("{}{from}-{to} {cause}", lane(gap)),
                (Some(from), None, _) => format!("{}{from}- {cause}", lane(gap)),
            }
        }
        _ => "nothing".to_owned(),
    }
}
