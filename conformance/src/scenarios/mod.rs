//! Scenarios: what an application does with an SDK, against a real server, the same for every SDK.
//!
//! They stand in a file, so that SDKs of all languages run the same ones. Clients reach the server through relays of the
//! suite, which can cut. A scenario that a driver cannot run fails; only one that says what it `needs` of the platform is
//! unsupported where the driver says that the platform has none.

mod client;
mod stage;
mod steps;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use self::stage::Stage;
use self::steps::Step;
use crate::client::{Transport, WireLog};
use crate::driver::{Driver, Launch};
use crate::runner::{CaseResult, Report};
use crate::target::Target;
use crate::verdict::{Stop, Verdict, judge};

/// How long a scenario may take unless it says otherwise, s.
const DEADLINE_S: u64 = 60;

/// A scenario of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Names it.
    pub name: String,
    /// What happens in it.
    pub title: String,
    /// What a driver must not lack for it; everything else it has to have.
    #[serde(default)]
    pub needs: Vec<String>,
    /// The room's name begins with it.
    #[serde(default = "rooms")]
    pub rooms: String,
    /// How long it may take, s.
    #[serde(default = "deadline_s")]
    pub deadline_s: u64,
    steps: Vec<Value>,
}

fn rooms() -> String {
    "scenario".to_owned()
}

fn deadline_s() -> u64 {
    DEADLINE_S
}

/// Reads a file of scenarios.
///
/// # Errors
///
/// If it is none, with the name of what is wrong.
pub fn read(path: &Path) -> Result<Vec<Scenario>, String> {
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| told(&error))?;
    let scenarios: Vec<Scenario> = serde_yaml_ng::from_str(&text).map_err(|error| told(&error))?;
    for scenario in &scenarios {
        scenario.parse().map_err(|error| told(&format!("{}: {error}", scenario.name)))?;
    }
    Ok(scenarios)
}

impl Scenario {
    /// The steps, each with the client that it is about.
    fn parse(&self) -> Result<Vec<(String, Step)>, String> {
        self.steps.iter().map(|step| steps::parse(step).map_err(|error| format!("{step}: {error}"))).collect()
    }
}

/// Runs the scenarios whose name holds one of the parts (none: all) over each transport that the driver has, or of those only.
/// `seen` is called with each result as it comes.
///
/// # Errors
///
/// If no driver can be started.
pub async fn run(
    target: &Arc<Target>,
    launch: &Launch,
    scenarios: &[Scenario],
    (only, transports): (&[String], &[Transport]),
    mut seen: impl FnMut(&CaseResult),
) -> Result<Report, String> {
    let started = Instant::now();
    let first = launch.start().await.map_err(|stop| judge(Err(stop)).1)?;
    let (name, has) = (first.name(), first.transports());
    let mut idle = vec![first];
    let mut results = Vec::new();
    for transport in has.iter().filter(|transport| transports.is_empty() || transports.contains(transport)) {
        for scenario in scenarios {
            let id = format!("scenario/{} [{}]", scenario.name, transport.name());
            if only.is_empty() || only.iter().any(|part| id.contains(part.as_str())) {
                let result;
                (result, idle) = run_one((target.clone(), launch.clone(), idle), scenario, *transport, id).await;
                seen(&result);
                results.push(result);
            }
        }
    }
    for driver in idle {
        driver.end().await;
    }
    Ok(Report { server: name, results, ms: started.elapsed().as_millis() as u64 })
}

async fn run_one(
    with: (Arc<Target>, Launch, Vec<Driver>),
    scenario: &Scenario,
    transport: Transport,
    id: String,
) -> (CaseResult, Vec<Driver>) {
    let started = Instant::now();
    let log = WireLog::default();
    let mut stage = Stage::new(with, &scenario.rooms, transport, log.clone());
    let limit = Duration::from_secs(scenario.deadline_s);
    let outcome = match tokio::time::timeout(limit, stage.play(scenario)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Stop::fail(format!("not over within {} s", scenario.deadline_s))),
    };
    let idle = stage.end().await;
    let (verdict, text, rule) = judge(outcome);
    let failed = matches!(verdict, Verdict::Fail | Verdict::Harness);
    let result = CaseResult {
        id,
        title: scenario.title.clone(),
        requirements: Vec::new(),
        verdict,
        text,
        rule,
        known: false,
        ms: started.elapsed().as_millis() as u64,
        wire: if failed { log.text() } else { String::new() },
    };
    (result, idle)
}
