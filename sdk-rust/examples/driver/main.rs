//! The driver of this SDK for the conformance suite (`conformance/driver.md`): does what it is told on standard input, reports
//! what the client does, in JSON, judges nothing and repairs nothing.
//!
//!     lanecast-conform client -- target/debug/examples/driver

mod words;

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lanecast::{Client, Direction, Error, Focus, History, Lane, Outcome, Publish, Room, Subscription, TokenRequest};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};

use self::words::{body, event, failure, gap, millis, number, page, room_state, settled, signal, state, with, word};

type Any = Box<dyn std::error::Error + Send + Sync>;
type Asks = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<String, String>>>>>;

/// Items of a batch unless the suite says otherwise.
const BATCH: u64 = 256;

#[derive(Default)]
struct Driver {
    client: Option<Client>,
    /// What reports for the client, gone with it.
    tasks: JoinSet<()>,
    /// By room: who waits for `acknowledge`, and what ends it.
    rooms: HashMap<String, (mpsc::Sender<u64>, AbortHandle)>,
    asks: Asks,
}

/// Where reports go. It fails when the suite is gone, and then nobody minds.
#[derive(Clone)]
struct Reports(mpsc::Sender<Value>);

impl Reports {
    async fn say(&self, command: u64, kind: &str, what: Value) {
        let _ = self.0.send(json!({"command": command, kind: what})).await;
    }

