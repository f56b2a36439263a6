//! Ending a call that waits, from a language whose own cancelling does not reach Rust.

use std::sync::Arc;

use tokio::sync::watch;

use crate::live::Counted;

/// Ends the calls that it was given to: at once, also those that begin later. They fail with kind
/// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled), and the same call made again goes on where they were.
#[derive(Debug, uniffi::Object)]
pub struct Cancellation {
    cancelled: watch::Sender<bool>,
    _counted: Counted,
}

#[uniffi::export]
impl Cancellation {
    /// One that ends nothing yet.
    #[uniffi::constructor]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { cancelled: watch::Sender::new(false), _counted: Counted::object() })
    }

    /// Ends the calls, now and for good. Never blocks; from any thread.
    pub fn cancel(&self) {
        self.cancelled.send_replace(true);
    }
}

impl Cancellation {
    /// Resolves when it was cancelled.
    pub(crate) async fn cancelled(&self) {
        // Cannot fail while `self` has the sender.
        let _ = self.cancelled.subscribe().wait_for(|cancelled| *cancelled).await;
    }
}
