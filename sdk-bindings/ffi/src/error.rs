//! The one error of this library.

use std::fmt;

use lanecast::{
    ConnectErrorKind, FlushErrorKind, HistoryErrorKind, PublishErrorKind, SignalErrorKind, SubscribeErrorKind,
};

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Error)]
pub enum FfiError {
    /// The only variant: a record that is thrown.
    Failed {
        /// What failed.
        kind: ErrorKind,
        /// The code of the protocol's table, also one that this version does not know; 0: no node was involved.
        code: u32,
        /// One sentence for developers, never to be parsed; may be empty.
        detail: String,
        /// Whether the same call may succeed later.
        retryable: bool,
        /// After what time the node said that it may be asked again, ms; `None`: it said nothing.
        retry_after_ms: Option<u64>,
    },
}

impl FfiError {
    pub(crate) fn local(kind: ErrorKind, detail: impl fmt::Display) -> Self {
        Self::Failed { kind, code: 0, detail: detail.to_string(), retryable: false, retry_after_ms: None }
    }

    pub(crate) fn closed() -> Self {
        Self::local(ErrorKind::Closed, "")
    }
}

impl fmt::Display for FfiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Failed { kind, code, detail, .. } = self;
        write!(f, "{kind:?}")?;
        if *code != 0 {
            write!(f, " [{code}]")?;
        }
        if detail.is_empty() { Ok(()) } else { write!(f, ": {detail}") }
    }
}

impl std::error::Error for FfiError {}

/// What a callback threw.
impl From<uniffi::UnexpectedUniFFICallbackError> for FfiError {
    fn from(error: uniffi::UnexpectedUniFFICallbackError) -> Self {
        Self::local(ErrorKind::Internal, error.reason)
    }
}

/// What failed: the kinds of all operations of the Rust SDK, and two of this library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, uniffi::Enum)]
pub enum ErrorKind {
    /// Something that was given cannot be used: a room name, a type, a key, a position.
    Invalid,
    /// The address, or that of the proxy, is none that can be used.
    BadUrl,
    /// The scheme needs a feature with which this library was not built.
    UnsupportedScheme,
    /// The certificates to believe cannot be used.
    Certificates,
    /// The client cannot run here: no threads, or no randomness.
    NoRuntime,
    /// The client is closed; `code` says why.
    Closed,
    /// Another client has the outbox file open.
    OutboxLocked,
    /// The outbox file was damaged and was repaired: connecting again goes on with what is intact.
    OutboxDamaged,
    /// The outbox file is of a format that this version does not know. It was not touched.
    OutboxVersion,
    /// The outbox file cannot be read or written, or is no outbox.
    OutboxFile,
    /// Another client has the file of positions open.
    PositionsLocked,
    /// The file of positions was damaged and was repaired: connecting again goes on with what is intact.
    PositionsDamaged,
    /// The file of positions is of a format that this version does not know. It was not touched.
    PositionsVersion,
    /// The file of positions cannot be read or written, or is none.
    PositionsFile,
    /// The outbox is full. Nothing that it holds was dropped.
    OutboxFull,
    /// The outbox file could not be written. The event is not queued.
    NotKept,
    /// A transient event found no connection.
    NotConnected,
    /// Too many calls of this kind wait.
    TooMany,
    /// The node refused, or ended the subscription; `code` says why.
    Refused,
    /// An event's time in the outbox ran out. If it was sent before, it may be stored all the same.
    GivenUp,
    /// This client has a subscription of the room, and a room's events go to one reader.
    AlreadySubscribed,
    /// More rooms than a client may have.
    TooManyRooms,
    /// The call was ended by its [`Cancellation`](crate::Cancellation).
    Cancelled,
    /// A fault of this SDK. `detail` helps whoever mends it.
    Internal,
}

/// Takes over an error of the Rust SDK, whose kinds are mapped one by one.
macro_rules! kinds {
    ($($theirs:ident { $($kind:ident,)* })*) => {
        $(impl From<lanecast::Error<$theirs>> for FfiError {
            fn from(error: lanecast::Error<$theirs>) -> Self {
                let kind = match error.kind {
                    $($theirs::$kind => ErrorKind::$kind,)*
                };
                let lanecast::Error { code, detail, retryable, retry_after, .. } = error;
                let retry_after_ms = retry_after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
                Self::Failed { kind, code: code.unwrap_or(0), detail: detail.into(), retryable, retry_after_ms }
            }
        })*
    };
}

kinds! {
    ConnectErrorKind {
        BadUrl, UnsupportedScheme, Certificates, NoRuntime, Closed, OutboxLocked, OutboxDamaged, OutboxVersion, OutboxFile,
        PositionsLocked, PositionsDamaged, PositionsVersion, PositionsFile,
    }
    PublishErrorKind { Invalid, OutboxFull, NotKept, NotConnected, TooMany, Refused, GivenUp, Closed, }
    SubscribeErrorKind { Invalid, AlreadySubscribed, TooManyRooms, Refused, Closed, }
    SignalErrorKind { Invalid, Closed, }
    HistoryErrorKind { Invalid, TooMany, Refused, Closed, }
    FlushErrorKind { TooMany, Closed, }
}
