//! Proof that the cases for clients can fail: the model client passes those that cite a rule which one of its mutants breaks,
//! and each mutant is killed by a case that cites its rule.

use futures_util::StreamExt as _;
use lanecast_conform::clients::model::ClientMutant;
use lanecast_conform::clients::{self, Case, Options};
use lanecast_conform::driver::Launch;
use lanecast_conform::runner::Report;
use lanecast_conform::verdict::Verdict;

/// Mutants at once: they mostly wait.
const MUTANTS_AT_ONCE: usize = 4;

fn citing(rules: &[&str]) -> Vec<Case> {
    let mut cases = clients::all();
    cases.retain(|case| case.requirements.iter().any(|id| rules.contains(id)));
    cases
}

async fn run(mutant: Option<ClientMutant>, cases: &[Case]) -> Report {
    use clap::ValueEnum as _;
    let mut command = vec![env!("CARGO_BIN_EXE_lanecast-conform").to_owned(), "model".to_owned()];
    if let Some(value) = mutant.and_then(|mutant| mutant.to_possible_value()) {
        command.extend(["--mutant".to_owned(), value.get_name().to_owned()]);
    }
    let launch = Launch { command, hub: None };
    clients::run(launch, cases, &Options::default(), |_| {}).await.expect("the model is ready")
}

fn told(report: &Report) -> String {
    let bad = report.results.iter().filter(|result| result.verdict != Verdict::Pass);
    bad.map(|result| format!("{} {}: {}\n{}\n", result.verdict.name(), result.id, result.text, result.wire)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_model_passes_what_its_mutants_are_killed_by() {
    let rules: Vec<&str> = ClientMutant::ALL.iter().map(|mutant| mutant.rule()).collect();
    let report = run(None, &citing(&rules)).await;
    let bad = report.results.iter().filter(|result| matches!(result.verdict, Verdict::Fail | Verdict::Harness));
    assert_eq!(bad.count(), 0, "{}\n{}", report.summary(), told(&report));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mutant_is_killed_by_a_case_that_cites_its_rule() {
    let outcomes: Vec<_> = futures_util::stream::iter(ClientMutant::ALL)
        .map(|mutant| async move {
            let report = run(Some(*mutant), &citing(&[mutant.rule()])).await;
            let killed = report.results.iter().any(|result| result.verdict == Verdict::Fail);
            if killed {
                None
            } else {
                Some(format!("{mutant:?} breaks {} and lives\n{}", mutant.rule(), told(&report)))
            }
        })
        .buffer_unordered(MUTANTS_AT_ONCE)
        .collect()
        .await;
    let alive: Vec<String> = outcomes.into_iter().flatten().collect();
    assert!(alive.is_empty(), "{} of {} mutants live\n{}", alive.len(), ClientMutant::ALL.len(), alive.join("\n"));
}
