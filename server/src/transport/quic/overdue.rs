//! When the acknowledgement of a message is overdue.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use lanecast_protocol::binding::StreamId;
use tokio::time::{Instant, Sleep, sleep_until};

use super::ACKNOWLEDGED_WITHIN;

/// An acknowledgement is overdue when, beyond the round trip, an eighth of it has passed, or, where that is longer, the time
/// within which clients are asked to acknowledge and some for their timers. That is sooner than a loss is found: a false alarm
/// costs one small message, and leaves the congestion window as it is.
const BEYOND_PARTS: u32 = 8;
const BEYOND_MIN: Duration = ACKNOWLEDGED_WITHIN.saturating_add(Duration::from_millis(3));

/// Message streams whose acknowledgement is awaited: no more than may be open.
#[derive(Debug, Default)]
pub(super) struct Overdue {
    awaited: VecDeque<(Instant, StreamId)>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Overdue {
    /// A message leaves now.
    pub(super) fn watch(&mut self, message: StreamId, round_trip: Duration) {
        let beyond = (round_trip / BEYOND_PARTS).max(BEYOND_MIN);
        self.awaited.push_back((Instant::now() + round_trip + beyond, message));
    }

    /// The end of a stream was acknowledged.
    pub(super) fn acknowledged(&mut self, stream: StreamId) {
        self.awaited.retain(|(_, awaited)| *awaited != stream);
    }

    /// Waits for the next message that is overdue, in the order in which they left. Each once.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<StreamId> {
        while let Some(&(due, message)) = self.awaited.front() {
            if due <= Instant::now() {
                self.awaited.pop_front();
                return Poll::Ready(message);
            }
            // It may be that of a message which was acknowledged meanwhile, and too early.
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            ready!(timer.as_mut().poll(cx));
            self.timer = None;
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_message_is_overdue_soon_after_its_round_trip() {
        let (begin, mut overdue) = (Instant::now(), Overdue::default());
        let ms = Duration::from_millis;
        for (message, round_trip) in [(1, 0), (2, 40), (3, 40), (4, 160)] {
            overdue.watch(message, ms(round_trip));
        }
        let mut next = async |acknowledged: StreamId| {
            overdue.acknowledged(acknowledged);
            let message = poll_fn(|cx| overdue.poll_next(cx)).await;
            (message, begin.elapsed())
        };
        assert_eq!(next(0).await, (1, ms(8)));
        // The timer of the second one runs while it is acknowledged.
        assert!(tokio::time::timeout(ms(1), next(0)).await.is_err());
        assert_eq!(next(2).await, (3, ms(48)));
        assert_eq!(next(0).await, (4, ms(180)));
        assert!(tokio::time::timeout(ms(1_000), next(0)).await.is_err(), "each once");
    }
}
