//! What is alive: for wrappers that prove that they leak nothing.

use std::sync::atomic::{AtomicU64, Ordering};

static OBJECTS: AtomicU64 = AtomicU64::new(0);
static CALLS: AtomicU64 = AtomicU64::new(0);

/// What is alive in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Record)]
pub struct Live {
    /// Objects that were handed out, and not given back or still in use by a call.
    pub objects: u64,
    /// Calls that run. One that was cancelled counts until its future is gone, which is a moment later.
    pub calls: u64,
}

/// What is alive now.
#[uniffi::export]
pub fn live() -> Live {
    Live { objects: OBJECTS.load(Ordering::Relaxed), calls: CALLS.load(Ordering::Relaxed) }
}

/// Counts something for as long as it lives.
#[derive(Debug)]
pub(crate) struct Counted(&'static AtomicU64);

impl Counted {
    pub(crate) fn object() -> Self {
        Self::new(&OBJECTS)
    }

    pub(crate) fn call() -> Self {
        Self::new(&CALLS)
    }

    fn new(counter: &'static AtomicU64) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
