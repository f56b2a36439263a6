//! What holds on every connection, checked on every frame that a server sends.
//!
//! An independent reading of the laws: it knows which requests wait for an answer, which handles live, and which seq
//! comes next on each lane. The first violation is kept and fails the case, whatever the case itself is about.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::lane::Lane;
use super::track::Track;

/// A broken rule.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The requirement.
    pub rule: &'static str,
    /// What came instead.
    pub text: String,
}

/// (room, epoch) by handle, shared by the connections of a case (LC-SUB-012).
pub type Handles = Arc<Mutex<HashMap<u64, (String, u64)>>>;

/// The lanes that carry events.
pub const EVENT_LANES: [&str; 3] = ["LANE_URGENT", "LANE_NORMAL", "LANE_BULK"];

/// Whether a frame is to be looked at now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It was checked.
    Now,
    /// It overtook the frame, on another stream, that says what it is about.
    Later,
}

#[derive(Default)]
struct Subscription {
    room: String,
    epoch: u64,
    /// Per lane the last seq sent or covered, where lanes are in order.
    last: [u64; 3],
    /// Per lane what may still come, where streams overtake each other.
    tracks: [Track; 3],
    /// Per lane the orders of the seqs that came.
    orders: [BTreeMap<u64, u64>; 3],
    /// Per lane the transient events sent, and those that gaps counted.
    transients: [u64; 3],
    /// By (instance, type, key): the newest signal sent.
    signals: HashMap<(String, String, String), (u64, u64)>,
    ended: bool,
}

/// The checks of one connection.
#[derive(Default)]
pub struct Ledger {
    handles: Handles,
    /// Requests that wait for an answer, by id: what kind, which room. `None` once raw bytes were sent, from which no
    /// requests can be read.
    waiting: Option<HashMap<u64, (String, String)>>,
    subscriptions: HashMap<u64, Subscription>,
    /// Frames of different lanes overtake each other.
    streams: bool,
    welcomed: bool,
    closing: Option<u64>,
    /// The client closed first, with whatever code.
    client_closes: bool,
    record_bytes_max: Option<u64>,
    violation: Option<Violation>,
}

macro_rules! require {
    ($condition:expr, $rule:literal, $($text:tt)+) => {
        if !$condition {
            return Err(Violation { rule: $rule, text: format!($($text)+) });
        }
    };
}

fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or(0)
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or("")
}

/// The lane seqs of a position value.
pub fn position_lanes(position: &Value) -> [u64; 3] {
    [number(position, "urgent"), number(position, "normal"), number(position, "bulk")]
}

/// The name of the body of a frame value.
pub fn body_name(frame: &Value) -> Option<&str> {
    frame.as_object()?.keys().map(String::as_str).find(|name| *name != "id")
}

impl Ledger {
    /// A ledger that shares its handles with the other connections of a case, for a transport with or without streams.
    pub fn new(handles: Handles, streams: bool) -> Self {
        Self { handles, streams, waiting: Some(HashMap::new()), ..Self::default() }
    }

    /// The code of the Error with closing true, if it came.
    pub fn closing(&self) -> Option<u64> {
        self.closing
    }

    /// The client closes the connection.
    pub fn client_closes(&mut self) {
        self.client_closes = true;
    }

    /// The first violation, if any.
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// From now on answers cannot be matched to requests.
    pub fn raw_sent(&mut self) {
        self.waiting = None;
    }

    /// Notes a frame that the client sent.
    pub fn sent(&mut self, frame: &Value) {
        let id = number(frame, "id");
        if id == 0 {
            return;
        }
        let name = body_name(frame).unwrap_or("").to_owned();
        let room = frame.get(&name).map_or("", |body| text(body, "room")).to_owned();
        if let Some(waiting) = &mut self.waiting
            && waiting.insert(id, (name, room)).is_some()
        {
            // The client broke LC-FRM-016, as a case may: both answers are then fine.
            self.waiting = None;
        }
    }

