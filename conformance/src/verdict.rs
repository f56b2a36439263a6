//! How a case ends.

use serde::Serialize;

/// Why a case stopped before its end.
#[derive(Clone, Debug)]
pub enum Stop {
    /// The server broke a rule; if the ledger saw it, with the rule.
    Fail(String, Option<&'static str>),
    /// The server does not offer what the case needs: not advertised, and probed.
    Unsupported(String),
    /// The run was not given what the case needs.
    Skipped(String),
    /// The suite or its environment is at fault.
    Harness(String),
}

impl Stop {
    /// The server broke a rule of the case.
    pub fn fail(text: impl Into<String>) -> Self {
        Self::Fail(text.into(), None)
    }

    /// The suite or its environment is at fault.
    pub fn harness(text: impl std::fmt::Display) -> Self {
        Self::Harness(text.to_string())
    }
}

impl From<crate::schema::CodecError> for Stop {
    fn from(error: crate::schema::CodecError) -> Self {
        Self::Harness(error.0)
    }
}

/// What every step of a case returns.
pub type Outcome<T = ()> = Result<T, Stop>;

/// Fails the case unless the condition holds.
pub fn check(condition: bool, text: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(Stop::fail(text())) }
}

/// The verdict of one case in one encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The server did what it must.
    Pass,
    /// It did not.
    Fail,
    /// Not offered, and probed.
    Unsupported,
    /// Not run.
    Skipped,
    /// The suite could not judge.
    Harness,
}

impl Verdict {
    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Unsupported => "unsupported",
            Self::Skipped => "skipped",
            Self::Harness => "harness error",
        }
    }
}

/// Splits an outcome into verdict, text and the rule that the ledger saw broken.
pub fn judge(outcome: Outcome) -> (Verdict, String, Option<&'static str>) {
    match outcome {
        Ok(()) => (Verdict::Pass, String::new(), None),
        Err(Stop::Fail(text, rule)) => (Verdict::Fail, text, rule),
        Err(Stop::Unsupported(text)) => (Verdict::Unsupported, text, None),
        Err(Stop::Skipped(text)) => (Verdict::Skipped, text, None),
        Err(Stop::Harness(text)) => (Verdict::Harness, text, None),
    }
}
