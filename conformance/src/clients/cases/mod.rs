//! The cases, by what they are about.

mod errors;
mod flow;
mod fragments;
mod framing;
mod life;
mod outbox;
mod publish;
mod resume;
mod signals;
mod streams;
mod tracker;

use super::Case;

/// Makes a case: requirements and name, title, transports, what it needs, and what it does.
macro_rules! case {
    ([$($id:literal),+] $name:literal, $title:literal, $transports:expr, $needs:expr, $run:expr) => {
        crate::clients::Case::new((&[$($id),+], $name), $title, $transports, &$needs, |trial| Box::pin($run(trial)))
    };
}
use case;

/// All of them.
pub(super) fn all() -> Vec<Case> {
    let areas = [
        framing::cases(),
        fragments::cases(),
        streams::cases(),
        life::cases(),
        errors::cases(),
        flow::cases(),
        publish::cases(),
        outbox::cases(),
        tracker::cases(),
        resume::cases(),
        signals::cases(),
    ];
    areas.into_iter().flatten().collect()
}
