//! The cases that steps cannot say: bytes on the wire, clocks, floods, streams, large batches, server-sent events.

mod batch;
mod bytes;
mod credit;
mod flow;
mod fragments;
mod life;
mod limits;
mod operate;
mod sse;
mod streams;

use crate::case::Case;

/// All of them.
pub(super) fn all() -> Vec<Case> {
    let mut cases = bytes::cases();
    cases.extend(batch::cases());
    cases.extend(credit::cases());
    cases.extend(life::cases());
    cases.extend(flow::cases());
    cases.extend(fragments::cases());
    cases.extend(operate::cases());
    cases.extend(limits::cases());
    cases.extend(sse::cases());
    cases.extend(streams::cases());
    cases
}
