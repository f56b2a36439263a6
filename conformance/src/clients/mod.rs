//! The cases for clients: what a client must do, seen by the scripted server that it talks to and by what its driver
//! reports.
//!
//! A case runs once for each transport that both it and the client have. Every frame of the client is checked in every case:
//! framing, lanes, ids of requests, streams.

mod cases;
pub mod model;
mod table;
mod trial;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::Mutex;

pub use self::table::{UNSEEN, Unseen};
pub use self::trial::Trial;
use crate::certificate::Pair;
use crate::client::{Transport, WireLog};
use crate::driver::{Driver, Launch};
use crate::runner::{CaseResult, Report};
use crate::verdict::{Outcome, Stop, Verdict, judge};

/// Cases at once, each with a driver of its own: they mostly wait.
pub const JOBS: usize = 4;
/// How long a case may take unless it says otherwise.
const DEADLINE_S: u64 = 30;

/// Transports that a case holds for.
pub(crate) const ALL: &[Transport] = &Transport::ALL;
pub(crate) const STREAMS: &[Transport] = &[Transport::Quic, Transport::Webtransport];
pub(crate) const WEBSOCKET: &[Transport] = &[Transport::Websocket];
pub(crate) const QUIC: &[Transport] = &[Transport::Quic];
pub(crate) const WEBTRANSPORT: &[Transport] = &[Transport::Webtransport];

/// What a case does.
type Run = for<'a> fn(&'a mut Trial) -> BoxFuture<'a, Outcome>;

/// A case for clients.
pub struct Case {
    /// `client/LC-SDK-002/hole-resubscribes`.
    pub id: String,
    /// What happens in it.
    pub title: &'static str,
    /// What it is about.
    pub requirements: &'static [&'static str],
    /// Over which transports it makes sense.
    pub transports: &'static [Transport],
    /// What a driver must not lack for it.
    pub needs: &'static [&'static str],
    /// How long it may take, s.
    pub deadline_s: u64,
    run: Run,
}

impl Case {
    fn new(
        (requirements, name): (&'static [&'static str], &str),
        title: &'static str,
        transports: &'static [Transport],
        needs: &'static [&'static str],
        run: Run,
    ) -> Self {
        let id = format!("client/{}/{name}", requirements.first().copied().unwrap_or(""));
        Self { id, title, requirements, transports, needs, deadline_s: DEADLINE_S, run }
    }

    fn slow(mut self, deadline_s: u64) -> Self {
        self.deadline_s = deadline_s;
        self
    }
}

/// All cases, in the order of the areas.
pub fn all() -> Vec<Case> {
    cases::all()
}

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Parts of case ids; empty: all.
    pub only: Vec<String>,
    /// Transports; empty: all that the client has.
    pub transports: Vec<Transport>,
    /// Cases at once; 0: the default.
    pub jobs: usize,
    /// Ids of cases that are known to fail.
    pub known_failing: Vec<String>,
}

/// What the cases of a run share.
struct Shared {
    launch: Launch,
    pair: Arc<Pair>,
    /// Drivers that have no client at present.
    idle: Mutex<Vec<Driver>>,
}

/// A case over one transport.
struct Planned<'a> {
    case: &'a Case,
    transport: Transport,
    id: String,
}

/// Runs the cases that the options choose. `seen` is called with each result as it comes.
///
/// # Errors
///
/// If no driver can be started.
pub async fn run(
    launch: Launch,
    cases: &[Case],
    options: &Options,
    mut seen: impl FnMut(&CaseResult),
) -> Result<Report, String> {
    let started = Instant::now();
    let first = launch.start().await.map_err(|stop| judge(Err(stop)).1)?;
    let (name, has) = (first.name(), first.transports());
    let shared = Shared { launch, pair: Arc::new(Pair::new()?), idle: Mutex::new(vec![first]) };
    let jobs = if options.jobs == 0 { JOBS } else { options.jobs };
    let planned = plan(cases, options, &has);
    let mut running = futures_util::stream::iter(planned)
        .map(|planned| run_case(&shared, planned, &options.known_failing))
        .buffer_unordered(jobs);
    let mut results = Vec::new();
    while let Some(result) = running.next().await {
        seen(&result);
        results.push(result);
    }
    drop(running);
    for driver in shared.idle.into_inner() {
        driver.end().await;
    }
    results.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(Report { server: name, results, ms: started.elapsed().as_millis() as u64 })
}

