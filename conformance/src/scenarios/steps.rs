//! The steps of scenarios, as they stand in the file.

use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Who acts where a step does not say it.
const SOMEBODY: &str = "alice";

/// A step.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Step {
    /// Makes a client and waits until it is connected.
    Connect(Connect),
    /// The client asks for a token: gives one.
    GiveToken(GiveToken),
    /// Tells the driver something and waits until it is done. `{room}` is the room.
    Do(Value),
    /// Tells the driver something that has to fail like this.
    Fails(Fails),
    /// Subscribes to the room.
    Subscribe(Map<String, Value>),
    /// Publishes to the room.
    Publish(Publish),
    /// Every publish so far has to end as stored, each in a place of its own.
    Stored {},
    /// Every publish so far has to be queued.
    Queued {},
    /// A service fills the room.
    Fill(Fill),
    /// Events have to come: each of the room once and in the order of its lane.
    Receive(Receive),
    /// Acknowledges what came last, and stores the position.
    Acknowledge {},
    /// A gap has to come first.
    Gap(Gap),
    /// Sends signals of one key at once, the last of which says their number.
    Signals {
        /// How many.
        count: u32,
    },
    /// The last signal has to come, and of those before it only some.
    Conflated {
        /// What the last one says.
        last: u32,
        /// Changes that may be told.
        changes_max: u32,
    },
    /// Reads the room's history page by page: all events, each once, in order.
    History(History),
    /// The client has to be in this state.
    State {
        /// Its name.
        name: String,
        /// The code of its cause; 0: any.
        #[serde(default)]
        code: u32,
    },
    /// Cuts all connections.
    Cut {},
    /// Kills the driver with SIGKILL and starts it again.
    Kill {
        /// What was not committed together with a position is not handled: an application that stores both at once.
        #[serde(default)]
        stores_position: bool,
    },
    /// Closes the client.
    Shutdown {},
    /// Does steps several times.
    Repeat {
        /// How often.
        times: u32,
        /// What.
        steps: Vec<Value>,
    },
}

/// Options of a connection.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Connect {
    /// Rights of the token; all by default.
    pub(super) rights: Option<Value>,
    /// The client asks for its tokens.
    pub(super) asks: bool,
    /// Keeps an outbox in a file.
    pub(super) outbox: bool,
    /// Keeps positions in a file.
    pub(super) positions: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GiveToken {
    /// How long it holds, s.
    pub(super) seconds: i64,
    /// Whether the client has to say that the one before was refused; not looked at by default.
    pub(super) refused: Option<bool>,
    /// The client has to be connected after it, or stay so.
    #[serde(default)]
    pub(super) connected: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fails {
    /// The command.
    pub(super) command: Value,
    pub(super) code: u32,
    pub(super) name: String,
    pub(super) retryable: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Publish {
    pub(super) count: u32,
    /// In turn; normal by default.
    #[serde(default)]
    pub(super) lanes: Vec<String>,
    #[serde(default)]
    pub(super) transient: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fill {
    pub(super) count: u32,
    /// In turn; normal by default.
    #[serde(default)]
    pub(super) lanes: Vec<String>,
    /// Cuts all connections after every so many; 0: never.
    #[serde(default)]
    pub(super) cut_every: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Receive {
    /// So many different ones, with what came before.
    pub(super) events: usize,
    /// Events that may have come twice, in all.
    #[serde(default)]
    pub(super) doubled_max: usize,
    /// Acknowledges by command, a batch of so many at a time, and not the last; 0: the driver acknowledges.
    #[serde(default)]
    pub(super) batch: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Gap {
    pub(super) cause: String,
    /// Seqs that it covers.
    pub(super) seqs: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct History {
    /// Events of a page.
    pub(super) limit: u32,
    /// All of them.
    pub(super) events: usize,
    /// Oldest first.
    #[serde(default)]
    pub(super) forward: bool,
}

/// Reads a step: `{on: who, name: {…}}`.
pub(super) fn parse(value: &Value) -> Result<(String, Step), String> {
    let mut fields = value.as_object().cloned().ok_or("a step is a map")?;
    let who = fields.remove("on").map_or(json!(SOMEBODY), |who| who);
    let who = who.as_str().ok_or("`on` is a name")?.to_owned();
    let step: Step = serde_json::from_value(Value::Object(fields)).map_err(|error| error.to_string())?;
    if let Step::Repeat { steps, .. } = &step {
        steps.iter().try_for_each(|step| parse(step).map(|_| ()))?;
    }
    Ok((who, step))
}
