//! The driver of this SDK for the conformance suite: `conformance/driver.md`, in JSON over standard input and output.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::{Arc, atomic};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD as BASE64, Engine as _};
use futures_util::{StreamExt as _, stream};
use lanecast::*;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};

/// The report that ends a command, as an error if it failed; none: something else makes it.
type End = Result<Option<Value>, Value>;
/// By room: readers that have reported a batch, and wait for `acknowledge`.
type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<u64>>>>;

#[derive(Default)]
struct Driver {
    client: Option<Client>,
    /// What reports for the client. All but the readers end by themselves once it is closed.
    tasks: JoinSet<()>,
    readers: HashMap<String, AbortHandle>,
    waiting: Waiting,
    /// The last `giveToken` or `refuseToken`.
    token: watch::Sender<Value>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let version = env!("CARGO_PKG_VERSION");
    report(0, json!({"ready": {"sdk": "lanecast-rust", "version": version, "transports": ["websocket", "quic"]}}));
    let (mut driver, mut input) = (Driver::default(), tokio::io::stdin());
    while let Ok(length) = input.read_u32().await {
        let mut frame = vec![0; length.min(1 << 20) as usize];
        input.read_exact(&mut frame).await?;
        let mut command: HashMap<String, Value> = serde_json::from_slice(&frame)?;
        let id = command.remove("id").and_then(|id| id.as_u64()).unwrap_or(0);
        let (name, mut what) = command.into_iter().next().ok_or("a command without words")?;
        // The suite names every plain field; one that is empty was not given.
        what.as_object_mut().into_iter().for_each(|fields| fields.retain(|_, field| *field != "" && *field != 0));
        let end = driver.obey(id, &name, &what).await.unwrap_or_else(Some);
        end.into_iter().for_each(|end| report(id, end));
    }
    Ok(())
}

/// Reports something, 0: of no command. That fails when the suite is gone, and then nobody minds.
fn report(command: u64, mut what: Value) {
    what["command"] = json!(command);
    let report = what.to_string();
    let frame = [&(report.len() as u32).to_be_bytes(), report.as_bytes()].concat();
    let mut output = std::io::stdout().lock();
    let _ = output.write_all(&frame).and_then(|()| output.flush());
}

/// Reports the present value of something that is watched, and each later one.
async fn watch<T>(mut watched: watch::Receiver<T>, words: impl Fn(&T) -> Value) {
    watched.mark_changed();
    while watched.changed().await.is_ok() {
        report(0, words(&watched.borrow_and_update()));
    }
}

/// Reads a subscription in batches, each of which waits for `acknowledge` if that is wanted.
async fn read(mut subscription: Subscription, max: usize, on_command: bool, waiting: Waiting) {
    let room = subscription.room().name().to_owned();
    while let batch @ [_, ..] = &*subscription.next_batch(max).await {
        // Waits before the items are reported: the command may come at once. Where none is wanted, its sender is dropped.
        let (acknowledge, acknowledged) = oneshot::channel();
        waiting.lock().extend(on_command.then_some((room.clone(), acknowledge)));
        let words = |item| Result::map_or_else(item, |gap| json!({ "gap": gap }), |event| json!({ "event": event }));
        batch.iter().for_each(|item| report(0, words(item.as_ref())));
        let command = acknowledged.await;
        subscription.acknowledge();
        let position = subscription.position().map(|position| position.to_string());
        report(0, json!({"position": {"room": room, "position": position}}));
        command.into_iter().for_each(|command| report(command, done()));
    }
}

