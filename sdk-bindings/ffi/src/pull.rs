//! What comes by itself, pulled in batches that are kept until they are said to be handled.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::error::{ErrorKind, FfiError};

/// Most items in a batch, however many were asked for.
const BATCH_MAX: usize = 4096;

/// Where batches come from.
pub(crate) trait Source: Send {
    /// What it gives.
    type Item: Send + Sync;
    /// What it says of where a batch ends.
    type Place: Send + Sync + Default;

    /// The next items, at least one and at most `max`, without any that an earlier call took; none: there are no more.
    fn poll_batch(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<Vec<Self::Item>>;

    /// Where the last batch ends.
    fn place(&self) -> Self::Place {
        Self::Place::default()
    }

    /// The last batch was handled.
    fn acknowledge(&mut self) {}
}

/// A source and its last batch. A batch leaves it once the next one is asked for, so that a caller who goes away takes none
/// along: whoever asks again gets the same one again.
pub(crate) struct Pull<S: Source> {
    state: Mutex<State<S>>,
    /// Held by the caller who waits: a source wakes one only.
    turn: tokio::sync::Mutex<()>,
}

/// A batch: without items if there is none.
pub(crate) struct Batch<S: Source> {
    pub(crate) items: Vec<S::Item>,
    pub(crate) place: S::Place,
}

impl<S: Source> Default for Batch<S> {
    fn default() -> Self {
        Self { items: Vec::new(), place: S::Place::default() }
    }
}

type Numbered<S> = (u64, Arc<Batch<S>>);

struct State<S: Source> {
    /// `None`: it was ended.
    source: Option<S>,
    batch: Arc<Batch<S>>,
    /// Of the batch; 0 before the first.
    number: u64,
    waiting: Option<Waker>,
}

impl<S: Source> Pull<S> {
    pub(crate) fn new(source: S) -> Self {
        let state = State { source: Some(source), batch: Arc::default(), number: 0, waiting: None };
        Self { state: Mutex::new(state), turn: tokio::sync::Mutex::new(()) }
    }

    /// The batch after that number, and its number. Asking for it says that the one of that number was handled. An
    /// empty batch says that there are no more, and leaves the number.
    ///
    /// # Cancel safety
    ///
    /// Dropped at any moment, nothing is lost: the same call gives the same batch.
    ///
    /// # Errors
    ///
    /// Of kind `Invalid` if `max` is 0, or `after` is neither the last batch nor the one before.
    pub(crate) async fn next(&self, after: u64, max: u32) -> Result<Numbered<S>, FfiError> {
        let max = usize::try_from(max).unwrap_or(usize::MAX).min(BATCH_MAX);
        if max == 0 {
            return Err(FfiError::local(ErrorKind::Invalid, "a batch holds at least one item"));
        }
        let _turn = self.turn.lock().await;
        poll_fn(|cx| self.state.lock().poll_after(cx, after, max)).await
    }

    /// The batch of that number was handled, without asking for more. A number that is not the last batch's says nothing
    /// new.
    pub(crate) fn acknowledge(&self, number: u64) {
        self.state.lock().acknowledge(number);
    }

    /// Ends the source: it gives nothing more, and who waits is told so.
    pub(crate) fn end(&self) {
        let mut state = self.state.lock();
        let (source, waiting) = (state.source.take(), state.waiting.take());
        state.batch = Arc::default();
        drop(state);
        drop(source);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }

    /// Looks at the source, if it was not ended.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&S) -> T) -> Option<T> {
        self.state.lock().source.as_ref().map(look)
    }
}

impl<S: Source> State<S> {
    fn acknowledge(&mut self, number: u64) {
        if number == self.number && !self.batch.items.is_empty() {
            self.batch = Arc::default();
            if let Some(source) = &mut self.source {
                source.acknowledge();
            }
        }
    }

