//! The cases that steps cannot say: bytes on the wire, clocks, floods, server-sent events.

mod bytes;
mod flow;
mod life;
mod sse;

use crate::case::Case;

/// All of them.
pub(super) fn all() -> Vec<Case> {
    let mut cases = bytes::cases();
    cases.extend(life::cases());
    cases.extend(flow::cases());
    cases.extend(sse::cases());
    cases
}
