//! Cases: what is tried, which requirements it is about, and what it needs.

mod ctx;
mod pattern;
mod steps;

use std::future::Future;
use std::pin::Pin;

use serde::Deserialize;

pub use ctx::{Ctx, Join};
pub use pattern::{Vars, matches};
pub use steps::Step;

use crate::client::{Encoding, Transport};
use crate::spec;
use crate::verdict::Outcome;

/// What a case needs of the server or of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// Capability HISTORY.
    History,
    /// Capability SIGNALS.
    Signals,
    /// Capability REFRESH.
    Refresh,
    /// Capability REPLICATED.
    Replicated,
    /// No capability REPLICATED.
    NotReplicated,
    /// Capability CREDIT.
    Credit,
    /// Capability FOCUS.
    Focus,
    /// Capability FRAGMENTS.
    Fragments,
    /// The HTTP API and an API key.
    Api,
    /// The part of the HTTP API with which operators command connections, and an API key with control.
    Operate,
    /// The JWT profile, with tokens that the suite signs.
    Jwt,
    /// The room policies of the fixture (control.md).
    Fixture,
    /// The server can be restarted with another life of its logs. Such cases run alone.
    Restart,
    /// The log of a room can be replaced by a new one while connections live.
    NewLog,
    /// The log of a room can be put back to what it was, while connections live.
    OldLog,
    /// The server can be cut off from its logs while connections live. Such cases run alone.
    EngineDown,
    /// The server can be told to stop. Such cases run alone.
    Drain,
}

impl Need {
    /// Whether cases that need it disturb others.
    pub fn is_exclusive(self) -> bool {
        matches!(self, Self::Restart | Self::Drain | Self::EngineDown)
    }
}

/// A case written in Rust.
pub type Code = for<'a> fn(&'a mut Ctx) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

/// What a case does.
#[derive(Clone)]
pub enum Body {
    /// Steps from a file.
    Steps(std::sync::Arc<Vec<Step>>),
    /// A function.
    Code(Code),
}

/// One case.
#[derive(Clone)]
pub struct Case {
    /// `server/<first requirement>/<name>`.
    pub id: String,
    /// What happens, in a sentence.
    pub title: String,
    /// The requirements that it is about, the first one in its id.
    pub requirements: Vec<String>,
    /// Transports over which it is run.
    pub transports: Vec<Transport>,
    /// Encodings in which it is run over WebSocket; over others packets are always binary.
    pub encodings: Vec<Encoding>,
    /// What it needs.
    pub needs: Vec<Need>,
    /// When it is given up.
    pub deadline_s: u64,
    /// It judges how a server shares its time, which no other case may take meanwhile.
    pub alone: bool,
    /// What it does.
    pub body: Body,
}

/// Seconds after which a case is given up that says nothing else.
pub const DEADLINE_S: u64 = 30;

/// A case as it stands in a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    case: String,
    title: String,
    #[serde(default)]
    also: Vec<String>,
    #[serde(default)]
    transports: Option<Vec<Transport>>,
    #[serde(default)]
    encodings: Option<Vec<Encoding>>,
    #[serde(default)]
    needs: Vec<Need>,
    #[serde(default)]
    deadline_s: Option<u64>,
    steps: Vec<Step>,
}

impl Case {
    /// A case written in Rust. `id` is `<requirement>/<name>`.
    pub fn code(id: &str, title: &str, also: &[&str], needs: &[Need], code: Code) -> Self {
        Self {
            id: format!("server/{id}"),
            title: title.to_owned(),
            requirements: requirements(id, also.iter().map(|id| (*id).to_owned())),
            transports: transports_of(id),
            encodings: vec![Encoding::Binary, Encoding::Json],
            needs: needs.to_vec(),
            deadline_s: DEADLINE_S,
            alone: false,
            body: Body::Code(code),
        }
    }

    /// Runs only in that encoding.
    pub fn only(mut self, encoding: Encoding) -> Self {
        self.encodings = vec![encoding];
        self
    }

    /// Runs only over that transport.
    pub fn over(mut self, transports: &[Transport]) -> Self {
        self.transports = transports.to_vec();
        self
    }

    /// How it is run over a transport that it has, in those of the encodings that it has.
    pub fn runs(&self, transport: Transport, encodings: &[Encoding]) -> Vec<Encoding> {
        let mine = self.encodings.iter().copied().filter(|encoding| encodings.contains(encoding));
        if !self.transports.contains(&transport) {
            return Vec::new();
        }
        mine.filter(|encoding| transport == Transport::Websocket || *encoding == Encoding::Binary).collect()
    }

    /// Another deadline.
    pub fn within_s(mut self, seconds: u64) -> Self {
        self.deadline_s = seconds;
        self
    }

    /// Runs while no other case does.
    pub fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// The cases of a file.
    pub fn parse_file(name: &str, text: &str) -> Result<Vec<Self>, String> {
        // Through JSON values, since steps are maps with one key and not YAML tags.
        let list: Vec<serde_json::Value> = serde_yaml_ng::from_str(text).map_err(|error| format!("{name}: {error}"))?;
        list.into_iter()
            .map(|value| {
                let id = value["case"].as_str().unwrap_or("?").to_owned();
                let written: Written =
                    serde_json::from_value(value).map_err(|error| format!("{name}: {id}: {error}"))?;
                Ok(Self {
                    id: format!("server/{}", written.case),
                    title: written.title,
                    requirements: requirements(&written.case, written.also),
                    transports: written.transports.unwrap_or_else(|| transports_of(&written.case)),
                    encodings: written.encodings.unwrap_or_else(|| vec![Encoding::Binary, Encoding::Json]),
                    needs: written.needs,
                    deadline_s: written.deadline_s.unwrap_or(DEADLINE_S),
                    alone: false,
                    body: Body::Steps(std::sync::Arc::new(written.steps)),
                })
            })
            .collect()
    }

    /// Whether it disturbs others, and so must run alone.
    pub fn is_exclusive(&self) -> bool {
        self.needs.iter().any(|need| need.is_exclusive())
    }

    /// Runs it.
    pub async fn run(&self, ctx: &mut Ctx) -> Outcome {
        ctx.check_needs(&self.needs).await?;
        match &self.body {
            Body::Code(code) => code(ctx).await?,
            Body::Steps(steps) => steps::run(steps, ctx).await?,
        }
        ctx.check_ledgers()
    }
}

/// The transports of a case's first requirement. What is about no connection is tried once, over WebSocket; what is
/// about QUIC holds in WebTransport sessions, too (LC-WT-001).
fn transports_of(id: &str) -> Vec<Transport> {
    let said = spec::find(id.split('/').next().unwrap_or("")).map_or("all", |requirement| requirement.transports);
    let names: Vec<&str> = said.split('+').collect();
    let holds = |transport: &Transport| {
        let name = transport.in_spec();
        names.contains(&"all") || names.contains(&name) || name == "wt" && names.contains(&"quic")
    };
    let transports: Vec<_> = Transport::ALL.into_iter().filter(holds).collect();
    if transports.is_empty() { vec![Transport::Websocket] } else { transports }
}

fn requirements(id: &str, also: impl IntoIterator<Item = String>) -> Vec<String> {
    let first = id.split('/').next().unwrap_or("").to_owned();
    std::iter::once(first).chain(also).collect()
}