impl Driver {
    async fn obey(&mut self, id: u64, name: &str, what: &Value) -> End {
        if name == "connect" {
            return self.connect(what);
        }
        let client = self.client.clone().ok_or(unsupported("there is no client"))?;
        let room = client.room(text(&what["room"]));
        match name {
            "giveToken" | "refuseToken" => _ = self.token.send_replace(what.clone()),
            "subscribe" => return self.subscribe(room, what).await,
            "publish" => {
                let publish = room.publish(text(&what["type"]), body(what)?).key(text(&what["key"]));
                let publish = publish.content_type(text(&what["contentType"]));
                let headers = what["headers"].as_object().into_iter().flatten();
                let publish = headers.fold(publish, |publish, (name, value)| publish.header(name, text(value)));
                let publish = with(publish, Lane::from_name(text(&what["lane"])), Publish::lane);
                let publish = with(publish, what["ttlMs"].as_u64().map(Duration::from_millis), Publish::ttl);
                let publish =
                    with(publish, what["outboxTtlMs"].as_u64().map(Duration::from_millis), Publish::outbox_ttl);
                let publish = if what["transient"] == true { publish.transient() } else { publish };
                let publish = if what["replicated"] == true { publish.replicated() } else { publish };
                let receipt = publish.send().await.map_err(failed)?;
                report(id, json!({"queued": {}}));
                return self
                    .later(id, async { receipt.await.map_or_else(failed, |stored| json!({ "stored": stored })) });
            }
            "acknowledge" => {
                let reader = self.waiting.lock().remove(room.name());
                return Ok(reader.is_none_or(|reader| reader.send(id).is_err()).then(done));
            }
            "unsubscribe" => self.readers.remove(room.name()).ok_or(unsupported("not subscribed"))?.abort(),
            "signal" => {
                let (r#type, key, clear) = (text(&what["type"]), text(&what["key"]), what["clear"] == true);
                let signal = if clear { room.clear_signal(r#type, key) } else { room.signal(r#type, key, body(what)?) };
                with(signal, what["ttlMs"].as_u64().map(Duration::from_millis), SendSignal::ttl)
                    .await
                    .map_err(failed)?;
            }
            "history" => {
                let direction = if what["forward"] == true { Direction::Forward } else { Direction::Backward };
                let lanes = what["lanes"].as_array().into_iter().flatten().map(text).filter_map(Lane::from_name);
                let cursor = what["cursor"]["text"].as_str().filter(|text| !text.is_empty());
                let cursor = cursor.map(str::parse).transpose().map_err(unsupported)?;
                let history = with(room.history().direction(direction).lanes(lanes), cursor, History::from_cursor);
                let mut history = history.page_size(what["limit"].as_u64().unwrap_or(0) as u32);
                return self.later(id, async move { history.next_page().await.map_or_else(failed, page) });
            }
            "focus" if what["level"] == "background" => room.focus(Focus::Background).await,
            "focus" if what["level"] == "foreground" => room.focus(Focus::Foreground).await,
            "focus" => room.focus(Focus::Default).await,
            "networkChanged" => client.network_changed().await,
            "enteredBackground" => client.entered_background().await,
            "enteredForeground" => client.entered_foreground().await,
            "refreshToken" => client.refresh_token().await,
            "flush" => return self.later(id, async move { client.flush().await.map_or_else(failed, |()| done()) }),
            "shutdown" => {
                client.close().await;
                self.readers.values().for_each(AbortHandle::abort);
                while self.tasks.join_next().await.is_some() {}
                *self = Self::default();
            }
            other => return Err(unsupported(format!("this SDK has no {other}"))),
        }
        Ok(Some(done()))
    }

    /// Goes on with other commands until this one has ended.
    fn later(&mut self, id: u64, end: impl Future<Output = Value> + Send + 'static) -> End {
        self.tasks.spawn(async move { report(id, end.await) });
        Ok(None)
    }

    fn connect(&mut self, what: &Value) -> End {
        let mut builder = Client::builder(text(&what["url"])).token(text(&what["token"]));
        if what["asksForTokens"] == true {
            let (tokens, count) = (self.token.subscribe(), atomic::AtomicU64::new(1));
            builder = builder.token_provider(move |request: TokenRequest| {
                let (ask, mut tokens) = (count.fetch_add(1, atomic::Ordering::Relaxed), tokens.clone());
                report(0, json!({"tokenWanted": {"ask": ask, "refused": request.refused.is_some()}}));
                async move {
                    let told = tokens.wait_for(|told| told["ask"] == ask).await.map_err(|end| end.to_string())?;
                    told["token"].as_str().map(str::to_owned).ok_or_else(|| text(&told["detail"]).to_owned())
                }
            });
        }
        if let Some(hash) = what["certificateSha256"].as_str() {
            let byte = |at| u8::from_str_radix(hash.get(at..at + 2).unwrap_or(""), 16).map_err(unsupported);
            let bytes = (0..64).step_by(2).map(byte).collect::<Result<Vec<_>, _>>()?;
            builder = builder.certificate_hash(bytes[..].try_into().map_err(unsupported)?);
        }
        builder = with(builder, what["extraRoot"].as_str(), Builder::extra_root);
        builder = with(builder, what["outboxFile"].as_str(), Builder::outbox_file);
        builder = with(builder, what["positionsFile"].as_str(), Builder::positions_file);
        builder = with(builder, what["outboxTtlMs"].as_u64().map(Duration::from_millis), Builder::outbox_ttl);
        let bound = |field: &str, usual| what[field].as_u64().unwrap_or(usual) as usize;
        builder = builder.outbox(bound("outboxItemsMax", 10_000), bound("outboxBytesMax", 16 << 20));
        builder = builder.device(text(&what["device"])).app(text(&what["app"]), text(&what["appVersion"]));
        let client = self.client.insert(builder.connect().map_err(failed)?);
        self.tasks.spawn(watch(client.state(), |state| json!({ "state": state })));
        let outcomes = stream::iter(client.outbox().outcomes()).flatten();
        let words = |outcome| report(0, json!({ "outcome": outcome }));
        self.tasks.spawn(outcomes.map(words).collect());
        Ok(Some(done()))
    }

    async fn subscribe(&mut self, room: Room, what: &Value) -> End {
        let subscribe = match text(&what["start"]) {
            "beginning" => room.subscribe().from_beginning(),
            "position" => room.subscribe().from_position(text(&what["position"]).parse().map_err(unsupported)?),
            "count" => room.subscribe().from_count(what["back"].as_u64().unwrap_or(0) as u32),
            "duration" => room.subscribe().from_duration(Duration::from_millis(what["back"].as_u64().unwrap_or(0))),
            "stored" => room.subscribe(),
            _ => room.subscribe().from_live(),
        };
        let with_signals = what["withSignals"] == true;
        let subscription = if with_signals { subscribe.with_signals() } else { subscribe }.await.map_err(failed)?;
        let signals = if with_signals { Some(room.signals().await.map_err(failed)?) } else { None };
        let name = room.name().to_owned();
        self.tasks.spawn(watch(subscription.state(), move |now| json!({"roomState": of_room(&name, now)})));
        let (max, on_command) = (what["batchMax"].as_u64().unwrap_or(256) as usize, what["onCommand"] == true);
        let reader = self.tasks.spawn(read(subscription, max, on_command, self.waiting.clone()));
        self.readers.insert(room.name().to_owned(), reader);
        let words = move |change| report(0, json!({"signalChange": of_room(room.name(), change)}));
        self.tasks.spawn(stream::iter(signals).flatten().map(words).collect());
        Ok(Some(done()))
    }
}

fn body(what: &Value) -> Result<Body, Value> {
    let data = what["body"]["data"].as_str().map(|data| BASE64.decode(data)).transpose().map_err(unsupported)?;
    Ok(data.map(Body::from).or(what["body"]["text"].as_str().map(Body::from)).unwrap_or_default())
}

fn text(field: &Value) -> &str {
    field.as_str().unwrap_or("")
}

/// Does something with an option that was given.
fn with<B, T>(builder: B, given: Option<T>, set: impl FnOnce(B, T) -> B) -> B {
    if let Some(given) = given { set(builder, given) } else { builder }
}

fn done() -> Value {
    json!({"done": {}})
}

fn unsupported(why: impl ToString) -> Value {
    json!({"failed": {"kind": "unsupported", "detail": why.to_string()}})
}

fn failed(error: impl serde::Serialize) -> Value {
    json!({ "failed": error })
}

fn page(page: Option<Page>) -> Value {
    let mut page = page.map_or_else(|| json!({}), |page| json!(page));
    page["next"] = page["next"].as_str().map_or(Value::Null, |text| json!({ "text": text }));
    json!({ "historyPage": page })
}

fn of_room(room: &str, value: impl serde::Serialize) -> Value {
    let mut told = json!(value);
    told["room"] = json!(room);
    told
}
