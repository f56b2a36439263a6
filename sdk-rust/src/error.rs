//! One error type with a closed kind per operation, so that a `match` on it stays complete.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use lanecast_protocol::codes::{self, Code};
use lanecast_protocol::session::client::CommandError;

/// Why an operation failed.
///
/// `kind` is for `match`, `code` names the row of the protocol's table if a node refused, `detail` is one sentence for
/// developers and never to be parsed, and `retryable` says whether the same call may succeed later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error<Kind> {
    /// What failed.
    pub kind: Kind,
    /// The code of the table, also one that this version does not know; `None`: no node was involved.
    pub code: Option<u32>,
    /// One sentence for developers.
    pub detail: Cow<'static, str>,
    /// Whether the same call may succeed later.
    pub retryable: bool,
    /// After what time the node said that it may be asked again; `None`: it said nothing. What the client asks again by
    /// itself, publishes and subscriptions, waits for it by itself.
    pub retry_after: Option<Duration>,
}

impl<Kind> Error<Kind> {
    pub(crate) fn local(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, code: None, detail: detail.into(), retryable: false, retry_after: None }
    }

    pub(crate) fn may_retry(mut self) -> Self {
        self.retryable = true;
        self
    }

    pub(crate) fn refused(kind: Kind, code: u32, detail: impl Into<Cow<'static, str>>) -> Self {
        let retryable = matches!(codes::action_of(code), codes::Action::Retry | codes::Action::RetryAfter);
        Self { kind, code: Some(code), detail: detail.into(), retryable, retry_after: None }
    }

    /// The node's own time; 0: it said none.
    pub(crate) fn after_ms(mut self, retry_after_ms: u32) -> Self {
        self.retry_after = (retry_after_ms != 0).then(|| Duration::from_millis(retry_after_ms.into()));
        self
    }

    /// The row's code, if this version knows the number.
    pub fn known_code(&self) -> Option<Code> {
        self.code.and_then(Code::from_number)
    }
}

impl<Kind: fmt::Display> fmt::Display for Error<Kind> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        match (self.known_code(), self.code) {
            (Some(code), _) => write!(f, " [{code}]")?,
            (None, Some(number)) => write!(f, " [{number}]")?,
            (None, None) => {}
        }
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

impl<Kind: fmt::Debug + fmt::Display> std::error::Error for Error<Kind> {}

/// A closed set of kinds, each with its sentence.
macro_rules! kinds {
    ($(#[$doc:meta])* $name:ident, $alias:ident { $($(#[$kind_doc:meta])* $kind:ident = $sentence:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$kind_doc])* $kind,)*
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$kind => $sentence,)* })
            }
        }

        #[doc = concat!("An [`Error`] of kind [`", stringify!($name), "`].")]
        pub type $alias = Error<$name>;
    };
}

kinds! {
    /// Why a client could not be made, or did not get its connection.
    ConnectErrorKind, ConnectError {
        /// The address, or that of the proxy, is none that can be used.
        BadUrl = "the address cannot be used",
        /// The scheme needs a feature of the crate with which this client was not built.
        UnsupportedScheme = "the scheme is not served by this build",
        /// The certificates to believe cannot be used: an extra root is none, or the system has no roots.
        Certificates = "the certificates cannot be used",
        /// There is no tokio runtime to run the client on, or no randomness.
        NoRuntime = "the client cannot run here",
        /// The client is closed; `code` says why.
        Closed = "the client is closed",
        /// Another client, in this process or another, has the outbox file open.
        OutboxLocked = "the outbox file is in use",
        /// The outbox file was damaged. It was repaired, and the damaged one was kept beside it: connecting again goes on
        /// with every publish that is intact. `detail` says where the damage begins and what is left.
        OutboxDamaged = "the outbox file was damaged",
        /// The outbox file is of a format that this version does not know. It was not touched.
        OutboxVersion = "the outbox file is of another version",
        /// The outbox file cannot be read or written, or is no outbox.
        OutboxFile = "the outbox file cannot be used",
        /// Another client, in this process or another, has the file of positions open.
        PositionsLocked = "the file of positions is in use",
        /// The file of positions was damaged. It was repaired, and the damaged one was kept beside it: connecting again goes
        /// on with every position that is intact. `detail` says where the damage begins and what is left.
        PositionsDamaged = "the file of positions was damaged",
        /// The file of positions is of a format that this version does not know. It was not touched.
        PositionsVersion = "the file of positions is of another version",
        /// The file of positions cannot be read or written, or is none.
        PositionsFile = "the file of positions cannot be used",
    }
}

