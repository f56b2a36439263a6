//! Handing tokens over: the core says that it needs one, the wrapper brings it.
//!
//! Not a callback of the wrapper's: a foreign function that is asynchronous does not compile in Swift 6, and one that throws
//! where nothing may be thrown would leave the core without an answer.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use crate::cancel::Cancellation;
use crate::error::FfiError;
use crate::live::Counted;
use crate::run;

/// Why there is no token.
type TokenError = Box<dyn std::error::Error + Send + Sync>;

/// The requests for tokens of one client. There is at most one at a time: a new one takes the place of an older one, for
/// which the core waits no longer.
#[derive(Debug, uniffi::Object)]
pub struct TokenRequests {
    present: watch::Receiver<Option<Arc<TokenRequest>>>,
    _counted: Counted,
}

#[uniffi::export]
impl TokenRequests {
    /// The request after that number, 0 for the first; `None`: the client is over and asks no more. A call that was cancelled
    /// takes nothing along: the next one with the same number gets the same request. The answer has 10 s.
    ///
    /// # Errors
    ///
    /// Of kind `Cancelled`.
    pub async fn next(
        &self,
        after: u64,
        cancellation: Option<Arc<Cancellation>>,
    ) -> Result<Option<Arc<TokenRequest>>, FfiError> {
        let mut present = self.present.clone();
        run::call(cancellation, async move {
            let is_new = |request: &Option<Arc<TokenRequest>>| request.as_ref().is_some_and(|one| one.number > after);
            Ok(present.wait_for(is_new).await.ok().and_then(|request| request.clone()))
        })
        .await
    }
}

/// What a token provider of the Rust SDK gives.
type Answered = Pin<Box<dyn Future<Output = Result<String, TokenError>> + Send>>;

impl TokenRequests {
    /// The requests, and the provider by which a client makes them. They end when the provider is dropped.
    pub(crate) fn new() -> (Arc<Self>, impl Fn(lanecast::TokenRequest) -> Answered + Send + Sync + 'static) {
        let (asking, present) = watch::channel(None);
        let requests = Arc::new(Self { present, _counted: Counted::object() });
        (requests, move |request| ask(&asking, request.refused.unwrap_or(0)))
    }
}

fn ask(asking: &watch::Sender<Option<Arc<TokenRequest>>>, refused: u32) -> Answered {
    let (answer, answered) = oneshot::channel();
    asking.send_modify(|present| {
        let number = present.as_ref().map_or(0, |former| former.number) + 1;
        let answer = Mutex::new(Some(answer));
        *present = Some(Arc::new(TokenRequest { number, refused, answer, _counted: Counted::object() }));
    });
    Box::pin(async move {
        match answered.await {
            Ok(answer) => answer.map_err(Into::into),
            Err(_) => Err("the request for a token was given up".into()),
        }
    })
}

/// A request for a token. It is answered once; further answers do nothing.
#[derive(uniffi::Object)]
pub struct TokenRequest {
    number: u64,
    refused: u32,
    answer: Mutex<Option<oneshot::Sender<Result<String, String>>>>,
    _counted: Counted,
}

#[uniffi::export]
impl TokenRequest {
    /// Its number, from 1: what to ask after for the next one.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The code with which a node refused the token before; 0: this is the first one, or the present one will expire.
    pub fn refused(&self) -> u32 {
        self.refused
    }

    /// Answers with a token.
    pub fn give(&self, token: String) {
        self.answer(Ok(token));
    }

    /// Answers that there is none: counts as a failed attempt, which is repeated with backoff.
    pub fn fail(&self, detail: String) {
        self.answer(Err(detail));
    }
}

impl TokenRequest {
    fn answer(&self, answer: Result<String, String>) {
        if let Some(sender) = self.answer.lock().take() {
            // Fails when the client waits no longer.
            let _ = sender.send(answer);
        }
    }
}

/// Shows no token.
impl fmt::Debug for TokenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenRequest").field("number", &self.number).field("refused", &self.refused).finish()
    }
}
