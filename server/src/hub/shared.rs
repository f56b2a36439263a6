//! Questions of many to an engine that is slow: one at a time is asked, and its answer serves all who waited for it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::{Mutex, TryLockError};

use crate::engine::EngineError;

/// Answers that are kept for those who wait; beyond it the oldest go, and who needed one asks again.
const ANSWERS_MAX: usize = 64;

#[derive(Debug)]
struct Answer<K, V> {
    key: K,
    /// Whoever came before this number waited when the question was asked: what it found is news for him.
    before: u64,
    value: V,
}

/// The questions about one room.
///
/// An answer is given only to those who came before it was asked for, so nobody learns of an older moment than that of
/// its own request. A failure is given to all of them, whatever they asked: they would fail one after the other.
#[derive(Debug)]
pub(super) struct Shared<K, V> {
    arrivals: AtomicU64,
    waiting: AtomicUsize,
    answers: Mutex<Answers<K, V>>,
}

#[derive(Debug)]
struct Answers<K, V> {
    given: VecDeque<Answer<K, V>>,
    failed: Option<(u64, EngineError)>,
}

/// Counts who waits, also if the future is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl<K: PartialEq, V: Clone> Shared<K, V> {
    pub(super) fn new() -> Self {
        let answers = Answers { given: VecDeque::new(), failed: None };
        Self { arrivals: AtomicU64::new(0), waiting: AtomicUsize::new(0), answers: Mutex::new(answers) }
    }

    /// Asks, or takes the answer to the same question of somebody else; says which.
    ///
    /// Cancel safety: if the future is dropped the next one who waits asks.
    pub(super) async fn ask(
        &self,
        key: K,
        ask: impl Future<Output = Result<V, EngineError>>,
    ) -> Result<(V, bool), EngineError> {
        let arrival = self.arrivals.fetch_add(1, Ordering::AcqRel);
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let waiting = Waiting(&self.waiting);
        let mut answers = self.answers.lock().await;
        let result = match answers.find(arrival, &key) {
            Some(found) => found.map(|value| (value, true)),
            None => {
                let before = self.arrivals.load(Ordering::Acquire);
                let asked = ask.await;
                match &asked {
                    Ok(value) => {
                        if answers.given.len() == ANSWERS_MAX {
                            answers.given.pop_front();
                        }
                        answers.given.push_back(Answer { key, before, value: value.clone() });
                    }
                    Err(error) => answers.failed = Some((before, *error)),
                }
                asked.map(|value| (value, false))
            }
        };
        drop(waiting);
        if self.waiting.load(Ordering::Acquire) == 0 {
            // Nobody is left who came before.
            answers.given = VecDeque::new();
            answers.failed = None;
        }
        result
    }

    /// Runs while nothing is asked; at once or not at all.
    pub(super) async fn alone<T>(&self, run: impl Future<Output = T>) -> Result<T, TryLockError> {
        let answers = self.answers.try_lock()?;
        let result = run.await;
        drop(answers);
        Ok(result)
    }
}

impl<K: PartialEq, V: Clone> Answers<K, V> {
    fn find(&self, arrival: u64, key: &K) -> Option<Result<V, EngineError>> {
        if let Some((before, error)) = self.failed
            && arrival < before
        {
            return Some(Err(error));
        }
        let found = self.given.iter().find(|answer| answer.key == *key && arrival < answer.before)?;
        Some(Ok(found.value.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_share_one_answer_and_nobody_gets_an_older_one() {
        let (shared, asked) = (Arc::new(Shared::new()), Arc::new(AtomicU64::new(0)));
        let ask = |key: u8, after_ms: u64| {
            let (shared, asked) = (Arc::clone(&shared), Arc::clone(&asked));
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(after_ms)).await;
                let question = async {
                    let number = asked.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    Ok(number)
                };
                shared.ask(key, question).await.unwrap()
            })
        };
        let first = ask(1, 0);
        // They come while the first is asked: its moment was before theirs.
        let later: Vec<_> = (0..50).map(|number| ask(1, 10 + number % 5)).collect();
        let other = ask(2, 20);
        assert_eq!(first.await.unwrap(), (0, false));
        let mut alone = 0;
        for task in later {
            let (number, taken) = task.await.unwrap();
            assert_eq!(number, 1);
            alone += u32::from(!taken);
        }
        assert_eq!((alone, other.await.unwrap()), (1, (2, false)));
        assert!(shared.answers.try_lock().unwrap().given.is_empty(), "kept for nobody");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_everybodys() {
        let shared = Arc::new(Shared::<u64, u64>::new());
        let ask = |key| {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                let question = async {
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    Err(EngineError::Unavailable { retry_after_ms: 1 })
                };
                shared.ask(key, question).await
            })
        };
        let tasks: Vec<_> = (0..100).map(ask).collect();
        let all = async {
            for task in tasks {
                assert!(task.await.unwrap().is_err());
            }
        };
        tokio::time::timeout(Duration::from_secs(5), all).await.expect("one after the other they would take 200 s");
    }
}
