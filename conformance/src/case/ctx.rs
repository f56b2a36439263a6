//! What a running case has in hand: connections, variables, and the verbs that steps and code share.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::Need;
use super::pattern::{Vars, matches};
use crate::client::http::{Response, Sse};
use crate::client::{Conn, Encoding, Handles, Open, Received, Refused, Transport, WireLog, body_name, short};
use crate::target::{Target, TokenWish, Tokens, all_rights};
use crate::verdict::{Outcome, Stop, check};

/// Time in which what must not come would have come, after a barrier.
const GRACE: Duration = Duration::from_millis(120);

/// How a connection joins: handshake, Hello, Welcome.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Join {
    /// Name of the connection in the case.
    #[serde(rename = "as")]
    pub name: String,
    /// User; else one of its own.
    pub user: Option<String>,
    /// Instance; else one of its own.
    pub instance: Option<String>,
    /// Rights of the token; else all.
    pub rights: Option<Value>,
    /// Lifetime of the token.
    pub expires_s: Option<i64>,
    /// Claims to add to the token.
    pub claims: Option<Value>,
    /// Sign with a wrong secret.
    pub bad_signature: bool,
    /// `alg` of the token's header.
    pub alg: Option<String>,
    /// Further fields of the token's header.
    pub header: Option<Value>,
    /// Sign with another key of the fixture: `second` or `retired`.
    pub key: Option<String>,
    /// The token itself.
    pub token: Option<String>,
    /// Fields of Hello to set, or with null to leave out.
    pub hello: Option<Value>,
    /// Transport; else that of the case.
    pub transport: Option<Transport>,
    /// Encoding; else that of the case.
    pub encoding: Option<Encoding>,
    /// Bytes that the transport buffers, by stream where it has streams, while the case does not read.
    pub receive_buffer: Option<u32>,
    /// Pattern for Welcome.
    pub welcome: Option<Value>,
    /// Hello is refused with this code and the connection closes with it.
    pub refused: Option<u64>,
}

impl Join {
    /// Joins under that name with everything by default.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }
}

/// The state of one case over one transport in one encoding.
pub struct Ctx {
    /// The server.
    pub target: Arc<Target>,
    /// What carries its connections.
    pub transport: Transport,
    /// Encoding of its connections.
    pub encoding: Encoding,
    /// Its variables.
    pub vars: Vars,
    /// What went over its connections.
    pub log: WireLog,
    /// Prefix of names that no other case uses.
    pub unique: String,
    handles: Handles,
    conns: BTreeMap<String, Conn>,
    numbers: HashMap<(String, String, String, String), u64>,
}

static CASES: AtomicU64 = AtomicU64::new(1);

impl Ctx {
    /// A fresh case. `run` is the same for all cases of a run.
    pub fn new(target: Arc<Target>, transport: Transport, encoding: Encoding, run: &str) -> Self {
        let unique = format!("{run}-{}", CASES.fetch_add(1, Ordering::Relaxed));
        let mut vars = Vars::default();
        vars.set("unique", json!(unique));
        vars.set("room", json!(format!("conform.{unique}")));
        vars.set("trim_room", json!(format!("conform.trim.{unique}")));
        for (index, key) in target.api_keys.iter().enumerate() {
            vars.set(&format!("api_key{}", index + 1), json!(key));
        }
        Self {
            target,
            transport,
            encoding,
            vars,
            log: WireLog::default(),
            unique,
            handles: Handles::default(),
            conns: BTreeMap::new(),
            numbers: HashMap::new(),
        }
    }

    /// How long to wait for what should come at once.
    pub fn patience(&self) -> Duration {
        self.target.patience
    }

