//! What was found: one line for each check, and underneath what to do.

use std::fmt;

use serde_json::{Value, json};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As it should be.
    Ok,
    /// Clients get along, but something is worse than it could be.
    Warning,
    /// Some clients, or all, cannot do this.
    Problem,
    /// Not tried, and why.
    Skipped,
}

impl Verdict {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
            Self::Skipped => "skipped",
        }
    }
}

/// One check.
#[derive(Clone, Debug)]
pub(super) struct Check {
    /// What was looked at.
    pub(super) name: &'static str,
    pub(super) verdict: Verdict,
    /// What was found.
    pub(super) finding: String,
    /// What to do, a sentence or more each.
    pub(super) advice: Vec<String>,
}

impl Check {
    pub(super) fn ok(name: &'static str, finding: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, finding: finding.into(), advice: Vec::new() }
    }

    pub(super) fn warning(name: &'static str, finding: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warning, ..Self::ok(name, finding) }
    }

    pub(super) fn problem(name: &'static str, finding: impl Into<String>) -> Self {
        Self { verdict: Verdict::Problem, ..Self::ok(name, finding) }
    }

    pub(super) fn skipped(name: &'static str, finding: impl Into<String>) -> Self {
        Self { verdict: Verdict::Skipped, ..Self::ok(name, finding) }
    }

    /// Adds what to do.
    #[must_use]
    pub(super) fn advise(mut self, what: impl Into<String>) -> Self {
        self.advice.push(what.into());
        self
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<8} {:<14} {}", self.verdict.word(), self.name, self.finding)?;
        for advice in &self.advice {
            write!(f, "\n         {:<14} → {advice}", "")?;
        }
        Ok(())
    }
}

/// All of them, and what they come to.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    pub(super) checks: Vec<Check>,
    /// Whether a client has, or with a token would have, a session by one transport at least.
    pub(super) session: bool,
    /// Whether something that was asked for, the token or the origin, was refused.
    pub(super) refused: bool,
}

impl Report {
    pub(super) fn add(&mut self, check: Check) {
        self.checks.push(check);
    }

    /// Adds what was found beside.
    pub(super) fn take(&mut self, other: Self) {
        self.checks.extend(other.checks);
        self.session |= other.session;
        self.refused |= other.refused;
    }

    /// Whether the node can be used from here, with what was given.
    pub(super) fn is_usable(&self) -> bool {
        self.session && !self.refused
    }

    /// For people, or for tools.
    pub(super) fn told(&self, json: bool) -> String {
        if json {
            return format!("{:#}\n", self.to_json());
        }
        self.checks.iter().map(|check| format!("{check}\n")).collect()
    }

    pub(super) fn to_json(&self) -> Value {
        let checks = self.checks.iter().map(|check| {
            json!({
                "name": check.name,
                "verdict": check.verdict.word(),
                "finding": check.finding,
                "advice": check.advice,
            })
        });
        json!({ "usable": self.is_usable(), "checks": checks.collect::<Vec<_>>() })
    }
}
