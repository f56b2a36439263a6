//! What the model client keeps of a room.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::ClientMutant;
use crate::peer::position;

/// The lanes, as a position counts them.
const LANES: [&str; 3] = ["urgent", "normal", "bulk"];

/// What a room makes of a frame.
pub(super) enum Taken {
    /// Hand it over.
    Item,
    /// It has come before, or is not shown.
    Nothing,
    /// Something is missing before it.
    Hole,
}

/// A subscription.
pub(super) struct Room {
    pub(super) handle: u64,
    /// The Subscribe that is not answered.
    pub(super) asked: Option<u64>,
    epoch: u64,
    /// Received, by lane.
    received: [u64; 3],
    start: Value,
    on_command: bool,
    /// Items that wait for the application: their reports, and the position after them.
    queue: VecDeque<(Value, [u64; 3])>,
    /// What was reported and not acknowledged.
    waiting: Option<[u64; 3]>,
}

fn lane(body: &Value) -> usize {
    let name = body["lane"].as_str().unwrap_or("").trim_start_matches("LANE_").to_lowercase();
    LANES.iter().position(|lane| *lane == name).unwrap_or(1)
}

impl Room {
    pub(super) fn new(what: &Value) -> Self {
        let start = match what["start"].as_str().unwrap_or("") {
            "beginning" => json!({"beginning": {}}),
            "position" => json!({"position": position(what["position"].as_str().unwrap_or(""))}),
            _ => Value::Null,
        };
        Self {
            handle: 0,
            asked: None,
            epoch: 0,
            received: [0; 3],
            start,
            on_command: what["onCommand"] == true,
            queue: VecDeque::new(),
            waiting: None,
        }
    }

    fn text(&self, at: [u64; 3]) -> String {
        format!("{}-{}-{}-{}", self.epoch, at[0], at[1], at[2])
    }

    /// The Subscribe that goes on where it stands.
    pub(super) fn subscribe(&self, name: &str, mutant: Option<ClientMutant>) -> Value {
        let resumes = self.epoch != 0 && mutant != Some(ClientMutant::ResumesLive);
        let start = if resumes { json!({"position": position(&self.text(self.received))}) } else { self.start.clone() };
        if start.is_null() { json!({ "room": name }) } else { json!({"room": name, "start": start}) }
    }

    /// The answer to the Subscribe.
    pub(super) fn subscribed(&mut self, subscribed: &Value) {
        let at = &subscribed["position"];
        let number = |name: &str| at[name].as_u64().unwrap_or(0);
        self.handle = subscribed["handle"].as_u64().unwrap_or(0);
        self.asked = None;
        if self.epoch == 0 {
            self.epoch = number("epoch");
            self.received = [number("urgent"), number("normal"), number("bulk")];
        }
    }

    /// Takes an Event or a Gap.
    pub(super) fn take(&mut self, name: &str, kind: &str, body: &Value, mutant: Option<ClientMutant>) -> Taken {
        let lane = lane(body);
        let number = |field: &str| body[field].as_u64().unwrap_or(0);
        let (from, to) = if kind == "event" { (number("seq"), number("seq")) } else { (number("from"), number("to")) };
        let received = self.received[lane];
        let doubled = mutant == Some(ClientMutant::DoubledTaken) && kind == "event";
        if to <= received && from != 0 && !doubled {
            return Taken::Nothing;
        }
        if from > received + 1 && mutant != Some(ClientMutant::HolesPassed) {
            return Taken::Hole;
        }
        self.received[lane] = received.max(to);
        let shown =
            body["cause"] != "GAP_CAUSE_FILTERED" && !(kind == "gap" && mutant == Some(ClientMutant::GapsHidden));
        if !shown {
            return Taken::Nothing;
        }
        let mut report = body.clone();
        report["room"] = json!(name);
        report["lane"] = json!(LANES[lane]);
        let report = if kind == "event" { event(&report, self.epoch) } else { gap(&report, received) };
        self.queue.push_back((json!({ kind: report }), self.received));
        Taken::Item
    }

    /// Reports that can be made now.
    pub(super) fn reports(&mut self, name: &str, mutant: Option<ClientMutant>) -> Vec<Value> {
        let mut reports = Vec::new();
        while self.waiting.is_none()
            && let Some((report, at)) = self.queue.pop_front()
        {
            reports.push(report);
            self.waiting = Some(at);
            if !self.on_command {
                reports.extend(self.acknowledge(name, mutant));
            }
        }
        reports
    }

    /// The application handled what was reported; its position then.
    pub(super) fn acknowledge(&mut self, name: &str, mutant: Option<ClientMutant>) -> Option<Value> {
        let mut at = self.waiting.take()?;
        if mutant == Some(ClientMutant::PositionAtArrival) {
            at = self.received;
        }
        Some(json!({"position": {"room": name, "position": self.text(at)}}))
    }
}

fn event(body: &Value, epoch: u64) -> Value {
    let envelope = &body["envelope"];
    let mut report = json!({"room": body["room"], "lane": body["lane"], "epoch": epoch, "seq": body["seq"],
        "order": body["order"], "type": envelope["type"], "key": envelope["key"], "user": body["from"]["user"]});
    if let Some(text) = envelope["text"].as_str() {
        report["body"] = json!({ "text": text });
    }
    report
}

fn gap(body: &Value, received: u64) -> Value {
    let cause = body["cause"].as_str().unwrap_or("GAP_CAUSE_UNKNOWN").trim_start_matches("GAP_CAUSE_").to_lowercase();
    let from = body["from"].as_u64().filter(|from| *from > 0).map_or(0, |from| from.max(received + 1));
    json!({"room": body["room"], "lane": body["lane"], "epoch": body["epoch"], "from": from, "to": body["to"],
        "count": body["count"], "cause": cause, "refillable": body["refillable"]})
}
