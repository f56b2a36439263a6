//! Where tokens come from.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

/// Why the application gave no token.
pub(crate) type TokenError = Box<dyn std::error::Error + Send + Sync>;

/// What a token provider is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenRequest {
    /// The code with which a node refused the token before; `None`: this is the first one, or the present one will
    /// expire.
    pub refused: Option<u32>,
}

impl TokenRequest {
    /// After a node refused a token with this code; 0: no node did.
    pub(crate) fn after(refused: u32) -> Self {
        Self { refused: (refused != 0).then_some(refused) }
    }
}

type Provider = dyn Fn(TokenRequest) -> BoxFuture<'static, Result<String, TokenError>> + Send + Sync;

/// A fixed token, or a function that gets one.
#[derive(Clone)]
pub(crate) enum TokenSource {
    /// One token. When it is refused the client is closed, because it is never sent again (LC-AUTH-022).
    Fixed(String),
    /// Asked before the first connection, before the token expires, and after a node refused it.
    Provider(Arc<Provider>),
}

impl TokenSource {
    pub(crate) fn provider<F, Fut, E>(provider: F) -> Self
    where
        F: Fn(TokenRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<String, E>> + Send + 'static,
        E: Into<TokenError>,
    {
        Self::Provider(Arc::new(move |request| {
            let token = provider(request);
            async move { token.await.map_err(Into::into) }.boxed()
        }))
    }

    pub(crate) async fn token(&self, request: TokenRequest) -> Result<String, TokenError> {
        match self {
            Self::Fixed(token) => Ok(token.clone()),
            Self::Provider(provider) => provider(request).await,
        }
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fixed(_) => "Fixed",
            Self::Provider(_) => "Provider",
        })
    }
}