    /// The room of the case.
    pub fn room(&self) -> String {
        self.vars.find("room").and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// The user that a connection of that name has by default.
    pub fn user(&self, name: &str) -> String {
        format!("u{}-{name}", self.unique)
    }

    /// A connection by name.
    pub fn conn(&mut self, name: &str) -> Outcome<&mut Conn> {
        self.conns.get_mut(name).ok_or_else(|| Stop::Harness(format!("there is no connection {name}")))
    }

    /// Takes a connection out of the case.
    pub fn take(&mut self, name: &str) -> Outcome<Conn> {
        self.conns.remove(name).ok_or_else(|| Stop::Harness(format!("there is no connection {name}")))
    }

    /// Adds a connection.
    pub fn add(&mut self, conn: Conn) {
        self.vars.set(&conn.name, json!({"user": conn.user, "instance": conn.instance}));
        self.conns.insert(conn.name.clone(), conn);
    }

    /// The server was started anew: handles mean something else, and what it says of itself may be another.
    pub async fn came_back(&mut self) -> Outcome {
        self.handles = Handles::default();
        self.conns.clear();
        self.target.came_back().await
    }

    /// Fails with the first violation that a ledger saw.
    pub fn check_ledgers(&self) -> Outcome {
        for conn in self.conns.values() {
            if let Some(violation) = conn.ledger.violation() {
                let text = format!("{}: {}: {}", conn.name, violation.rule, violation.text);
                return Err(Stop::Fail(text, Some(violation.rule)));
            }
        }
        Ok(())
    }

    /// Stops the case if the run or the server lacks what it needs.
    pub async fn check_needs(&mut self, needs: &[Need]) -> Outcome {
        if self.encoding == Encoding::Json && !self.target.speaks(Encoding::Json.subprotocol()) {
            return Err(Stop::Unsupported("lanecast.v1+json is not advertised".into()));
        }
        for need in needs {
            match need {
                Need::History => {
                    let room = self.room();
                    self.capability("CAPABILITY_HISTORY", json!({"history": {"room": room}})).await?;
                }
                Need::Signals => {
                    let signal = json!({"signal": {"room": self.room(), "counter": 1, "envelope": {"key": "probe"}}});
                    self.capability("CAPABILITY_SIGNALS", signal).await?;
                }
                Need::Refresh => {
                    self.capability("CAPABILITY_REFRESH", json!({"refreshToken": {"token": "probe"}})).await?;
                }
                Need::Replicated => {
                    let envelope = json!({"type": "t"});
                    let publish =
                        json!({"room": self.room(), "number": 1, "ack": "ACK_LEVEL_REPLICATED", "envelope": envelope});
                    self.capability("CAPABILITY_REPLICATED", json!({"publish": publish})).await?;
                }
                Need::Fragments => {
                    let fragment =
                        json!({"fragment": {"transfer": 1, "lane": "LANE_BULK", "total": 9, "data": "AA=="}});
                    self.capability("CAPABILITY_FRAGMENTS", fragment).await?;
                }
                Need::NotReplicated if self.target.advertises("CAPABILITY_REPLICATED") == Some(true) => {
                    return Err(Stop::Skipped("the server replicates".into()));
                }
                Need::Focus => {
                    let focus = json!({"focus": {"room": self.room()}});
                    self.capability("CAPABILITY_FOCUS", focus).await?;
                }
                Need::Credit => self.named("CAPABILITY_CREDIT").await?,
                Need::Api if self.target.api_keys.is_empty() => {
                    return Err(Stop::Skipped("needs --api-key or --fixture".into()));
                }
                Need::Api => {
                    let path = format!("/v1/rooms/{}/position", self.room());
                    let key = self.target.api_keys[0].clone();
                    let answer = self.http("GET", &path, Some(&key), &[], None).await?;
                    if answer.status == 404 {
                        return Err(Stop::Unsupported("the HTTP API is not there".into()));
                    }
                }
                Need::Operate => {
                    let Some(key) = self.target.api_keys.first().cloned() else {
                        return Err(Stop::Skipped("needs --api-key or --fixture".into()));
                    };
                    match self.http("GET", "/v1/nodes", Some(&key), &[], None).await?.status {
                        404 => return Err(Stop::Unsupported("the profile operate is not there".into())),
                        403 => return Err(Stop::Skipped("the API key has no control".into())),
                        _ => {}
                    }
                }
                Need::Jwt if !matches!(self.target.tokens, Tokens::Jwt(_)) => {
                    return Err(Stop::Skipped("needs --jwt-secret or --fixture".into()));
                }
                Need::Fixture if !self.target.fixture => {
                    return Err(Stop::Unsupported("no control: needs the rooms of the fixture (--fixture)".into()));
                }
                Need::NewLog | Need::OldLog | Need::EngineDown if !self.target.control.can_renew_logs() => {
                    return Err(Stop::Unsupported("no control over the logs of a running server".into()));
                }
                Need::Restart | Need::Drain if matches!(self.target.control, crate::control::Control::None) => {
                    return Err(Stop::Unsupported("no control".into()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A capability that is not advertised must also be answered UNIMPLEMENTED.
    async fn capability(&mut self, name: &str, probe: Value) -> Outcome {
        if self.advertises(name).await? {
            return Ok(());
        }
        let within = self.patience();
        let answer = self.conn("probe")?.ask(probe, within).await?;
        if answer["error"]["code"] == 4301 {
            return Err(Stop::Unsupported(format!("{name} is neither advertised nor served")));
        }
        Err(Stop::Fail(format!("{name} is not advertised but answered with {answer}"), Some("LC-HS-014")))
    }

    /// A capability without a request that could be tried.
    async fn named(&mut self, name: &str) -> Outcome {
        match self.advertises(name).await? {
            true => Ok(()),
            false => Err(Stop::Unsupported(format!("{name} is not advertised"))),
        }
    }

    /// Whether the server names a capability. If not, the connection that asked stays, as `probe`.
    async fn advertises(&mut self, name: &str) -> Outcome<bool> {
        if self.target.advertises(name) == Some(true) {
            return Ok(true);
        }
        self.join(Join { welcome: Some(json!({"capabilities": "$=capabilities"})), ..Join::named("probe") }).await?;
        let named =
            self.vars.find("capabilities").and_then(Value::as_array).is_some_and(|list| list.contains(&json!(name)));
        if named {
            self.take("probe")?;
        }
        Ok(named)
    }

    /// Makes the transport's handshake only.
    pub async fn open(&mut self, open: Open) -> Outcome<Result<Conn, Refused>> {
        Conn::open(&self.target, open, &self.log, &self.handles).await
    }

    /// How a connection of the case is opened by default.
    pub fn opening(&self, name: &str) -> Open {
        Open { encoding: self.encoding, ..Open::plain(name, self.transport) }
    }

    /// The handshake by default, kept under a name.
    pub async fn open_named(&mut self, name: &str) -> Outcome {
        self.open_with(self.opening(name)).await
    }

    /// A handshake that must be accepted, kept under its name.
    pub async fn open_with(&mut self, open: Open) -> Outcome {
        match self.open(open).await? {
            Ok(conn) => {
                self.add(conn);
                Ok(())
            }
            Err(refused) => Err(Stop::fail(format!("the handshake was refused with {}", refused.status))),
        }
    }

    /// Handshake, Hello, Welcome. Returns the frame that answered Hello.
    pub async fn join(&mut self, join: Join) -> Outcome<Value> {
        let transport = join.transport.unwrap_or(self.transport);
        let encoding = join.encoding.unwrap_or(self.encoding);
        let receive_buffer = join.receive_buffer;
        self.open_with(Open { transport, encoding, receive_buffer, ..self.opening(&join.name) }).await?;
        let hello = self.hello(&join).await?;
        let within = self.patience();
        let (user, instance) = (
            join.user.clone().unwrap_or_else(|| self.user(&join.name)),
            hello["instance"].as_str().unwrap_or("").to_owned(),
        );
        let conn = self.conn(&join.name)?;
        conn.user = user;
        conn.instance = instance;
        conn.send(&[json!({"id": 1, "hello": hello})]).await?;
        self.vars
            .set(&join.name, json!({"user": self.conns[&join.name].user, "instance": self.conns[&join.name].instance}));
        if let Some(code) = join.refused {
            return self.fatal(&join.name, code).await;
        }
        let welcome = self
            .conn(&join.name)?
            .wait_for(within, "Welcome", |received| matches!(body_name(&received.value), Some("welcome" | "error")))
            .await?
            .value;
        let pattern = json!({"id": 1, "welcome": join.welcome.unwrap_or_else(|| json!({}))});
        self.fits(&pattern, &welcome)?;
        Ok(welcome)
    }

    /// The Hello that a join sends.
    pub async fn hello(&mut self, join: &Join) -> Outcome<Value> {
        let user = join.user.clone().unwrap_or_else(|| self.user(&join.name));
        let token = match &join.token {
            Some(token) => token.clone(),
            None => {
                let wish = TokenWish {
                    user,
                    rights: join.rights.clone(),
                    expires_s: join.expires_s,
                    claims: join.claims.clone(),
                    bad_signature: join.bad_signature,
                    alg: join.alg.clone(),
                    header: join.header.clone(),
                    key: join.key.clone(),
                };
                self.target.token(&wish).await?
            }
        };
        let instance = join.instance.clone().unwrap_or_else(|| format!("i{}-{}", self.unique, join.name));
        let mut hello = json!({
            "versionMin": 1, "versionMax": 1, "token": token, "instance": instance,
            "client": {"name": "lanecast-conform"},
        });
        if let (Some(Value::Object(extra)), Some(hello)) = (&join.hello, hello.as_object_mut()) {
            for (name, value) in extra {
                match value {
                    Value::Null => hello.remove(name),
                    _ => hello.insert(name.clone(), value.clone()),
                };
            }
        }
        Ok(hello)
    }

    /// Joins with everything by default.
    pub async fn join_as(&mut self, name: &str) -> Outcome<Value> {
        self.join(Join::named(name)).await
    }

    /// Checks a value against a pattern.
    pub fn fits(&mut self, pattern: &Value, actual: &Value) -> Outcome {
        matches(pattern, actual, &mut self.vars)
            .map_err(|complaint| Stop::fail(format!("{complaint} in {}", short(actual))))
    }

    /// Sends a request under a fresh id; its answer must fit.
    pub async fn ask(&mut self, name: &str, frame: Value, pattern: &Value) -> Outcome<Value> {
        let within = self.patience();
        let answer = self.conn(name)?.ask(frame, within).await?;
        self.fits(pattern, &answer)?;
        Ok(answer)
    }

    /// Waits for a frame that fits; others stay pending.
    pub async fn expect(&mut self, name: &str, pattern: &Value) -> Outcome<Received> {
        self.expect_within(name, pattern, self.patience()).await
    }

    /// As [`expect`](Self::expect), with another patience.
    pub async fn expect_within(&mut self, name: &str, pattern: &Value, within: Duration) -> Outcome<Received> {
        let mut vars = self.vars.clone();
        let mut nearest = String::new();
        let body = body_name(pattern).unwrap_or("").to_owned();
        let what = short(pattern);
        let found = self
            .conn(name)?
            .wait_for(within, &what, |received| match matches(pattern, &received.value, &mut vars) {
                Ok(()) => true,
                Err(complaint) => {
                    if body_name(&received.value) == Some(&body) {
                        nearest = complaint;
                    }
                    false
                }
            })
            .await;
        match found {
            Ok(received) => {
                self.vars = vars;
                Ok(received)
            }
            Err(Stop::Fail(text, None)) if !nearest.is_empty() => Err(Stop::fail(format!("{text}; {nearest}"))),
            Err(stop) => Err(stop),
        }
    }

    /// The very next frame must fit.
    pub async fn next(&mut self, name: &str, pattern: &Value) -> Outcome<Received> {
        let within = self.patience();
        let what = short(pattern);
        let received = self.conn(name)?.wait_for(within, &what, |_| true).await?;
        self.fits(pattern, &received.value)?;
        Ok(received)
    }

    /// No frame that fits came until now or comes within the grace time after a barrier.
    pub async fn none(&mut self, name: &str, pattern: &Value) -> Outcome {
        let within = self.patience();
        let mut vars = self.vars.clone();
        let conn = self.conn(name)?;
        if conn.closed().is_none() {
            conn.barrier(within).await?;
            conn.settle(GRACE).await?;
        }
        match conn.pending().iter().find(|received| matches(pattern, &received.value, &mut vars).is_ok()) {
            Some(received) => Err(Stop::fail(format!("{name}: {} came and must not", short(&received.value)))),
            None => Ok(()),
        }
    }

    /// A request that must be refused with a code, the connection alive and the room named.
    pub async fn refuse(&mut self, name: &str, frame: Value, code: u64) -> Outcome<Value> {
        let room = body_name(&frame).and_then(|body| frame[body]["room"].as_str()).unwrap_or_default().to_owned();
        let within = self.patience();
        let answer = self.conn(name)?.ask(frame.clone(), within).await?;
        let error = &answer["error"];
        check(error["code"] == code, || {
            format!("{} must be refused with {code}; {} came", short(&frame), short(&answer))
        })?;
        check(error["closing"] != true, || format!("the refusal has closing true: {}", short(&answer)))?;
        if error["room"] != room {
            let text = format!("the refusal names room {} instead of {room:?}", error["room"]);
            return Err(Stop::Fail(text, Some("LC-ERR-007")));
        }
        if matches!(code, 4400 | 4401 | 4403) && error["retryAfterMs"].as_u64().unwrap_or(0) == 0 {
            return Err(Stop::Fail(format!("no retry_after_ms: {}", short(&answer)), Some("LC-ERR-008")));
        }
        self.conn(name)?.barrier(within).await?;
        Ok(answer)
    }

    /// Error with that code and closing true must come, and then the close with the same code.
    pub async fn fatal(&mut self, name: &str, code: u64) -> Outcome<Value> {
        let within = self.patience();
        self.fatal_within(name, code, within).await
    }

    /// As [`fatal`](Self::fatal), with another patience.
    pub async fn fatal_within(&mut self, name: &str, code: u64, within: Duration) -> Outcome<Value> {
        let conn = self.conn(name)?;
        let what = format!("Error {code} with closing true");
        let error = conn.wait_for(within, &what, |received| received.value["error"]["closing"] == true).await?.value;
        check(error["error"]["code"] == code, || {
            format!("the connection ends with {} instead of {code}", short(&error))
        })?;
        let closed = conn.wait_closed(within).await?;
        check(u64::from(closed) == code, || format!("closed with {closed} instead of {code}"))?;
        Ok(error)
    }

    /// Subscribes and returns the body of Subscribed.
    pub async fn subscribe(&mut self, name: &str, subscribe: Value) -> Outcome<Value> {
        let answer = self.ask(name, json!({"subscribe": subscribe}), &json!({"subscribed": {"handle": "$>0"}})).await?;
        Ok(answer["subscribed"].clone())
    }

    /// The next publish number of a connection's instance in a room and lane.
    pub fn next_number(&mut self, name: &str, room: &str, lane: &str) -> Outcome<u64> {
        let (user, instance) = {
            let conn = self.conn(name)?;
            (conn.user.clone(), conn.instance.clone())
        };
        let lane = if lane.is_empty() { "LANE_NORMAL" } else { lane };
        let number = self.numbers.entry((user, instance, room.to_owned(), lane.to_owned())).or_default();
        *number += 1;
        Ok(*number)
    }

    /// Publishes durable events in one packet and returns the bodies of Published.
    pub async fn publish(&mut self, name: &str, room: &str, lane: &str, texts: &[String]) -> Outcome<Vec<Value>> {
        let mut answers = Vec::new();
        // Below limits.record_bytes of any server, and below the publishes that it lets wait.
        let longest = texts.iter().map(String::len).max().unwrap_or(0) + 200;
        for (index, chunk) in texts.chunks((100_000 / longest).clamp(1, 100)).enumerate() {
            let mut frames = Vec::new();
            let mut ids = Vec::new();
            for (place, text) in chunk.iter().enumerate() {
                let number = self.next_number(name, room, lane)?;
                let id = self.conn(name)?.next_id();
                let mut publish = json!({
                    "room": room, "delivery": "DELIVERY_DURABLE", "number": number,
                    "after": if index + place == 0 { 0 } else { number - 1 },
                    "envelope": {"type": "conform", "text": text},
                });
                if !lane.is_empty() {
                    publish["lane"] = json!(lane);
                }
                frames.push(json!({"id": id, "publish": publish}));
                ids.push(id);
            }
            self.conn(name)?.send(&frames).await?;
            for id in ids {
                let answer = self.expect(name, &json!({"id": id})).await?;
                self.fits(&json!({"published": {"seq": "$>0", "order": "$>0"}}), &answer.value)?;
                answers.push(answer.value["published"].clone());
            }
        }
        Ok(answers)
    }

    /// Publishes one durable event on lane normal.
    pub async fn publish_one(&mut self, name: &str, room: &str, text: &str) -> Outcome<Value> {
        let mut answers = self.publish(name, room, "", &[text.to_owned()]).await?;
        answers.pop().ok_or_else(|| Stop::harness("no answer"))
    }

    /// Expects exactly these durable events next on a handle's lane; others stay pending. Returns their bodies.
    pub async fn events(&mut self, name: &str, handle: &Value, lane: &str, from: u64, to: u64) -> Outcome<Vec<Value>> {
        let mut found = Vec::new();
        for seq in from..=to {
            let pattern = json!({"event": {"handle": handle, "lane": lane, "seq": seq}});
            found.push(self.expect(name, &pattern).await?.value["event"].clone());
        }
        Ok(found)
    }

    /// Makes a request of the API; headers are added to those of the key.
    pub async fn http(
        &mut self,
        method: &str,
        path: &str,
        bearer: Option<&str>,
        headers: &[(String, String)],
        body: Option<Vec<u8>>,
    ) -> Outcome<Response> {
        let mut all = headers.to_vec();
        if let Some(bearer) = bearer {
            all.push(("Authorization".into(), format!("Bearer {bearer}")));
        }
        if body.is_some() && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            all.push(("Content-Type".into(), "application/json".into()));
        }
        self.target.http(method, path, &all, body, &self.log).await
    }

    /// Opens a stream of server-sent events of a room.
    pub async fn sse(&mut self, room: &str, query: &str, last_event_id: Option<&str>) -> Outcome<Sse> {
        let key = self.target.api_keys.first().cloned().unwrap_or_default();
        let mut headers = vec![("Authorization".to_owned(), format!("Bearer {key}"))];
        if let Some(id) = last_event_id {
            headers.push(("Last-Event-ID".into(), id.into()));
        }
        Sse::open(self.target.api(), &format!("/v1/rooms/{room}/events{query}"), &headers, &self.log).await
    }

    /// Rights in given rooms.
    pub fn rights(allow: &[&str], rooms: &[&str]) -> Value {
        json!([{"allow": allow, "rooms": rooms}])
    }

    /// A token of a user with all rights.
    pub async fn user_token(&mut self, name: &str) -> Outcome<String> {
        let wish = TokenWish { user: self.user(name), rights: Some(all_rights()), ..TokenWish::default() };
        self.target.token(&wish).await
    }
}