fn plan<'a>(cases: &'a [Case], options: &Options, has: &[Transport]) -> Vec<Planned<'a>> {
    let wanted = |transport: &Transport| options.transports.is_empty() || options.transports.contains(transport);
    let mut planned: Vec<Planned<'a>> = Vec::new();
    for case in cases {
        for transport in has.iter().filter(|transport| wanted(transport) && case.transports.contains(transport)) {
            let id = format!("{} [{}]", case.id, transport.name());
            if options.only.is_empty() || options.only.iter().any(|part| id.contains(part.as_str())) {
                planned.push(Planned { case, transport: *transport, id });
            }
        }
    }
    // Cases that wait for clocks begin first, so that the others run meanwhile.
    planned.sort_by_key(|planned| std::cmp::Reverse(planned.case.deadline_s));
    planned
}

async fn run_case(shared: &Shared, planned: Planned<'_>, known_failing: &[String]) -> CaseResult {
    let started = Instant::now();
    let log = WireLog::default();
    let outcome = try_case(shared, &planned, &log).await;
    let (verdict, text, rule) = judge(outcome);
    let failed = matches!(verdict, Verdict::Fail | Verdict::Harness);
    CaseResult {
        known: known_failing.iter().any(|known| *known == planned.id || *known == planned.case.id),
        id: planned.id,
        title: planned.case.title.to_owned(),
        requirements: planned.case.requirements.iter().map(|id| (*id).to_owned()).collect(),
        verdict,
        text,
        rule,
        ms: started.elapsed().as_millis() as u64,
        wire: if failed { log.text() } else { String::new() },
    }
}

async fn try_case(shared: &Shared, planned: &Planned<'_>, log: &WireLog) -> Outcome {
    let idle = shared.idle.lock().await.pop();
    let mut driver = match idle {
        Some(driver) => driver,
        None => shared.launch.start().await?,
    };
    driver.log_to(log.clone());
    for need in planned.case.needs {
        if let Some(why) = driver.lacks(need) {
            let why = format!("the client has no {need}: {why}");
            shared.idle.lock().await.push(driver);
            return Err(Stop::Unsupported(why));
        }
    }
    let mut trial = Trial::new(driver, shared.launch.clone(), shared.pair.clone(), planned.transport, log.clone());
    let limit = Duration::from_secs(planned.case.deadline_s);
    let outcome = match tokio::time::timeout(limit, (planned.case.run)(&mut trial)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Stop::fail(format!("not over within {} s", planned.case.deadline_s))),
    };
    // A driver whose client could be closed serves the next case; any other is started anew.
    if let Some(driver) = trial.finish().await {
        shared.idle.lock().await.push(driver);
    }
    outcome
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::spec;

    #[test]
    fn ids_are_unique_and_cite_what_the_spec_has() {
        let mut seen = HashSet::new();
        for case in all() {
            assert!(seen.insert(case.id.clone()), "{} stands twice", case.id);
            assert!(!case.title.is_empty() && !case.requirements.is_empty(), "{}", case.id);
            for id in case.requirements {
                assert!(spec::find(id).is_some(), "{}: the spec has no {id}", case.id);
            }
        }
        for unseen in UNSEEN {
            assert!(spec::find(unseen.id).is_some(), "the spec has no {}", unseen.id);
        }
    }

    #[test]
    fn every_served_must_of_a_client_has_a_case_or_a_reason() {
        let cases = all();
        for requirement in spec::due_of_clients() {
            let cited = cases.iter().filter(|case| case.requirements.contains(&requirement.id)).count();
            let unseen = UNSEEN.iter().filter(|unseen| unseen.id == requirement.id).count();
            assert!(cited + unseen > 0, "{} has neither a case nor a reason", requirement.id);
            assert!(cited == 0 || unseen == 0, "{} has a case and a reason why it has none", requirement.id);
        }
    }
}
