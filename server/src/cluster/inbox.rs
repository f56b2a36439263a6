//! What other nodes said and nobody has read yet.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Messages that wait at most; one more is dropped, and its sender gets no answer and says so.
const MESSAGES_MAX: usize = 1_024;
/// Bytes that wait at most, with the same consequence.
const BYTES_MAX: usize = 16 * 1024 * 1024;

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<Bytes>,
    bytes: usize,
}

/// A bounded queue that the engine fills without waiting.
#[derive(Debug, Default)]
pub struct Inbox {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

impl Inbox {
    /// Leaves a message; false if there is no room for it.
    pub fn push(&self, message: &Bytes) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.messages.len() >= MESSAGES_MAX || waiting.bytes + message.len() > BYTES_MAX {
            return false;
        }
        waiting.bytes += message.len();
        waiting.messages.push_back(message.clone());
        drop(waiting);
        self.filled.notify_one();
        true
    }

    /// The next message; waits until there is one. Cancel safe.
    pub async fn next(&self) -> Bytes {
        loop {
            {
                let mut waiting = self.waiting.lock();
                if let Some(message) = waiting.messages.pop_front() {
                    waiting.bytes -= message.len();
                    return message;
                }
            }
            self.filled.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_does_not_fit_is_dropped_and_what_does_comes_in_order() {
        let inbox = Inbox::default();
        let large = Bytes::from(vec![0; BYTES_MAX - 1]);
        assert!(inbox.push(&large) && inbox.push(&Bytes::from("b")) && !inbox.push(&Bytes::from("c")));
        assert_eq!(inbox.next().await.len(), large.len());
        assert_eq!(inbox.next().await, "b");
        assert!((0..MESSAGES_MAX).all(|_| inbox.push(&Bytes::from("x"))));
        assert!(!inbox.push(&Bytes::from("x")));
    }
}
