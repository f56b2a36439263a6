//! Runs cases, some at a time, and gathers their verdicts.

pub mod process;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde::Serialize;

use crate::case::{Case, Ctx};
use crate::client::{Encoding, Transport};
use crate::target::Target;
use crate::verdict::{Stop, Verdict, judge};

/// Cases that run at once: they wait most of the time, and a server under test must serve that many anyway.
pub const JOBS: usize = 8;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Parts of case ids; empty: all.
    pub only: Vec<String>,
    /// Transports; empty: all that the server has.
    pub transports: Vec<Transport>,
    /// Encodings.
    pub encodings: Vec<Encoding>,
    /// Cases at once.
    pub jobs: usize,
    /// Ids of cases that are known to fail.
    pub known_failing: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            only: Vec::new(),
            transports: Vec::new(),
            encodings: vec![Encoding::Binary, Encoding::Json],
            jobs: JOBS,
            known_failing: Vec::new(),
        }
    }
}

/// How a case ended over one transport in one encoding.
#[derive(Clone, Debug, Serialize)]
pub struct CaseResult {
    /// Id of the case; in brackets the transport, or for WebSocket the encoding.
    pub id: String,
    /// What happens in it.
    pub title: String,
    /// What it is about.
    pub requirements: Vec<String>,
    /// The verdict.
    pub verdict: Verdict,
    /// Why, if it did not pass.
    pub text: String,
    /// The rule that the ledger saw broken, if it was that.
    pub rule: Option<&'static str>,
    /// On the list of known failures.
    pub known: bool,
    /// How long it took.
    pub ms: u64,
    /// What went over the wire, if it failed.
    pub wire: String,
}

impl CaseResult {
    /// Whether it makes the run fail: a failure that is not known, or a known one that passes.
    pub fn is_bad(&self) -> bool {
        match self.verdict {
            Verdict::Fail => !self.known,
            Verdict::Pass => self.known,
            Verdict::Harness => true,
            Verdict::Unsupported | Verdict::Skipped => false,
        }
    }
}

/// A whole run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was tested.
    pub server: String,
    /// By case, transport and encoding.
    pub results: Vec<CaseResult>,
    /// How long it took.
    pub ms: u64,
}

impl Report {
    /// Results with that verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.results.iter().filter(|result| result.verdict == verdict).count()
    }

    /// Whether nothing is bad.
    pub fn is_good(&self) -> bool {
        !self.results.iter().any(CaseResult::is_bad)
    }

    /// The end of a run's output: what was bad once more, since it may be far up in a long output, and the counts.
    pub fn closing(&self) -> String {
        let bad = self.results.iter().filter(|result| result.is_bad());
        let lines = bad.map(|result| format!("{:<13} {}: {}\n", result.verdict.name(), result.id, result.text));
        lines.collect::<String>() + &self.summary()
    }

    /// How many ended how.
    pub fn summary(&self) -> String {
        let mut line = format!(
            "{} passed, {} failed, {} skipped",
            self.count(Verdict::Pass),
            self.count(Verdict::Fail),
            self.count(Verdict::Skipped)
        );
        for (verdict, name) in [(Verdict::Unsupported, "unsupported"), (Verdict::Harness, "harness errors")] {
            if self.count(verdict) > 0 {
                line.push_str(&format!(", {} {name}", self.count(verdict)));
            }
        }
        let surprises = self.results.iter().filter(|result| result.verdict == Verdict::Pass && result.known).count();
        if surprises > 0 {
            line.push_str(&format!(", {surprises} passed that are listed as known to fail"));
        }
        line
    }
}

/// Runs the cases that the options choose. `seen` is called with each result as it comes.
pub async fn run(target: Arc<Target>, cases: &[Case], options: &Options, mut seen: impl FnMut(&CaseResult)) -> Report {
    let started = Instant::now();
    let name = format!("{:x}", crate::target::now_ms() & 0xffff_ffff);
    let mut shared = Vec::new();
    let mut alone = Vec::new();
    let transports = if options.transports.is_empty() { target.transports() } else { options.transports.clone() };
    let ways = transports.iter().flat_map(|transport| cases.iter().map(move |case| (case, *transport)));
    for (case, transport) in ways {
        for encoding in case.runs(transport, &options.encodings) {
            let way = if transport == Transport::Websocket { encoding.name() } else { transport.name() };
            let id = format!("{} [{way}]", case.id);
            if options.only.is_empty() || options.only.iter().any(|part| id.contains(part.as_str())) {
                let list = if case.alone || case.is_exclusive() { &mut alone } else { &mut shared };
                list.push((case.clone(), transport, encoding, id));
            }
        }
    }
    // Cases that wait for clocks begin first, so that the others run meanwhile.
    shared.sort_by_key(|(case, ..)| std::cmp::Reverse(case.deadline_s));
    let one = |(case, transport, encoding, id): (Case, Transport, Encoding, String)| {
        let ctx = Ctx::new(target.clone(), transport, encoding, &name);
        run_case(target.clone(), case, ctx, id, &options.known_failing)
    };
    let mut results = Vec::new();
    let mut gather = |result: CaseResult| {
        seen(&result);
        results.push(result);
    };
    let mut stream = futures_util::stream::iter(shared).map(one).buffer_unordered(options.jobs.max(1));
    while let Some(result) = stream.next().await {
        gather(result);
    }
    for what in alone {
        gather(one(what).await);
    }
    results.sort_by(|a, b| a.id.cmp(&b.id));
    Report { server: target.endpoint.authority(), results, ms: started.elapsed().as_millis() as u64 }
}

async fn run_case(target: Arc<Target>, case: Case, mut ctx: Ctx, id: String, known_failing: &[String]) -> CaseResult {
    let started = Instant::now();
    let log = ctx.log.clone();
    let limit = Duration::from_secs(case.deadline_s);
    let outcome = match tokio::time::timeout(limit, case.run(&mut ctx)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Stop::fail(format!("not over within {} s", case.deadline_s))),
    };
    drop(ctx);
    let (verdict, text, rule) = judge(outcome);
    let failed = matches!(verdict, Verdict::Fail | Verdict::Harness);
    if failed && case.is_exclusive() {
        // The case may have left the server down. If it cannot be started again the cases after this one say so.
        let _ = target.control.restart().await;
        let _ = target.came_back().await;
    }
    CaseResult {
        known: known_failing.iter().any(|known| *known == id || *known == case.id),
        id,
        title: case.title.clone(),
        requirements: case.requirements.clone(),
        verdict,
        text,
        rule,
        ms: started.elapsed().as_millis() as u64,
        wire: if failed { log.text() } else { String::new() },
    }
}