    /// Checks a frame and the size of its record.
    pub fn received(&mut self, frame: &Value, record_bytes: usize) -> Taken {
        if self.streams && self.is_early(frame) {
            return Taken::Later;
        }
        let result = self.check(frame, record_bytes as u64);
        self.keep(result);
        Taken::Now
    }

    /// Whether a frame overtook, on another stream, what says what it is about: Welcome, or the Subscribed that names
    /// its handle (LC-QUIC-010).
    fn is_early(&self, frame: &Value) -> bool {
        if Lane::of(frame) == Lane::Control {
            return false;
        }
        let handle = body_name(frame).map_or(0, |name| number(&frame[name], "handle"));
        !self.welcomed
            || handle != 0 && !self.subscriptions.contains_key(&handle)
            || self.is_of_next_place(frame, handle)
    }

    /// Whether an event or gap does not fit the place of its subscription while the answer to another Subscribe for
    /// the room is on its way.
    fn is_of_next_place(&self, frame: &Value, handle: u64) -> bool {
        let Some(subscription) = self.subscriptions.get(&handle) else { return false };
        let moves = |(request, room): &(String, String)| request == "subscribe" && *room == subscription.room;
        if !self.waiting.iter().flat_map(HashMap::values).any(moves) {
            return false;
        }
        let Some(name @ ("event" | "gap")) = body_name(frame) else { return false };
        let Ok(lane) = lane_of(name, &frame[name]) else { return false };
        let (from, to) = seqs(name, &frame[name]);
        from > 0 && !subscription.tracks[lane].fits(from, to)
    }

    /// Checks a whole message.
    pub fn message(&mut self, bytes: usize) {
        if let Some(max) = self.record_bytes_max
            && bytes as u64 > max
        {
            self.keep(Err(Violation { rule: "LC-WS-008", text: format!("a message of {bytes} bytes, allowed {max}") }));
        }
    }

    /// Notes a violation that was found elsewhere.
    pub fn note(&mut self, rule: &'static str, text: String) {
        self.keep(Err(Violation { rule, text }));
    }

    /// Checks the close code against the Error that must come before it.
    pub fn closed(&mut self, code: u16) {
        let result = match self.closing {
            Some(said) if u64::from(code) != said && !self.client_closes => Err(Violation {
                rule: "LC-LIFE-011",
                text: format!("Error said {said} with closing true, the transport closed with {code}"),
            }),
            None if (4000..5000).contains(&code) && !self.client_closes => Err(Violation {
                rule: "LC-LIFE-011",
                text: format!("the transport closed with {code} and no Error with closing true before it"),
            }),
            _ => Ok(()),
        };
        self.keep(result);
    }

    /// Transient events sent on a handle's lane, with those that gaps counted.
    pub fn transients(&self, handle: u64, lane: usize) -> u64 {
        self.subscriptions.get(&handle).map_or(0, |subscription| subscription.transients[lane])
    }

    fn keep(&mut self, result: Result<(), Violation>) {
        if let Err(violation) = result {
            self.violation.get_or_insert(violation);
        }
    }

    fn check(&mut self, frame: &Value, record_bytes: u64) -> Result<(), Violation> {
        let name = body_name(frame).unwrap_or("").to_owned();
        let id = number(frame, "id");
        // What was already on its way on other streams may arrive after it.
        let after = self.closing.is_some() && !(self.streams && Lane::of(frame) != Lane::Control);
        require!(!after, "LC-LIFE-011", "{name} after an Error with closing true");
        if let Some(max) = self.record_bytes_max {
            require!(record_bytes <= max, "LC-FRM-005", "a record of {record_bytes} bytes, allowed are {max}");
        }
        self.check_answer(&name, id)?;
        let body = &frame[&name];
        if !self.welcomed && name != "welcome" {
            let closing = name == "error" && body["closing"] == true;
            require!(closing, "LC-HS-010", "{name} came before Welcome");
        }
        match name.as_str() {
            "welcome" => {
                require!(!self.welcomed, "LC-HS-010", "a second Welcome");
                self.welcomed = true;
                self.record_bytes_max = body["limits"]["recordBytes"].as_u64();
            }
            "error" => {
                require!(number(body, "code") >= 4000 && number(body, "code") < 5000, "LC-ERR-001", "Error {body}");
                if body["closing"] == true {
                    self.closing = Some(number(body, "code"));
                }
            }
            "subscribed" => self.subscribed(body)?,
            "unsubscribed" => self.end(text(body, "room")),
            "event" => self.event(body)?,
            "gap" => self.gap(body)?,
            "signal" => self.signal(body)?,
            _ => {}
        }
        Ok(())
    }

