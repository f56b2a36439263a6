//! Making a client.

use std::sync::Arc;
use std::time::Duration;

use lanecast::Builder;

use crate::cancel::Cancellation;
use crate::client::Client;
use crate::error::{ErrorKind, FfiError};
use crate::run;
use crate::token::TokenRequests;

/// What a client is made with. What is `None` is as the Rust SDK has it.
#[derive(Clone, Debug, uniffi::Record)]
pub struct Options {
    /// Name of the SDK that wraps this library, for the node's logs.
    pub sdk: String,
    /// The node's address: `https://`, `quic://`, `wss://`, `ws://` or `http://`.
    pub url: String,
    /// A fixed token; `None`: tokens are asked for by [`Client::token_requests`].
    pub token: Option<String>,
    /// Name of the user's device, at most 128 bytes.
    pub device: Option<String>,
    /// Name of the application, for the node's logs.
    pub app: Option<String>,
    /// Its version.
    pub app_version: Option<String>,
    /// Bounds of the outbox of durable publishes.
    pub outbox: Option<OutboxBounds>,
    /// How long a durable publish may wait for its node, ms.
    pub outbox_ttl_ms: Option<u64>,
    /// Keeps the outbox in this file, so that it outlives the process. Its folder must exist.
    pub outbox_file: Option<String>,
    /// When a publish counts as queued in the outbox file.
    pub outbox_sync: Option<OutboxSync>,
    /// Keeps the position of every room in this file, so that subscriptions go on over the end of the process. Its folder must
    /// exist.
    pub positions_file: Option<String>,
    /// PEM texts: believes certificates of these roots beside those that the system believes. Not on Android.
    pub extra_roots: Vec<String>,
    /// SHA-256 of the one certificate that is taken, whatever its name, issuer and dates: 32 bytes.
    pub certificate_hash: Option<Vec<u8>>,
    /// An HTTP proxy, `http://[user:password@]host[:port]`.
    pub http_proxy: Option<String>,
    /// The UDP port where an `https://` address is tried over QUIC: 1 to 65,535.
    pub quic_port: Option<u32>,
}

/// Bounds of an outbox. Beyond them a publish is an error; nothing that it holds is dropped.
#[derive(Clone, Copy, Debug, uniffi::Record)]
pub struct OutboxBounds {
    /// Publishes in it.
    pub items_max: u64,
    /// Bytes in it.
    pub bytes_max: u64,
}

/// Whether writing the outbox file waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum OutboxSync {
    /// A publish is queued once the operating system has it: it survives the end of the process.
    Process,
    /// A publish is queued once it is on the disk: it survives a loss of power as well.
    Disk,
}

impl From<OutboxSync> for lanecast::OutboxSync {
    fn from(sync: OutboxSync) -> Self {
        match sync {
            OutboxSync::Process => Self::Process,
            OutboxSync::Disk => Self::Disk,
        }
    }
}

/// Makes a client, which begins to connect and stays connected until [`Client::shutdown`], or until nothing refers to it any
/// more. Does not wait for the connection: see [`Client::connected`].
///
/// # Errors
///
/// Of kind `Invalid`, `BadUrl`, `UnsupportedScheme`, `Certificates`, `NoRuntime` or `Cancelled`; with an outbox file also
/// `OutboxLocked`, `OutboxDamaged`, `OutboxVersion` and `OutboxFile`, with a file of positions the same of `Positions…`.
#[uniffi::export]
pub async fn connect(options: Options, cancellation: Option<Arc<Cancellation>>) -> Result<Arc<Client>, FfiError> {
    run::call(cancellation, run::blocking(move || open(options))).await
}

fn open(options: Options) -> Result<Arc<Client>, FfiError> {
    if options.token.is_some() {
        return Ok(Client::new(builder(options)?.connect()?, None));
    }
    let (requests, provider) = TokenRequests::new();
    Ok(Client::new(builder(options)?.token_provider(provider).connect()?, Some(requests)))
}

fn builder(options: Options) -> Result<Builder, FfiError> {
    let mut builder = lanecast::Client::builder(options.url)
        .sdk(options.sdk)
        .app(options.app.unwrap_or_default(), options.app_version.unwrap_or_default())
        .device(options.device.unwrap_or_default());
    if let Some(token) = options.token {
        builder = builder.token(token);
    }
    if let Some(OutboxBounds { items_max, bytes_max }) = options.outbox {
        builder = builder.outbox(size(items_max), size(bytes_max));
    }
    if let Some(ttl_ms) = options.outbox_ttl_ms {
        builder = builder.outbox_ttl(Duration::from_millis(ttl_ms));
    }
    builder = files(builder, options.outbox_file, options.outbox_sync, options.positions_file);
    for pem in options.extra_roots {
        builder = builder.extra_root(pem);
    }
    if let Some(hash) = options.certificate_hash {
        let wrong = |hash: Vec<u8>| invalid(format!("a certificate's hash has 32 bytes, not {}", hash.len()));
        builder = builder.certificate_hash(hash.try_into().map_err(wrong)?);
    }
    if let Some(proxy) = options.http_proxy {
        builder = builder.http_proxy(proxy);
    }
    if let Some(port) = options.quic_port {
        let port = u16::try_from(port).ok().filter(|port| *port > 0);
        builder = builder.quic_port(port.ok_or_else(|| invalid("a port is a number from 1 to 65,535".into()))?);
    }
    Ok(builder)
}

fn files(mut builder: Builder, outbox: Option<String>, sync: Option<OutboxSync>, positions: Option<String>) -> Builder {
    if let Some(path) = outbox {
        builder = builder.outbox_file(path);
    }
    if let Some(sync) = sync {
        builder = builder.outbox_sync(sync.into());
    }
    match positions {
        Some(path) => builder.positions_file(path),
        None => builder,
    }
}

fn invalid(detail: String) -> FfiError {
    FfiError::local(ErrorKind::Invalid, detail)
}

/// A number of things in memory: more than fit are as good as no bound.
fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
