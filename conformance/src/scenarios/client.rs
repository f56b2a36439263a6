//! A client on the stage: its driver, and what it had of the room.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::steps::{History, Receive};
use crate::client::{Transport, short};
use crate::driver::{Driver, kind};
use crate::verdict::{Outcome, Stop, check};

/// How long anything may take: a client that only listens learns from its heartbeat that a path is dead, after 35 s.
pub(super) const PATIENCE: Duration = Duration::from_secs(45);
/// How long a first connection may take.
const CONNECT: Duration = Duration::from_secs(15);
/// A batch that grows no more within this time is whole.
const BATCH_WHOLE: Duration = Duration::from_millis(60);
/// How long nothing more must come after the last event.
const QUIET: Duration = Duration::from_millis(200);

/// A client and what is known of it.
pub(super) struct Client {
    pub(super) driver: Driver,
    room: String,
    /// Publishes that have not ended.
    pub(super) publishes: Vec<u32>,
    /// By lane, the seqs of what was stored.
    places: HashSet<(String, u64)>,
    had: Had,
}

/// What an application made of the events: how often each came, by what it says.
#[derive(Clone, Default)]
struct Had {
    counts: HashMap<String, usize>,
    /// By lane, the last seq.
    last: BTreeMap<String, u64>,
    /// Where it stood when it was last stored together with a position, and that position.
    stored: Option<Box<(Had, String)>>,
}

impl Had {
    fn doubled(&self) -> usize {
        self.counts.values().map(|count| count - 1).sum()
    }
}

impl Client {
    pub(super) fn new(driver: Driver, room: String) -> Self {
        Self { driver, room, publishes: Vec::new(), places: HashSet::new(), had: Had::default() }
    }

    /// Goes on with another driver after the former was killed. `stores_position`: what came since the last position was in
    /// the same transaction as the next one, and is gone with it.
    pub(super) async fn replace(&mut self, driver: Driver, stores_position: bool) {
        std::mem::replace(&mut self.driver, driver).kill().await;
        self.publishes.clear();
        if stores_position && let Some(stored) = self.had.stored.clone() {
            self.had = Had { stored: Some(stored.clone()), ..stored.0 };
        }
        // What is handed over again begins with an earlier seq.
        self.had.last.clear();
    }

    /// The position that was stored last.
    pub(super) fn stored_position(&self) -> String {
        self.had.stored.as_ref().map_or_else(String::new, |stored| stored.1.clone())
    }

    pub(super) async fn answer(&mut self, id: u32) -> Outcome<Value> {
        let found = self.driver.find(PATIENCE, |report| report["command"] == id && kind(report) != "queued").await?;
        found.ok_or_else(|| Stop::fail(format!("command {id} is never answered")))
    }

    pub(super) async fn done(&mut self, command: Value) -> Outcome {
        let id = self.driver.tell(command).await?;
        let answer = self.answer(id).await?;
        check(answer.get("done").is_some(), || format!("not done: {}", short(&answer)))
    }

    pub(super) async fn report(&mut self, name: &str) -> Outcome<Value> {
        let found = self.driver.find(PATIENCE, |report| kind(report) == name).await?;
        let mut report = found.ok_or_else(|| Stop::fail(format!("the client tells of no {name}")))?;
        Ok(report[name].take())
    }

    /// Forgets what it had: the application begins anew.
    pub(super) fn begin_anew(&mut self) {
        self.had = Had::default();
        self.driver.forget();
    }

    pub(super) async fn state(&mut self, name: &str) -> Outcome<Value> {
        self.state_within(name, PATIENCE).await
    }

    /// Waits for the first connection.
    pub(super) async fn connected(&mut self) -> Outcome {
        self.state_within("connected", CONNECT).await.map(|_| ())
    }

    async fn state_within(&mut self, name: &str, within: Duration) -> Outcome<Value> {
        let found = self.driver.find(within, |report| report["state"]["name"] == name).await?;
        let mut report = found.ok_or_else(|| Stop::fail(format!("the client is never {name}")))?;
        Ok(report["state"].take())
    }

    /// Every publish has to end as stored.
    pub(super) async fn stored(&mut self) -> Outcome {
        for id in std::mem::take(&mut self.publishes) {
            let answer = self.answer(id).await?;
            let stored = answer.get("stored").ok_or_else(|| Stop::fail(format!("not stored: {}", short(&answer))))?;
            let (lane, seq) = (stored["lane"].as_str().unwrap_or("").to_owned(), stored["seq"].as_u64().unwrap_or(0));
            let is_new = seq == 0 || self.places.insert((lane, seq));
            check(is_new, || format!("two publishes are stored as {}", short(stored)))?;
        }
        Ok(())
    }