    fn check_answer(&mut self, name: &str, id: u64) -> Result<(), Violation> {
        if matches!(name, "event" | "gap" | "signal" | "goAway" | "limits" | "credit" | "fragment" | "fragmentAbort") {
            require!(id == 0, "LC-FRM-013", "{name} answers nothing and has id {id}");
        }
        if id == 0 || name == "ping" {
            return Ok(());
        }
        let Some(waiting) = &mut self.waiting else { return Ok(()) };
        let Some((request, _)) = waiting.remove(&id) else {
            return Err(Violation {
                rule: "LC-FRM-013",
                text: format!("{name} answers id {id}, which nothing asks for"),
            });
        };
        let fits = match request.as_str() {
            "hello" => matches!(name, "welcome" | "error"),
            "ping" => name == "pong",
            "subscribe" => matches!(name, "subscribed" | "error"),
            "unsubscribe" => matches!(name, "unsubscribed" | "error"),
            "publish" => matches!(name, "published" | "error"),
            "history" => matches!(name, "historyPage" | "error"),
            "signal" => matches!(name, "done" | "error"),
            _ => true,
        };
        require!(fits, "LC-FRM-013", "{request} with id {id} was answered with {name}");
        Ok(())
    }

    fn subscribed(&mut self, body: &Value) -> Result<(), Violation> {
        let (room, handle) = (text(body, "room"), number(body, "handle"));
        let (position, head) = (&body["position"], &body["head"]);
        require!(handle != 0, "LC-SUB-001", "Subscribed has handle 0");
        require!(position.is_object() && head.is_object(), "LC-SUB-001", "Subscribed lacks position or head: {body}");
        let epoch = number(position, "epoch");
        require!(epoch != 0 && epoch == number(head, "epoch"), "LC-SUB-001", "epochs of position and head: {body}");
        let last = position_lanes(position);
        let within = last.iter().zip(position_lanes(head)).all(|(position, head)| *position <= head);
        require!(within, "LC-SUB-001", "the position is beyond the head: {body}");
        {
            let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
            let known = handles.entry(handle).or_insert_with(|| (room.to_owned(), epoch));
            require!(
                known.0 == room && known.1 == epoch,
                "LC-SUB-012",
                "handle {handle} stands for {room} in epoch {epoch} and for {} in epoch {}",
                known.0,
                known.1
            );
            let other = handles.iter().find(|(other, named)| **other != handle && named.0 == room && named.1 == epoch);
            require!(
                other.is_none(),
                "LC-SUB-012",
                "{room} in epoch {epoch} has the handles {handle} and {}",
                other.map_or(0, |(other, _)| *other)
            );
        }
        for gap in body["rolledBack"].as_array().into_iter().flatten() {
            require!(text(gap, "cause") == "GAP_CAUSE_ROLLED_BACK", "LC-RES-010", "rolled_back holds {gap}");
        }
        self.end(room);
        if !self.streams {
            let subscription = Subscription { room: room.to_owned(), epoch, last, ..Subscription::default() };
            self.subscriptions.insert(handle, subscription);
            return Ok(());
        }
        let fresh = || Subscription {
            room: room.to_owned(),
            epoch,
            tracks: [Track::new(true), Track::new(false), Track::new(false)],
            ..Subscription::default()
        };
        let subscription = self.subscriptions.entry(handle).or_insert_with(fresh);
        subscription.ended = false;
        for (track, after) in subscription.tracks.iter_mut().zip(last) {
            track.begin(after);
        }
        Ok(())
    }

