//! Making a client.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use lanecast_protocol::publisher::Bounds;
use lanecast_protocol::session::client::Options;
use lanecast_protocol::v1;

use crate::client::Client;
use crate::error::{ConnectError, ConnectErrorKind};
use crate::outbox::{OutboxFile, OutboxSync, Writer, new_instance};
use crate::positions::Positions;
use crate::token::{TokenError, TokenRequest, TokenSource};
use crate::transport::{Dialer, Proxy, QUIC_PORT, Target, Tls, Trust};

/// Publishes that the outbox holds, and bytes of them.
const OUTBOX: Bounds = Bounds { items_max: 10_000, bytes_max: 16 * 1024 * 1024 };
/// How long a publish may wait in the outbox.
const OUTBOX_TTL: Duration = Duration::from_secs(12 * 3600);

/// What a client is made with: from [`Client::builder`].
#[derive(Clone, Debug)]
#[must_use = "a client begins with `connect`"]
pub struct Builder {
    url: String,
    tokens: TokenSource,
    device: String,
    app: String,
    app_version: String,
    sdk: String,
    outbox: Bounds,
    outbox_ttl: Duration,
    outbox_file: Option<PathBuf>,
    outbox_sync: OutboxSync,
    positions_file: Option<PathBuf>,
    trust: Trust,
    http_proxy: Option<String>,
    quic_port: u16,
    one_queue: bool,
}

impl Builder {
    pub(crate) fn new(url: String) -> Self {
        Self {
            url,
            tokens: TokenSource::Fixed(String::new()),
            device: String::new(),
            app: String::new(),
            app_version: String::new(),
            sdk: "lanecast-rust".into(),
            outbox: OUTBOX,
            outbox_ttl: OUTBOX_TTL,
            outbox_file: None,
            outbox_sync: OutboxSync::default(),
            positions_file: None,
            trust: Trust::default(),
            http_proxy: None,
            quic_port: QUIC_PORT,
            one_queue: false,
        }
    }

