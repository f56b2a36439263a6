//! What people see: a row for each round, and the first findings explained.

use super::check::Report;
use super::history::Histories;

/// The head of the table.
pub(super) fn head() -> String {
    format!(
        "{:<24} {:>7} {:>7} {:>9} {:<34} {:<24} {:>8}  verdict",
        "fault", "sent", "acked", "delivered", "gaps: seqs by cause", "transients +counted ?", "current"
    )
}

/// The rows of a round: what was counted, and for each fault how it was seen and when all were current again.
pub(super) fn rows(name: &str, histories: &Histories, report: &Report) -> String {
    let counts = &report.counts;
    let gaps: Vec<String> = counts.gaps.iter().map(|(cause, seqs)| format!("{} {seqs}", cause.name())).collect();
    let gaps = if gaps.is_empty() { "none".into() } else { gaps.join(", ") };
    let transients = format!("{} +{} ?{}", counts.transients, counts.transients_counted, counts.transients_unknown);
    let mut worst = report.current.iter().map(|time| time.map(|time| time.as_secs_f64()));
    let worst = worst.try_fold(0.0, |worst: f64, time| Some(worst.max(time?)));
    let worst = worst.map_or_else(|| "never".into(), |seconds| format!("{seconds:.2} s"));
    let verdict = if report.is_good() {
        "good".into()
    } else {
        let totals: Vec<String> = report.totals.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        totals.join(", ")
    };
    let short: String = name.chars().take(24).collect();
    let mut text = format!(
        "{short:<24} {:>7} {:>7} {:>9} {gaps:<34} {transients:<24} {worst:>8}  {verdict}\n",
        counts.sent, counts.acknowledged, counts.delivered
    );
    for fault in &histories.run.faults {
        let (Ok(effect) | Err(effect)) = &fault.effect;
        text.push_str(&format!("  {}: {effect}; {} connections ended\n", fault.name, counts.cuts));
    }
    text
}

/// The first findings, explained.
pub(super) fn findings(histories: &Histories, report: &Report, most: usize) -> String {
    let mut text = String::new();
    let mut findings: Vec<_> = report.findings.iter().collect();
    // One of each kind first.
    let mut seen = std::collections::HashSet::new();
    findings.sort_by_cached_key(|finding| !seen.insert(finding.kind));
    for finding in findings.iter().take(most.max(seen.len())) {
        text.push_str(&finding.explain(histories));
    }
    let all: u64 = report.totals.values().sum();
    if all > most as u64 {
        text.push_str(&format!("{all} findings in all\n"));
    }
    text
}
