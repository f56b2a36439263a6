//! What a frame of the node must keep to before anything looks into it: its lane, and numbers below 2^53, wherever they
//! stand (LC-FRM-020).

use crate::binding;
use crate::codec::CodecError;
use crate::codes::Code;
use crate::lane::Lane;
use crate::position::NUMBER_LIMIT;
use crate::v1;
use crate::v1::frame::Body;

/// The frame, if it may have come on that lane and holds no number above the limit.
///
/// # Errors
/// PROTOCOL if not.
pub(super) fn checked(stream: Option<Lane>, frame: v1::Frame) -> Result<v1::Frame, CodecError> {
    binding::check_lane(stream, frame.body.as_ref().map(Lane::of))?;
    if frame.body.as_ref().is_none_or(in_bounds) {
        return Ok(frame);
    }
    Err(CodecError { code: Code::Protocol, detail: "a number of 2^53 or more" })
}

/// Whether every number of a frame that this client reads is below the limit.
fn in_bounds(body: &Body) -> bool {
    match body {
        Body::Welcome(welcome) => all([welcome.server_time_ms, welcome.token_expires_at_ms]),
        Body::Ping(ping) => all([ping.stamp]),
        Body::Pong(pong) => all([pong.stamp, pong.server_time_ms]),
        Body::Subscribed(frame) => subscribed(frame),
        Body::Published(published) => all([published.epoch, published.seq, published.order]),
        Body::Event(frame) => event(frame),
        Body::Gap(frame) => gap(frame),
        Body::Signal(signal) => all([signal.handle, signal.start, signal.counter, signal.expires_at_ms]),
        Body::HistoryPage(page) => {
            page.events.iter().all(event)
                && page.gaps.iter().all(gap)
                && page.next.is_none_or(|next| all([next.epoch, next.order]))
                && position(page.head.as_ref())
                && all([page.head_order])
        }
        Body::TokenRefreshed(refreshed) => all([refreshed.expires_at_ms]),
        Body::Fragment(fragment) => all([fragment.transfer, fragment.total]),
        Body::FragmentAbort(abort) => all([abort.transfer]),
        Body::Credit(credit) => all([credit.consumed, credit.window]),
        _ => true,
    }
}

fn all<const N: usize>(numbers: [u64; N]) -> bool {
    numbers.into_iter().all(|number| number < NUMBER_LIMIT)
}

fn subscribed(frame: &v1::Subscribed) -> bool {
    all([frame.handle, frame.head_order])
        && position(frame.position.as_ref())
        && position(frame.head.as_ref())
        && frame.rolled_back.iter().all(gap)
        && frame.missed_transients.is_none_or(|missed| all([missed.count]))
        && frame.transients.is_none_or(|mark| all([mark.source, mark.urgent, mark.normal, mark.bulk]))
}

fn position(position: Option<&v1::Position>) -> bool {
    position.is_none_or(|position| all([position.epoch, position.urgent, position.normal, position.bulk]))
}

fn event(event: &v1::Event) -> bool {
    all([event.handle, event.seq, event.order, event.epoch, event.time_ms, event.expires_at_ms])
}

fn gap(gap: &v1::Gap) -> bool {
    all([gap.handle, gap.epoch, gap.from, gap.to, gap.count])
}