    /// The batch after that number, and its number.
    fn poll_after(&mut self, cx: &mut Context<'_>, after: u64, max: usize) -> Poll<Result<Numbered<S>, FfiError>> {
        if after.checked_add(1) == Some(self.number) && !self.batch.items.is_empty() {
            return Poll::Ready(Ok(self.numbered()));
        }
        if after != self.number {
            let detail = format!("batch {after} is not the last one, which was {}", self.number);
            return Poll::Ready(Err(FfiError::local(ErrorKind::Invalid, detail)));
        }
        self.acknowledge(after);
        self.waiting = Some(cx.waker().clone());
        if let Some(source) = &mut self.source {
            let items = std::task::ready!(source.poll_batch(cx, max));
            self.batch = Arc::new(Batch { items, place: source.place() });
            self.number += u64::from(!self.batch.items.is_empty());
        }
        Poll::Ready(Ok(self.numbered()))
    }

    fn numbered(&self) -> Numbered<S> {
        (self.number, self.batch.clone())
    }
}

/// As many items as there are, at most `max`, from something that gives them one by one.
pub(crate) fn gather<T>(max: usize, mut next: impl FnMut() -> Poll<Option<T>>) -> Poll<Vec<T>> {
    let mut items = Vec::new();
    while items.len() < max {
        match next() {
            Poll::Ready(Some(item)) => items.push(item),
            Poll::Pending if items.is_empty() => return Poll::Pending,
            Poll::Ready(None) | Poll::Pending => break,
        }
    }
    Poll::Ready(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives what is there, and counts what it was told is handled.
    #[derive(Default)]
    struct Numbers {
        ready: Vec<u32>,
        ended: bool,
        handled: u32,
    }

    impl Source for Numbers {
        type Item = u32;
        type Place = u32;

        fn poll_batch(&mut self, _: &mut Context<'_>, max: usize) -> Poll<Vec<u32>> {
            let count = self.ready.len().min(max);
            if count == 0 && !self.ended { Poll::Pending } else { Poll::Ready(self.ready.drain(..count).collect()) }
        }

        fn place(&self) -> u32 {
            self.handled + 1
        }

        fn acknowledge(&mut self) {
            self.handled += 1;
        }
    }

    async fn next(pull: &Pull<Numbers>, after: u64) -> Result<(u64, Vec<u32>, u32), FfiError> {
        let (number, batch) = pull.next(after, 2).await?;
        Ok((number, batch.items.clone(), batch.place))
    }

    #[tokio::test]
    async fn a_batch_stays_until_the_next_is_asked_for() {
        let pull = Pull::new(Numbers { ready: vec![1, 2, 3], ended: true, handled: 0 });
        assert_eq!(next(&pull, 0).await, Ok((1, vec![1, 2], 1)));
        assert_eq!(next(&pull, 0).await, Ok((1, vec![1, 2], 1)));
        assert_eq!(pull.with(|numbers| numbers.handled), Some(0));
        assert_eq!(next(&pull, 1).await, Ok((2, vec![3], 2)));
        assert!(next(&pull, 0).await.is_err() && next(&pull, 3).await.is_err() && next(&pull, u64::MAX).await.is_err());
        assert!(pull.next(2, 0).await.is_err());
        pull.acknowledge(1);
        assert_eq!(pull.with(|numbers| numbers.handled), Some(1));
        pull.acknowledge(2);
        pull.acknowledge(2);
        assert_eq!(pull.with(|numbers| numbers.handled), Some(2));
        assert_eq!(next(&pull, 2).await.map(|(number, items, _)| (number, items)), Ok((2, vec![])));
        assert_eq!(next(&pull, 2).await.map(|(number, items, _)| (number, items)), Ok((2, vec![])));
    }

    #[tokio::test]
    async fn ending_tells_who_waits() {
        let pull = Pull::new(Numbers::default());
        let (ended, ()) = tokio::join!(next(&pull, 0), async { pull.end() });
        assert_eq!(ended, Ok((0, vec![], 0)));
        assert_eq!(next(&pull, 0).await, Ok((0, vec![], 0)));
        assert_eq!(pull.with(|numbers| numbers.handled), None);
    }
}