    fn end(&mut self, room: &str) {
        self.subscriptions.values_mut().filter(|subscription| subscription.room == room).for_each(|s| s.ended = true);
    }

    fn live(&mut self, name: &str, body: &Value) -> Result<&mut Subscription, Violation> {
        let (handle, streams) = (number(body, "handle"), self.streams);
        let Some(subscription) = self.subscriptions.get_mut(&handle) else {
            let text = format!("{name} has handle {handle}, which no Subscribed named");
            return Err(Violation { rule: "LC-SUB-009", text });
        };
        // On streams what was already handed over may still arrive; cases say where nothing was.
        require!(!subscription.ended || streams, "LC-SUB-007", "{name} has handle {handle}, whose subscription ended");
        Ok(subscription)
    }

    fn event(&mut self, body: &Value) -> Result<(), Violation> {
        let lane = lane_of("Event", body)?;
        let (seq, order) = (number(body, "seq"), number(body, "order"));
        require!(number(body, "epoch") == 0, "LC-SUB-013", "an Event on a lane names an epoch: {body}");
        let streams = self.streams;
        let subscription = self.live("Event", body)?;
        if seq == 0 {
            require!(order == 0, "LC-SUB-020", "a transient Event has order {order}");
            subscription.transients[lane] += 1;
            return Ok(());
        }
        subscription.advance(streams, lane, (seq, seq), true)?;
        let orders = &mut subscription.orders[lane];
        let before = orders.range(..seq).next_back().map_or(0, |(_, order)| *order);
        let after = orders.range(seq + 1..).next().map_or(u64::MAX, |(_, order)| *order);
        let same = orders.get(&seq).is_none_or(|known| *known == order);
        require!(
            same && before < order && order < after,
            "LC-PUB-012",
            "{} of {}: seq {seq} has order {order}, between {before} and {after}",
            EVENT_LANES[lane],
            subscription.room
        );
        orders.insert(seq, order);
        Ok(())
    }

    fn gap(&mut self, body: &Value) -> Result<(), Violation> {
        let lane = lane_of("Gap", body)?;
        let (from, to, cause) = (number(body, "from"), number(body, "to"), text(body, "cause"));
        require!(cause != "GAP_CAUSE_UNSPECIFIED", "LC-SUB-015", "a Gap without cause: {body}");
        require!(cause != "GAP_CAUSE_UNKNOWN", "LC-SUB-017", "cause UNKNOWN with an unbroken log: {body}");
        let streams = self.streams;
        let subscription = self.live("Gap", body)?;
        let epoch = number(body, "epoch");
        require!(epoch == subscription.epoch, "LC-SUB-013", "a Gap bears epoch {epoch}, not {}", subscription.epoch);
        if from == 0 {
            require!(to == 0, "LC-SUB-020", "a transient Gap with to {to}");
            subscription.transients[lane] += number(body, "count");
            return Ok(());
        }
        require!(to >= from, "LC-SUB-015", "a Gap from {from} to {to}");
        subscription.advance(streams, lane, (from, to), false)
    }

    fn signal(&mut self, body: &Value) -> Result<(), Violation> {
        let stamp = (number(body, "start"), number(body, "counter"));
        let key = (
            text(&body["from"], "instance").to_owned(),
            text(&body["envelope"], "type").to_owned(),
            text(&body["envelope"], "key").to_owned(),
        );
        let streams = self.streams;
        let subscription = self.live("Signal", body)?;
        let newest = subscription.signals.entry(key).or_default();
        // Datagrams overtake each other, and a client drops the older one (LC-SIG-011).
        require!(stamp > *newest || streams, "LC-SIG-003", "signal {stamp:?} came after {newest:?}");
        *newest = stamp.max(*newest);
        Ok(())
    }
}