    /// Says how something ended that has no more to say than that it is done.
    async fn ended<K: Debug>(&self, command: u64, result: Result<(), Error<K>>) {
        match result {
            Ok(()) => self.say(command, "done", json!({})).await,
            Err(error) => self.say(command, "failed", failure(&error)).await,
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Any> {
    let (sender, receiver) = mpsc::channel(1024);
    let (reports, writer) = (Reports(sender), tokio::spawn(write(receiver)));
    let transports = ["websocket", "quic"];
    let ready = json!({"sdk": "lanecast-rust", "version": env!("CARGO_PKG_VERSION"), "transports": transports});
    reports.say(0, "ready", ready).await;
    let (mut driver, mut input) = (Driver::default(), tokio::io::stdin());
    while let Ok(length) = input.read_u32().await {
        let mut frame = vec![0; length.min(1 << 20) as usize];
        input.read_exact(&mut frame).await?;
        let command: Value = serde_json::from_slice(&frame)?;
        let told = command.as_object().and_then(|fields| fields.iter().find(|(name, _)| *name != "id"));
        let (id, (name, what)) = (number(&command, "id").unwrap_or(0), told.ok_or("a command without words")?);
        match driver.obey(id, name, what, &reports).await {
            Ok(true) => reports.say(id, "done", json!({})).await,
            Ok(false) => {}
            Err(error) => reports.say(id, "failed", json!({"kind": "unsupported", "detail": error.to_string()})).await,
        }
    }
    drop((driver, reports));
    Ok(writer.await?)
}

async fn write(mut reports: mpsc::Receiver<Value>) {
    let mut output = tokio::io::stdout();
    while let Some(report) = reports.recv().await {
        let bytes = report.to_string().into_bytes();
        let frame = [&(bytes.len() as u32).to_be_bytes()[..], &bytes].concat();
        if output.write_all(&frame).await.is_err() || output.flush().await.is_err() {
            return;
        }
    }
}

/// Reports the present value of something that is watched, and each later one.
async fn tell<T: Clone>(mut watched: watch::Receiver<T>, kind: &str, written: impl Fn(&T) -> Value, reports: Reports) {
    loop {
        let now = watched.borrow_and_update().clone();
        reports.say(0, kind, written(&now)).await;
        if watched.changed().await.is_err() {
            return;
        }
    }
}

/// Reads a subscription in batches; each waits for `acknowledge` where that is wanted.
async fn read(mut subscription: Subscription, max: usize, mut told: Option<mpsc::Receiver<u64>>, reports: Reports) {
    loop {
        let batch = subscription.next_batch(max).await;
        if batch.is_empty() {
            return;
        }
        for item in &batch {
            match item {
                Ok(item) => reports.say(0, "event", event(item)).await,
                Err(item) => reports.say(0, "gap", gap(item)).await,
            }
        }
        let command = match &mut told {
            None => None,
            Some(told) => told.recv().await,
        };
        subscription.acknowledge();
        let position = subscription.position().map(|position| position.to_string());
        reports.say(0, "position", json!({"room": subscription.room().name(), "position": position})).await;
        if let Some(command) = command {
            reports.say(command, "done", json!({})).await;
        }
    }
}

impl Driver {
    /// True: done; false: what was begun reports by itself.
    async fn obey(&mut self, id: u64, name: &str, what: &Value, reports: &Reports) -> Result<bool, Any> {
        if name == "connect" {
            return self.connect(id, what, reports).await;
        }
        if let "giveToken" | "refuseToken" = name {
            let asked = self.asks.lock().remove(&number(what, "ask").unwrap_or(0)).ok_or("nobody asked")?;
            // Whoever asked may have lost patience.
            let _ = asked.send(if name == "giveToken" { Ok(word(what, "token")) } else { Err(word(what, "detail")) });
            return Ok(true);
        }
        let client = self.client.clone().ok_or("there is no client")?;
        let room = client.room(word(what, "room"));
        match name {
            "subscribe" => return self.subscribe(id, &room, what, reports).await,
            "publish" => return self.publish(id, &room, what, reports).await,
            "acknowledge" => {
                let waiting = self.rooms.get(room.name()).ok_or("not subscribed")?;
                return Ok(waiting.0.try_send(id).is_err());
            }
            "unsubscribe" => self.rooms.remove(room.name()).ok_or("not subscribed")?.1.abort(),
            "signal" => {
                let signal = match what["clear"] == true {
                    true => room.clear_signal(word(what, "type"), word(what, "key")),
                    false => room.signal(word(what, "type"), word(what, "key"), body(&what["body"])?),
                };
                reports.ended(id, with(signal, number(what, "ttlMs"), |signal, ms| signal.ttl(millis(ms))).await).await;
                return Ok(false);
            }
            "history" => return self.history(id, &room, what, reports),
            "focus" => match what["level"].as_str() {
                Some("background") => room.focus(Focus::Background).await,
                Some("foreground") => room.focus(Focus::Foreground).await,
                _ => room.focus(Focus::Default).await,
            },
            "networkChanged" => client.network_changed().await,
            "enteredBackground" => client.entered_background().await,
            "enteredForeground" => client.entered_foreground().await,
            "refreshToken" => client.refresh_token().await,
            "flush" => {
                let reports = reports.clone();
                self.tasks.spawn(async move { reports.ended(id, client.flush().await).await });
                return Ok(false);
            }
            "shutdown" => {
                client.close().await;
                std::mem::take(self).tasks.shutdown().await;
                reports.say(0, "state", state(&client.state().borrow().clone())).await;
            }
            other => return Err(format!("this SDK has no {other}").into()),
        }
        Ok(true)
    }

    async fn connect(&mut self, id: u64, what: &Value, reports: &Reports) -> Result<bool, Any> {
        let text = |field: &str| Some(word(what, field)).filter(|text| !text.is_empty());
        let mut builder = Client::builder(word(what, "url")).token(word(what, "token"));
        if what["asksForTokens"] == true {
            let (asks, reports, count) = (self.asks.clone(), reports.clone(), Arc::new(AtomicU64::new(1)));
            builder = builder.token_provider(move |request: TokenRequest| {
                let (asks, reports, ask) = (asks.clone(), reports.clone(), count.fetch_add(1, Ordering::Relaxed));
                async move {
                    let (give, given) = oneshot::channel();
                    asks.lock().insert(ask, give);
                    let wanted = json!({"ask": ask, "refused": request.refused.is_some()});
                    reports.say(0, "tokenWanted", wanted).await;
                    given.await?.map_err(Any::from)
                }
            });
        }
        if let Some(hash) = text("certificateSha256") {
            let byte = |at: usize| u8::from_str_radix(hash.get(at * 2..at * 2 + 2).unwrap_or("x"), 16);
            let bytes = (0..32).map(byte).collect::<Result<Vec<u8>, _>>()?;
            builder = builder.certificate_hash(bytes.try_into().map_err(|_| "not a hash")?);
        }
        builder = with(builder, text("extraRoot"), |builder, pem| builder.extra_root(pem));
        builder = with(builder, text("outboxFile"), |builder, path| builder.outbox_file(path));
        builder = with(builder, text("positionsFile"), |builder, path| builder.positions_file(path));
        builder = with(builder, number(what, "outboxTtlMs"), |builder, ms| builder.outbox_ttl(millis(ms)));
        let bound = |field, usual| number(what, field).unwrap_or(usual) as usize;
        builder = builder.outbox(bound("outboxItemsMax", 10_000), bound("outboxBytesMax", 16 << 20));
        builder = builder.device(word(what, "device")).app(word(what, "app"), word(what, "appVersion"));
        let client = match builder.connect() {
            Ok(client) => client,
            Err(error) => {
                reports.ended(id, Err(error)).await;
                return Ok(false);
            }
        };
        self.tasks.spawn(tell(client.state(), "state", state, reports.clone()));
        if let Some(mut outcomes) = client.outbox().outcomes() {
            let reports = reports.clone();
            self.tasks.spawn(async move {
                while let Some(Outcome { room, lane, r#type, key, result, .. }) = outcomes.next().await {
                    let (how, what) = settled(result);
                    let told = json!({"room": room, "lane": lane.name(), "type": r#type, "key": key, how: what});
                    reports.say(0, "outcome", told).await;
                }
            });
        }
        self.client = Some(client);
        Ok(true)
    }

    async fn subscribe(&mut self, id: u64, room: &Room, what: &Value, reports: &Reports) -> Result<bool, Any> {
        let (back, subscribe) = (number(what, "back").unwrap_or(0), room.subscribe());
        let subscribe = match word(what, "start").as_str() {
            "beginning" => subscribe.from_beginning(),
            "position" => subscribe.from_position(word(what, "position").parse()?),
            "count" => subscribe.from_count(u32::try_from(back)?),
            "duration" => subscribe.from_duration(millis(back)),
            "stored" => subscribe,
            _ => subscribe.from_live(),
        };
        let with_signals = what["withSignals"] == true;
        let subscription = match if with_signals { subscribe.with_signals() } else { subscribe }.await {
            Ok(subscription) => subscription,
            Err(error) => {
                reports.ended(id, Err(error)).await;
                return Ok(false);
            }
        };
        reports.say(id, "done", json!({})).await;
        let name = room.name().to_owned();
        self.tasks.spawn(tell(subscription.state(), "roomState", move |now| room_state(&name, now), reports.clone()));
        if with_signals {
            let (mut signals, reports, name) = (room.signals().await?, reports.clone(), room.name().to_owned());
            self.tasks.spawn(async move {
                while let Some(change) = signals.next().await {
                    reports.say(0, "signalChange", signal(&name, change)).await;
                }
            });
        }
        let (acknowledge, acknowledged) = mpsc::channel(1);
        let on_command = (what["onCommand"] == true).then_some(acknowledged);
        let max = number(what, "batchMax").unwrap_or(BATCH) as usize;
        let reader = self.tasks.spawn(read(subscription, max, on_command, reports.clone()));
        self.rooms.insert(room.name().to_owned(), (acknowledge, reader));
        Ok(false)
    }

    async fn publish(&mut self, id: u64, room: &Room, what: &Value, reports: &Reports) -> Result<bool, Any> {
        let mut publish = room.publish(word(what, "type"), body(&what["body"])?).key(word(what, "key"));
        publish = publish.content_type(word(what, "contentType"));
        publish = with(publish, Lane::from_name(&word(what, "lane")), Publish::lane);
        for (name, value) in what["headers"].as_object().into_iter().flatten() {
            publish = publish.header(name, value.as_str().unwrap_or(""));
        }
        publish = with(publish, (what["transient"] == true).then_some(()), |publish, ()| publish.transient());
        publish = with(publish, (what["replicated"] == true).then_some(()), |publish, ()| publish.replicated());
        publish = with(publish, number(what, "ttlMs"), |publish, ms| publish.ttl(millis(ms)));
        publish = with(publish, number(what, "outboxTtlMs"), |publish, ms| publish.outbox_ttl(millis(ms)));
        match publish.send().await {
            Ok(receipt) => {
                reports.say(id, "queued", json!({})).await;
                let reports = reports.clone();
                self.tasks.spawn(async move {
                    let (how, what) = settled(receipt.await);
                    reports.say(id, how, what).await;
                });
            }
            Err(error) => reports.ended(id, Err(error)).await,
        }
        Ok(false)
    }

    fn history(&mut self, id: u64, room: &Room, what: &Value, reports: &Reports) -> Result<bool, Any> {
        let direction = if what["forward"] == true { Direction::Forward } else { Direction::Backward };
        let names = what["lanes"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let mut history = room.history().direction(direction).lanes(names.filter_map(Lane::from_name));
        history = history.page_size(number(what, "limit").unwrap_or(0) as u32);
        let cursor = Some(word(&what["cursor"], "text")).filter(|text| !text.is_empty());
        history = with(history, cursor.map(|text| text.parse()).transpose()?, History::from_cursor);
        let reports = reports.clone();
        self.tasks.spawn(async move {
            match history.next_page().await {
                Ok(found) => reports.say(id, "historyPage", found.as_ref().map_or(json!({}), page)).await,
                Err(error) => reports.ended(id, Err(error)).await,
            }
        });
        Ok(false)
    }
}