kinds! {
    /// Why a publish did not become stored.
    PublishErrorKind, PublishError {
        /// The room name, the type or another field cannot be sent.
        Invalid = "the event cannot be published like this",
        /// The outbox is full: wait for earlier publishes, or drop something. Nothing that it holds was dropped.
        OutboxFull = "the outbox is full",
        /// The outbox file could not be written. The event is not queued.
        NotKept = "the outbox file could not be written",
        /// A transient event found no connection.
        NotConnected = "not connected",
        /// Too many transient publishes wait for their answer.
        TooMany = "too many requests are waiting",
        /// The node refused it for good.
        Refused = "the node refused the event",
        /// Its time in the outbox ran out. If it was sent before, it may be stored all the same.
        GivenUp = "the event waited too long",
        /// The client was closed before the answer came. If it was sent before, it may be stored all the same; if it is in
        /// an outbox file, it will be sent when that is opened again.
        Closed = "the client is closed",
    }
}

kinds! {
    /// Why there is no subscription.
    SubscribeErrorKind, SubscribeError {
        /// Not a valid room name.
        Invalid = "not a room name",
        /// This client has a subscription of the room, and a room's events go to one reader.
        AlreadySubscribed = "the room is subscribed already",
        /// More rooms than a client may have.
        TooManyRooms = "too many rooms",
        /// The node refused or ended it.
        Refused = "the node ended the subscription",
        /// The client is closed.
        Closed = "the client is closed",
    }
}

kinds! {
    /// Why a signal was not taken.
    SignalErrorKind, SignalError {
        /// The room name, the type or the key cannot be sent.
        Invalid = "the signal cannot be sent like this",
        /// The client is closed.
        Closed = "the client is closed",
    }
}

kinds! {
    /// Why there is no page of history.
    HistoryErrorKind, HistoryError {
        /// Not a valid room name.
        Invalid = "the history cannot be read like this",
        /// Too many requests wait for their answer.
        TooMany = "too many requests are waiting",
        /// The node refused.
        Refused = "the node refused the page",
        /// The client is closed.
        Closed = "the client is closed",
    }
}

kinds! {
    /// Why waiting for the outbox ended.
    FlushErrorKind, FlushError {
        /// Too many callers wait.
        TooMany = "too many callers wait for the outbox",
        /// The client was closed; what was not settled is dropped.
        Closed = "the client is closed",
    }
}

impl PublishError {
    pub(crate) fn closed() -> Self {
        Self::local(PublishErrorKind::Closed, "")
    }
}

impl From<CommandError> for PublishError {
    fn from(error: CommandError) -> Self {
        let kind = match error {
            CommandError::Closed => PublishErrorKind::Closed,
            CommandError::NotConnected => PublishErrorKind::NotConnected,
            CommandError::OutboxFull(_) => PublishErrorKind::OutboxFull,
            CommandError::TooMany => PublishErrorKind::TooMany,
            CommandError::TooLarge => {
                return Self::refused(
                    PublishErrorKind::Refused,
                    Code::MessageTooLarge.number().into(),
                    error.to_string(),
                );
            }
        };
        let error = Self::local(kind, "");
        if kind == PublishErrorKind::Closed { error } else { error.may_retry() }
    }
}

impl HistoryError {
    pub(crate) fn closed() -> Self {
        Self::local(HistoryErrorKind::Closed, "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_and_why_and_whether_to_try_again() {
        let error = PublishError::refused(PublishErrorKind::Refused, 4302, "no right");
        assert_eq!(error.to_string(), "the node refused the event [FORBIDDEN (4302)]: no right");
        assert!(!error.retryable);
        assert!(PublishError::refused(PublishErrorKind::Refused, 4499, "").retryable, "an unknown code by its range");
        assert_eq!(PublishError::closed().to_string(), "the client is closed");
    }
}