impl Subscription {
    /// Moves past these seqs, which must follow what was sent or covered before on their lane.
    fn advance(&mut self, streams: bool, lane: usize, (from, to): (u64, u64), is_event: bool) -> Result<(), Violation> {
        let rule = if is_event { "LC-SUB-010" } else { "LC-SUB-015" };
        let told = |text: String| Violation { rule, text: format!("{} of {}: {text}", EVENT_LANES[lane], self.room) };
        if streams {
            let track = &mut self.tracks[lane];
            let taken = if is_event { track.take_event(from) } else { track.take(from, to) };
            return taken.map_err(|unexpected| told(unexpected.0));
        }
        let expected = self.last[lane] + 1;
        if from != expected {
            return Err(told(format!("seq {from} came, {expected} follows")));
        }
        self.last[lane] = to;
        Ok(())
    }
}

/// The seqs that an event or gap stands for; zeros for what is transient.
fn seqs(name: &str, body: &Value) -> (u64, u64) {
    if name == "event" {
        (number(body, "seq"), number(body, "seq"))
    } else {
        (number(body, "from"), number(body, "to"))
    }
}

fn lane_of(name: &str, body: &Value) -> Result<usize, Violation> {
    let lane = text(body, "lane");
    EVENT_LANES
        .iter()
        .position(|known| *known == lane)
        .ok_or_else(|| Violation { rule: "LC-SUB-013", text: format!("{name} has lane {lane}") })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn subscribed() -> Ledger {
        let mut ledger = Ledger::new(Handles::default(), false);
        ledger.received(&json!({"welcome": {"limits": {"recordBytes": 1000}}}), 10);
        let position = json!({"epoch": 5, "urgent": 0, "normal": 2, "bulk": 0});
        ledger.received(
            &json!({"subscribed": {"room": "r", "handle": 9, "position": position, "head": position, "rolledBack": []}}),
            10,
        );
        assert!(ledger.violation().is_none());
        ledger
    }

    fn event(seq: u64) -> Value {
        json!({"event": {"handle": 9, "lane": "LANE_NORMAL", "seq": seq, "order": seq, "epoch": 0}})
    }

    #[test]
    fn each_seq_follows_once() {
        for (seqs, rule) in [(vec![3, 4], None), (vec![3, 3], Some("LC-SUB-010")), (vec![4], Some("LC-SUB-010"))] {
            let mut ledger = subscribed();
            for seq in seqs {
                ledger.received(&event(seq), 10);
            }
            assert_eq!(ledger.violation().map(|violation| violation.rule), rule);
        }
    }

    #[test]
    fn a_gap_is_the_only_way_past_a_seq() {
        let mut ledger = subscribed();
        ledger.received(
            &json!({"gap": {"handle": 9, "lane": "LANE_NORMAL", "epoch": 5, "from": 3, "to": 6,
                "cause": "GAP_CAUSE_TRIMMED"}}),
            10,
        );
        ledger.received(&event(7), 10);
        assert!(ledger.violation().is_none());
    }

    #[test]
    fn answers_fit_requests() {
        let mut ledger = subscribed();
        ledger.sent(&json!({"id": 3, "ping": {}}));
        ledger.received(&json!({"id": 3, "pong": {}}), 10);
        assert!(ledger.violation().is_none());
        ledger.received(&json!({"id": 3, "pong": {}}), 10);
        assert_eq!(ledger.violation().unwrap().rule, "LC-FRM-013");
    }

    #[test]
    fn close_codes_repeat_the_error() {
        let mut ledger = subscribed();
        ledger.received(&json!({"error": {"code": 4001, "closing": true}}), 10);
        ledger.closed(4001);
        assert!(ledger.violation().is_none());
        let mut ledger = subscribed();
        ledger.closed(4001);
        assert_eq!(ledger.violation().unwrap().rule, "LC-LIFE-011");
    }
}