    /// Reads events until there are as many as wanted.
    pub(super) async fn receive(&mut self, wanted: &Receive, transport: Transport) -> Outcome {
        if wanted.batch > 0 {
            return self.receive_batches(wanted, transport).await;
        }
        while self.had.counts.len() < wanted.events {
            let report = self.next_item(PATIENCE).await?;
            let so_far = self.had.counts.len();
            let report =
                report.ok_or_else(|| Stop::fail(format!("{so_far} events came instead of {}", wanted.events)))?;
            self.take(&report, transport)?;
        }
        while let Some(report) = self.next_item(QUIET).await? {
            self.take(&report, transport)?;
        }
        self.judge(wanted)
    }

    fn judge(&self, wanted: &Receive) -> Outcome {
        let (count, doubled) = (self.had.counts.len(), self.had.doubled());
        check(count == wanted.events, || format!("{count} different events came instead of {}", wanted.events))?;
        check(doubled <= wanted.doubled_max, || format!("{doubled} events came twice; {} may", wanted.doubled_max))
    }

    /// Reads batches, acknowledging each, and leaves one unacknowledged as soon as there are as many events as wanted.
    async fn receive_batches(&mut self, wanted: &Receive, transport: Transport) -> Outcome {
        loop {
            let mut taken = 0;
            let began = Instant::now();
            while taken < wanted.batch {
                let patience = if taken == 0 { PATIENCE } else { BATCH_WHOLE };
                let Some(report) = self.next_item(patience).await? else { break };
                self.take(&report, transport)?;
                taken += 1;
            }
            check(taken > 0, || format!("no event in {} s", began.elapsed().as_secs()))?;
            if self.had.counts.len() >= wanted.events {
                return self.judge(&Receive { events: self.had.counts.len(), ..*wanted });
            }
            self.acknowledge().await?;
        }
    }

    /// Acknowledges what was reported, and stores what was made of it with the position.
    pub(super) async fn acknowledge(&mut self) -> Outcome {
        let room = self.room.clone();
        self.done(json!({"acknowledge": {"room": room}})).await?;
        let position = self.report("position").await?["position"].as_str().unwrap_or("").to_owned();
        let now = Had { stored: None, ..self.had.clone() };
        self.had.stored = Some(Box::new((now, position)));
        Ok(())
    }

    async fn next_item(&mut self, within: Duration) -> Outcome<Option<Value>> {
        let deadline = Instant::now() + within;
        loop {
            // Positions that the driver moves by itself are taken along, so that they do not pile up.
            let left = deadline.saturating_duration_since(Instant::now());
            let found = self.driver.find(left, |report| matches!(kind(report), "event" | "gap" | "position")).await?;
            match found {
                Some(report) if kind(&report) == "position" => {}
                other => return Ok(other),
            }
        }
    }

    /// Takes an event of the room.
    fn take(&mut self, report: &Value, transport: Transport) -> Outcome {
        let event = report.get("event").ok_or_else(|| Stop::fail(format!("a gap: {}", short(report))))?;
        let says = event["body"]["text"].as_str().unwrap_or("").to_owned();
        *self.had.counts.entry(says).or_default() += 1;
        let (lane, seq) = (event["lane"].as_str().unwrap_or("").to_owned(), event["seq"].as_u64().unwrap_or(0));
        let ordered = transport == Transport::Websocket || lane != "urgent";
        let last = self.had.last.insert(lane, seq).unwrap_or(0);
        check(!ordered || seq == 0 || seq > last, || format!("seq {seq} after {last}: {}", short(report)))
    }

    /// Reads the history of the room page by page.
    pub(super) async fn history(&mut self, room: &str, wanted: &History) -> Outcome {
        let (mut orders, mut cursor): (Vec<u64>, Value) = (Vec::new(), Value::Null);
        loop {
            let mut command = json!({"history": {"room": room, "limit": wanted.limit, "forward": wanted.forward}});
            if !cursor.is_null() {
                command["history"]["cursor"] = cursor;
            }
            let id = self.driver.tell(command).await?;
            let mut answer = self.answer(id).await?;
            let page = answer.get_mut("historyPage").map(Value::take);
            let mut page = page.ok_or_else(|| Stop::fail(format!("no page: {}", short(&answer))))?;
            let events = page["events"].as_array().map_or(&[][..], Vec::as_slice);
            check(events.len() <= wanted.limit as usize, || format!("{} events in a page", events.len()))?;
            orders.extend(events.iter().filter_map(|event| event["order"].as_u64()));
            cursor = page["next"].take();
            if cursor.is_null() {
                break;
            }
        }
        if !wanted.forward {
            orders.reverse();
        }
        let rising = orders.windows(2).all(|pair| pair[0] < pair[1]);
        check(rising, || "the orders of the pages do not rise".to_owned())?;
        check(orders.len() == wanted.events, || {
            format!("{} events in the pages instead of {}", orders.len(), wanted.events)
        })
    }

    /// Signals have to come, the last of them for sure.
    pub(super) async fn conflated(&mut self, last: u32, changes_max: u32) -> Outcome {
        let mut changes = 0;
        loop {
            let change = self.report("signalChange").await?;
            changes += 1;
            check(changes <= changes_max, || format!("{changes} changes; {changes_max} may be told"))?;
            if change["body"]["text"] == last.to_string().as_str() {
                return Ok(());
            }
        }
    }
}
