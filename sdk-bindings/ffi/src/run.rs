//! Where calls run: on a runtime of this library, whatever thread they come from.

use std::future::{Future, pending};
use std::sync::{Arc, OnceLock};

use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinError, JoinHandle};

use crate::cancel::Cancellation;
use crate::error::{ErrorKind, FfiError};
use crate::live::Counted;

/// Threads of the runtime. A client is one task, and decoding is quick: two keep one busy client from delaying another.
const WORKERS: usize = 2;
/// Threads for what blocks: opening outbox files, reading the system's certificates, asking for addresses, which may take half
/// a minute in a broken network and must not keep others from opening theirs. Made when needed, gone when idle.
const BLOCKING_THREADS_MAX: usize = 16;

/// The runtime, which lives as long as the process: an SDK is never unloaded.
pub(crate) fn runtime() -> Result<&'static Runtime, FfiError> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    let make = || {
        Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_name("lanecast")
            .enable_all()
            .build()
    };
    let made = RUNTIME.get_or_init(|| make().map_err(|error| error.to_string()));
    made.as_ref().map_err(|error| FfiError::local(ErrorKind::NoRuntime, error))
}

/// Runs a call until it is done or cancelled. A panic inside becomes an error.
///
/// # Cancel safety
///
/// Dropped before it resolves, `work` is dropped a moment later: what it has done until then stands.
pub(crate) async fn call<T: Send + 'static>(
    cancellation: Option<Arc<Cancellation>>,
    work: impl Future<Output = Result<T, FfiError>> + Send + 'static,
) -> Result<T, FfiError> {
    let counted = Counted::call();
    let task = runtime()?.spawn(async move {
        let _counted = counted;
        tokio::select! {
            biased;
            () = cancelled(cancellation.as_deref()) => Err(FfiError::local(ErrorKind::Cancelled, "")),
            result = work => result,
        }
    });
    let mut task = Aborted(task);
    (&mut task.0).await.unwrap_or_else(|error| Err(failed(error)))
}

/// Runs what has no result. It fails by a panic only.
pub(crate) async fn tell(work: impl Future<Output = ()> + Send + 'static) -> Result<(), FfiError> {
    let done = async {
        work.await;
        Ok(())
    };
    call(None, done).await
}

/// Runs what blocks.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FfiError> + Send + 'static,
) -> Result<T, FfiError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(failed(error)))
}

async fn cancelled(cancellation: Option<&Cancellation>) {
    match cancellation {
        Some(cancellation) => cancellation.cancelled().await,
        None => pending().await,
    }
}

fn failed(error: JoinError) -> FfiError {
    match error.try_into_panic() {
        Ok(panic) => FfiError::local(ErrorKind::Internal, sentence(panic.as_ref())),
        Err(_) => FfiError::local(ErrorKind::Cancelled, ""),
    }
}

/// What a panic says.
fn sentence(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("a fault of the SDK: {}", text.unwrap_or("it gave no reason"))
}

/// Ends its task when it is dropped.
struct Aborted<T>(JoinHandle<T>);

impl<T> Drop for Aborted<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::future::{poll_fn, ready};
    use std::task::Poll;
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    fn kind_and_detail(error: FfiError) -> (ErrorKind, String) {
        let FfiError::Failed { kind, detail, .. } = error;
        (kind, detail)
    }

    #[tokio::test]
    async fn a_panic_becomes_an_error() {
        let failed = call::<()>(None, async { panic!("a test") }).await.unwrap_err();
        assert_eq!(kind_and_detail(failed), (ErrorKind::Internal, "a fault of the SDK: a test".into()));
        let failed = call(None, blocking::<()>(|| panic!("a {}", "test"))).await.unwrap_err();
        assert_eq!(kind_and_detail(failed), (ErrorKind::Internal, "a fault of the SDK: a test".into()));
        assert_eq!(call(None, ready(Ok(1))).await, Ok(1), "the runtime goes on");
    }

    #[tokio::test]
    async fn a_call_that_is_dropped_ends() {
        let (held, ended) = oneshot::channel::<()>();
        let work = async move {
            let _held = held;
            pending().await
        };
        let mut waiting = Box::pin(call::<()>(None, work));
        let begun = poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx).is_pending())).await;
        assert!(begun);
        drop(waiting);
        let ended = tokio::time::timeout(Duration::from_secs(20), ended).await;
        assert!(matches!(ended, Ok(Err(_))), "what the call held was given back");
    }

    #[tokio::test]
    async fn a_cancellation_ends_what_waits_and_what_comes_later() {
        let cancellation = Cancellation::new();
        let waiting = call::<()>(Some(cancellation.clone()), pending());
        let (ended, ()) = tokio::join!(waiting, async { cancellation.cancel() });
        assert_eq!(kind_and_detail(ended.unwrap_err()).0, ErrorKind::Cancelled);
        let later = call(Some(cancellation), ready(Ok(1))).await;
        assert_eq!(kind_and_detail(later.unwrap_err()).0, ErrorKind::Cancelled);
    }
}
