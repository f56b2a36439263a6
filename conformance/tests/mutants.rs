//! Proof that the suite can fail: the reference server passes every case that it is given, and each mutant of it is
//! killed by a case that cites the rule which the mutant breaks.

use std::sync::Arc;

use futures_util::StreamExt as _;
use lanecast_conform::case::Case;
use lanecast_conform::cases;
use lanecast_conform::control::Control;
use lanecast_conform::reference::{Mutant, Reference};
use lanecast_conform::runner::{self, CaseResult, Options};
use lanecast_conform::target::{FIXTURE_SECRET, Target, Tokens};
use lanecast_conform::verdict::Verdict;

/// Mutants at once: they mostly wait.
const MUTANTS_AT_ONCE: usize = 6;

async fn target(mutant: Option<Mutant>) -> Arc<Target> {
    let reference = Reference::start(0, 0, FIXTURE_SECRET, mutant).await.expect("the reference starts");
    let mut target = Target::new(reference.endpoint(), Tokens::Jwt(FIXTURE_SECRET.into()));
    target.fixture = true;
    target.control = Control::Reference(reference);
    target.discover().await.expect("the reference answers");
    Arc::new(target)
}

fn told(results: &[CaseResult]) -> String {
    results
        .iter()
        .map(|result| format!("{} {}: {}\n{}\n", result.verdict.name(), result.id, result.text, result.wire))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reference_passes() {
    let cases = cases::all().unwrap();
    let report = runner::run(target(None).await, &cases, &Options::default(), |_| {}).await;
    let bad: Vec<_> = report.results.iter().filter(|result| result.is_bad()).cloned().collect();
    assert!(bad.is_empty(), "{}\n{}", report.summary(), told(&bad));
    // It is one process and has no replicas, and says so.
    let expected = |result: &&CaseResult| result.id.starts_with("server/LC-PUB-030/");
    let skipped = report.results.iter().filter(|result| result.verdict == Verdict::Unsupported && !expected(result));
    assert!(skipped.clone().count() == 0, "{}", told(&skipped.cloned().collect::<Vec<_>>()));
}

/// The first failure that cites a rule which the mutant breaks.
async fn killer(mutant: Mutant, cases: &[Case]) -> Result<String, String> {
    let citing: Vec<Case> = cases
        .iter()
        .filter(|case| case.requirements.iter().any(|id| mutant.rules().contains(&id.as_str())))
        .cloned()
        .collect();
    let mut seen = Vec::new();
    for case in citing {
        let report = runner::run(target(Some(mutant)).await, &[case], &Options::default(), |_| {}).await;
        let killed = report.results.iter().find(|result| result.verdict == Verdict::Fail);
        if let Some(result) = killed {
            return Ok(result.id.clone());
        }
        seen.extend(report.results);
    }
    Err(format!("{mutant:?} breaks {:?} and lives:\n{}", mutant.rules(), told(&seen)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mutant_is_killed_by_a_case_that_cites_its_rule() {
    let cases = cases::all().unwrap();
    let outcomes: Vec<_> = futures_util::stream::iter(Mutant::ALL)
        .map(|mutant| killer(*mutant, &cases))
        .buffer_unordered(MUTANTS_AT_ONCE)
        .collect()
        .await;
    let alive: Vec<String> = outcomes.into_iter().filter_map(Result::err).collect();
    assert!(alive.is_empty(), "{} of {} mutants live\n{}", alive.len(), Mutant::ALL.len(), alive.join("\n"));
}