    /// A fixed token. When a node refuses it the client is closed with the node's code.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.tokens = TokenSource::Fixed(token.into());
        self
    }

    /// A function that gets a token: asked before the first connection, before the token expires where the node takes a
    /// new one on the same connection, and again when a node refused the token. Its error counts as a failed connection
    /// attempt, which is repeated with backoff; while connected the old token is kept as long as it holds. It has 10 s,
    /// or what remains of the 10 s of an attempt.
    pub fn token_provider<F, Fut, E>(mut self, provider: F) -> Self
    where
        F: Fn(TokenRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<String, E>> + Send + 'static,
        E: Into<TokenError>,
    {
        self.tokens = TokenSource::provider(provider);
        self
    }

    /// Name of the user's device, at most 128 bytes. A token that names one wins.
    pub fn device(mut self, device: impl Into<String>) -> Self {
        self.device = device.into();
        self
    }

    /// Name and version of the application, for the node's logs.
    pub fn app(mut self, name: impl Into<String>, version: impl Into<String>) -> Self {
        self.app = name.into();
        self.app_version = version.into();
        self
    }

    /// Name of an SDK that is built on this one, for the node's logs; `lanecast-rust` unless told otherwise.
    pub fn sdk(mut self, name: impl Into<String>) -> Self {
        self.sdk = name.into();
        self
    }

    /// Bounds of the outbox of durable publishes: 10,000 of them and 16 MiB unless told otherwise. Beyond them a publish
    /// is an error; nothing that the outbox holds is dropped.
    pub fn outbox(mut self, items_max: usize, bytes_max: usize) -> Self {
        self.outbox = Bounds { items_max, bytes_max };
        self
    }

    /// How long a durable publish may wait for its node: 12 h unless told otherwise. A node remembers for 24 h at least
    /// which publishes it has stored; one that is sent again later than that may be stored twice.
    pub fn outbox_ttl(mut self, ttl: Duration) -> Self {
        self.outbox_ttl = ttl;
        self
    }

    /// Keeps the outbox in this file instead of in memory, so that it outlives the process: what was queued is sent even
    /// if the process is killed between sending and the answer, and is stored once. The folder must exist.
    ///
    /// A file is for one client at a time, which locks it by a second file with `.lock` added to the name, and for one user:
    /// publishes of one are never sent as another, the client is closed with `USER_MISMATCH` instead. Keep it out of
    /// backups and never copy it, since two clients with the same file would take each other's events for duplicates.
    ///
    /// How publishes of an earlier run end is told by [`Outbox::outcomes`](crate::Outbox::outcomes).
    pub fn outbox_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.outbox_file = Some(path.into());
        self
    }

    /// When a publish counts as queued in the outbox file: once the operating system has it, unless told otherwise.
    pub fn outbox_sync(mut self, sync: OutboxSync) -> Self {
        self.outbox_sync = sync;
        self
    }

    /// Keeps the position of every room in this file, so that subscriptions go on over the end of the process: what is
    /// acknowledged is written before the next batch is handed out, so a process that is killed at any moment gets at
    /// most the batch again that it had not acknowledged, and misses nothing. The folder must exist.
    ///
    /// A subscription begins at, in this order: the start that it names ([`Subscribe::from_position`] and the others), the
    /// position in the file, live. From then on the file has where it began, even if nothing has come. An application that
    /// stores [`Subscription::position`] together with what it made of the events gets none twice, and needs no file.
    ///
    /// Like an outbox file it is for one client at a time, which locks it by a second file with `.lock` added to the name;
    /// it must not be the same file. It keeps 10,000 rooms: beyond them the one that was acknowledged longest ago, and is not
    /// subscribed, is forgotten. While the disk takes nothing events are handed out all the same, and more of them may come
    /// twice; the next write that succeeds brings everything.
    ///
    /// [`Subscribe::from_position`]: crate::Subscribe::from_position
    /// [`Subscription::position`]: crate::Subscription::position
    pub fn positions_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.positions_file = Some(path.into());
        self
    }

    /// The UDP port of QUIC where an `https://` address races it against WebSocket: 8443 unless told otherwise. The client
    /// does not ask the node for it, because it would have to ask over TCP, and QUIC has to work where TCP is blocked.
    pub fn quic_port(mut self, port: u16) -> Self {
        self.quic_port = port;
        self
    }

    /// For measuring what lanes are worth: everything leaves in the order in which it was made, whatever its lane, and waits
    /// where it cannot be overtaken. Off unless told otherwise; nobody wants this in an application.
    pub fn one_queue(mut self, one_queue: bool) -> Self {
        self.one_queue = one_queue;
        self
    }

    /// Believes certificates of these roots, a PEM text, beside those that the system believes. Not on Android, where
    /// the application's network security configuration says it.
    pub fn extra_root(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.trust.extra_roots.push(pem.into());
        self
    }

    /// Takes the one certificate with this SHA-256 (of its DER form) and no other, whatever its name, issuer and dates:
    /// for the certificate of a node in development, which names it in `/.well-known/lanecast`.
    pub fn certificate_hash(mut self, sha256: [u8; 32]) -> Self {
        self.trust.certificate_hash = Some(sha256);
        self
    }

    /// Connects through an HTTP proxy, `http://[user:password@]host[:port]`, by the method CONNECT. It carries WebSocket
    /// only, so an `https://` address races nothing then, and a `quic://` address is an error.
    pub fn http_proxy(mut self, url: impl Into<String>) -> Self {
        self.http_proxy = Some(url.into());
        self
    }

    /// Makes the client, which begins to connect and stays connected until it is closed or its last handle is dropped.
    /// Does not wait for the connection: rooms can be subscribed and published to at once. To wait, see
    /// [`Client::connected`].
    ///
    /// With an outbox file it blocks until that is read and written anew: some milliseconds for each MiB in it. With an
    /// encrypted address it reads the system's certificates, which takes some milliseconds too.
    ///
    /// # Errors
    ///
    /// Of kind `BadUrl`, `UnsupportedScheme`, `Certificates`, or `NoRuntime` outside of a tokio runtime; with an outbox
    /// file also `OutboxLocked`, `OutboxDamaged`, `OutboxVersion` and `OutboxFile`, and with a file of positions
    /// `PositionsLocked`, `PositionsDamaged`, `PositionsVersion` and `PositionsFile`.
    pub fn connect(self) -> Result<Client, ConnectError> {
        let target = Target::parse(&self.url)?;
        let dialer = self.dialer(&target)?;
        let no_runtime = |error: String| ConnectError::local(ConnectErrorKind::NoRuntime, error);
        let runtime = tokio::runtime::Handle::try_current().map_err(|error| no_runtime(error.to_string()))?;
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(|error| no_runtime(error.to_string()))?;
        let kept = match &self.outbox_file {
            Some(path) => {
                let (file, contents) = OutboxFile::open(path, self.outbox_sync)?;
                Some((contents, Writer::start(file)?))
            }
            None => None,
        };
        let positions = self.positions_file.as_deref().map(Positions::open).transpose()?;
        let options = Options {
            // One per outbox: two publishers must never share an instance (LC-HS-021).
            instance: match &kept {
                Some((contents, _)) => contents.instance.clone(),
                None => new_instance()?,
            },
            info: v1::ClientInfo {
                name: self.sdk,
                version: env!("CARGO_PKG_VERSION").into(),
                platform: std::env::consts::OS.into(),
                app: self.app,
                app_version: self.app_version,
            },
            device: self.device,
            outbox: self.outbox,
            outbox_ttl_ms: crate::subscription::millis(self.outbox_ttl),
            renews_tokens: matches!(self.tokens, TokenSource::Provider(_)),
            seed: u64::from_ne_bytes(seed),
        };
        Ok(Client::start(&runtime, options, (target, dialer), self.tokens, (kept, positions)))
    }

    fn dialer(&self, target: &Target) -> Result<Dialer, ConnectError> {
        let proxy = self.http_proxy.as_deref().map(Proxy::parse).transpose()?;
        if proxy.is_some() && target.is_quic_only() {
            let detail = "a proxy carries WebSocket only, and the address is one of QUIC";
            return Err(ConnectError::local(ConnectErrorKind::BadUrl, detail));
        }
        let tls = Tls::new(self.trust.clone());
        // An address in the clear needs no roots; should its node send the client to another, they are read then.
        if target.is_secret() {
            tls.prepare().map_err(|detail| ConnectError::local(ConnectErrorKind::Certificates, detail))?;
        }
        Ok(Dialer::new(tls, proxy, self.quic_port, self.one_queue))
    }
}
