//! The connections for commands, one for each [`Path`]: made, checked, watched, and made again for ever.
//!
//! ```text
//!            connect, check                   broken, or no answer
//! down ─────────────────────────▶ up ─────────────────────────────▶ down
//!   ▲                              │ INFO replication every second
//!   └── full jitter up to 1 s ─────┘
//! ```
//!
//! They live and end together: each is looked at, and if one breaks, or leads elsewhere, all are made anew. So what was read
//! of Redis on one of them holds for all.
//!
//! While they are down a call fails at once, so that nobody waits for a Redis that is known to be away. A Redis that stands
//! still is found out by whichever call first waits [`ANSWER_WITHIN`].

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, ConnectionAddr, Pipeline, RedisError, Value};
use tokio::sync::Notify;

use super::RedisOptions;
use super::check::{Info, Problem, config_warnings};
use super::flight::Path;
use super::keys::{Keys, STORES};
use super::scripts::{self, Loaded, Script};
use super::subscriber;
use crate::engine::EngineError;

/// How long a command may take before its connection counts as broken.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How often it is looked whether the connection works, and leads to the same primary.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest wait between two attempts to connect, ms. Nodes wait for one another when they come back.
const RETRY_MS_MAX: u64 = 1_000;
/// When a client may try again what needs the store.
pub(super) const UNAVAILABLE: EngineError = EngineError::Unavailable { retry_after_ms: 1_000 };
/// When an append may be tried again that found the memory full.
const FULL_RETRY_MS: u32 = 5_000;
/// Where the rights are listed, in a sentence.
const OPERATORS_GUIDE: &str = "the README's part for operators has an ACL that suffices";
/// Commands that wait for the connection's writer; beyond it callers wait for room.
const WAITING_MAX: usize = 1_024;

/// Why a call gave no answer.
#[derive(Debug)]
pub(super) enum CallError {
    /// There is no connection, it broke, or no answer came in time. What was asked may have been done.
    Away,
    /// Redis refused.
    Refused(RedisError),
}

impl CallError {
    /// What the engine says then.
    pub(super) fn into_engine(self) -> EngineError {
        match self {
            Self::Refused(error) if error.code() == Some("OOM") => {
                EngineError::Full { what: "memory in Redis (maxmemory is reached)", retry_after_ms: FULL_RETRY_MS }
            }
            Self::Away | Self::Refused(_) => UNAVAILABLE,
        }
    }
}

/// Connections that work, and what is true of the Redis behind them.
#[derive(Clone)]
pub(super) struct Up {
    /// By [`Path`].
    connections: [MultiplexedConnection; 3],
    /// Counts the connections of this link, from 1.
    pub(super) generation: u64,
    /// The life of the data.
    pub(super) replication_id: Arc<str>,
    loaded: Arc<Loaded>,
}

impl Up {
    fn connection(&self, path: Path) -> MultiplexedConnection {
        self.connections[path as usize].clone()
    }

    /// The beginning of a call of a script.
    pub(super) fn script<K: AsRef<[u8]>>(&self, script: Script, keys: &[K]) -> Cmd {
        script.call(&self.loaded, keys)
    }
}

/// The connection for commands. See the [module](self).
pub(super) struct Link {
    options: Arc<RedisOptions>,
    keys: Keys,
    up: RwLock<Option<Up>>,
    generations: AtomicU64,
    /// Wakes the keeper when a connection broke.
    broken: Notify,
    /// The last sentence in the log, so that one trouble is told once.
    told: Mutex<String>,
}

impl Link {
    pub(super) fn new(options: Arc<RedisOptions>, keys: Keys) -> Self {
        Self {
            options,
            keys,
            up: RwLock::new(None),
            generations: AtomicU64::new(0),
            broken: Notify::new(),
            told: Mutex::default(),
        }
    }

    /// The connection, if there is one.
    pub(super) fn up(&self) -> Option<Up> {
        self.up.read().clone()
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.read().is_some()
    }

    /// The life of the data, if the link is up.
    pub(super) fn generation(&self) -> u64 {
        self.up.read().as_ref().map_or(0, |up| up.generation)
    }

    /// Sends a command that is neither urgent nor bulk.
    pub(super) async fn call(&self, up: &Up, cmd: &Cmd) -> Result<Value, CallError> {
        self.call_on(up, Path::Normal, cmd).await
    }

    /// Sends a command.
    pub(super) async fn call_on(&self, up: &Up, path: Path, cmd: &Cmd) -> Result<Value, CallError> {
        let mut answer = cmd.query_async(&mut up.connection(path)).await;
        if self.has_restored_scripts(up, &answer).await {
            answer = cmd.query_async(&mut up.connection(path)).await;
        }
        self.judge(up, answer)
    }

    /// Sends several commands in one go. If there is a script among them they are ones that may be carried out twice.
    pub(super) async fn call_all(&self, up: &Up, pipeline: &Pipeline) -> Result<Vec<Value>, CallError> {
        let mut answer = pipeline.query_async(&mut up.connection(Path::Normal)).await;
        if self.has_restored_scripts(up, &answer).await {
            answer = pipeline.query_async(&mut up.connection(Path::Normal)).await;
        }
        self.judge(up, answer)
    }

    /// After SCRIPT FLUSH, which left the call undone, loads the scripts again; says whether to call again.
    async fn has_restored_scripts<T>(&self, up: &Up, answer: &Result<T, RedisError>) -> bool {
        let flushed = matches!(answer, Err(error) if error.code() == Some("NOSCRIPT"));
        flushed && scripts::load_all(&mut up.connection(Path::Normal)).await.is_ok()
    }

    fn judge<T>(&self, up: &Up, answer: Result<T, RedisError>) -> Result<T, CallError> {
        answer.map_err(|error| {
            let gone = error.is_io_error() || error.is_timeout() || error.is_unrecoverable_error();
            // A demoted or reloading server serves nobody, and scripts that are gone were loaded again in vain: connect
            // anew, with all checks.
            let unfit = matches!(error.code(), Some("NOSCRIPT" | "READONLY" | "LOADING" | "MASTERDOWN" | "NOAUTH"));
            if gone || unfit {
                self.tell(format!("{}: {error}", self.options.shown_url()));
                self.lose(up.generation);
                return CallError::Away;
            }
            self.tell(format!("{} refused a command: {error}", self.options.shown_url()));
            CallError::Refused(error)
        })
    }

    /// A connection does not work any more.
    pub(super) fn lose(&self, generation: u64) {
        let mut up = self.up.write();
        if up.as_ref().is_some_and(|up| up.generation == generation) {
            *up = None;
            drop(up);
            self.broken.notify_one();
        }
    }

    /// Another connection to the same Redis broke: look whether this one works.
    pub(super) fn doubt(&self) {
        self.broken.notify_one();
    }

    /// Writes to the log unless it would say the same again.
    fn tell(&self, sentence: String) {
        let mut told = self.told.lock();
        if *told != sentence {
            tracing::warn!("{sentence}");
            *told = sentence;
        }
    }

    /// Connects once, with all checks. The link is up with [`raise`](Self::raise).
    pub(super) async fn connect(&self) -> Result<Up, Problem> {
        let up = self.try_connect().await?;
        self.told.lock().clear();
        Ok(up)
    }

    /// From now on everybody may call.
    pub(super) fn raise(&self, up: Up) {
        *self.up.write() = Some(up);
    }

    /// Returns when the connection is broken.
    pub(super) async fn watch(&self, up: &Up) {
        let mut info = redis::cmd("INFO");
        info.arg("replication");
        while self.generation() == up.generation {
            // Woken by a break, or by a doubt: then it is tried at once.
            let _ = tokio::time::timeout(LOOK_EVERY, self.broken.notified()).await;
            if self.generation() != up.generation {
                return;
            }
            for path in Path::ALL {
                // A failure takes the link down. The others are not waited for as well: clients are to be told soon.
                let Ok(value) = self.call_on(up, path, &info).await else { break };
                if !is_primary_of(value, &up.replication_id) {
                    // Demotion and promotion leave connections standing.
                    self.lose(up.generation);
                }
            }
        }
    }

    /// Connects, however long that takes.
    pub(super) async fn reconnect(&self) -> Up {
        let mut window_ms = 50;
        loop {
            let problem = match self.connect().await {
                Ok(up) => return up,
                Err(problem) => problem,
            };
            self.tell(format!("{}: {}", self.options.shown_url(), problem.sentence()));
            tokio::time::sleep(Duration::from_millis(rand::random_range(0..=window_ms))).await;
            window_ms = (window_ms * 2).min(RETRY_MS_MAX);
        }
    }

    async fn try_connect(&self) -> Result<Up, Problem> {
        let mut connection = open(&self.options).await?;
        let info: String = ask(&mut connection, &redis::cmd("INFO"), "INFO").await?;
        let info = Info::parse(&info);
        info.check()?;
        self.claim_store(&mut connection).await?;
        let loaded = scripts::load_all(&mut connection).await.map_err(|error| refused(&error, "SCRIPT LOAD"))?;
        let first = self.generations.load(Ordering::Relaxed) == 0;
        if first {
            self.try_rights(&mut connection).await?;
            self.introduce(&mut connection, &info).await;
        }
        let generation = self.generations.fetch_add(1, Ordering::Relaxed) + 1;
        let replication_id: Arc<str> = info.replication_id().into();
        let others = [self.open_beside(&replication_id).await?, self.open_beside(&replication_id).await?];
        let [urgent, bulk] = others;
        let connections = [urgent, connection, bulk];
        Ok(Up { connections, generation, replication_id, loaded: Arc::new(loaded) })
    }

    /// A further connection to the Redis that the first one leads to.
    async fn open_beside(&self, replication_id: &str) -> Result<MultiplexedConnection, Problem> {
        let mut connection = open(&self.options).await?;
        let info: Value = ask(&mut connection, redis::cmd("INFO").arg("replication"), "INFO").await?;
        match is_primary_of(info, replication_id) {
            true => Ok(connection),
            false => Err(Problem::Passing("it changed while connections to it were made".into())),
        }
    }

    /// Says what was found, and what its owner should know.
    async fn introduce(&self, connection: &mut MultiplexedConnection, info: &Info) {
        tracing::info!("rooms live in {} at {}", info.name(), self.options.shown_url());
        info.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
        let mut cmd = redis::cmd("CONFIG");
        cmd.arg("GET").arg("client-output-buffer-limit").arg("min-replicas-to-write");
        match cmd.query_async::<HashMap<String, String>>(connection).await {
            Ok(config) => config_warnings(info, &config).iter().for_each(|warning| tracing::warn!("{warning}")),
            // Rented ones hide it.
            Err(error) => tracing::info!("CONFIG GET is not allowed, so limits are not checked: {error}"),
        }
    }

    /// Registers the store, or refuses one that would not find its rooms.
    async fn claim_store(&self, connection: &mut MultiplexedConnection) -> Result<(), Problem> {
        let mut cmd = redis::cmd("HSETNX");
        let identity = format!("format={} partitions={}", super::record::FORMAT, self.options.partitions);
        let mut stores: HashMap<String, String> = ask(connection, redis::cmd("HGETALL").arg(STORES), "HGETALL").await?;
        let prefix = &*self.options.prefix;
        if !stores.contains_key(prefix) {
            if let Some(other) = stores.keys().next().filter(|_| !self.options.beside_others) {
                return Err(Problem::Fatal(format!(
                    "it holds a store with the prefix {other:?}, and redis.prefix is {prefix:?}: nodes with different \
                     prefixes do not see each other's rooms. Set redis.prefix = {other:?}, or redis.beside_others = true \
                     for a second store in the same Redis"
                )));
            }
            let _: Value = ask(connection, cmd.arg(STORES).arg(prefix).arg(&identity), "HSETNX").await?;
            stores = ask(connection, redis::cmd("HGETALL").arg(STORES), "HGETALL").await?;
        }
        match stores.get(prefix) {
            Some(found) if *found == identity => Ok(()),
            found => Err(Problem::Fatal(format!(
                "its store {prefix:?} was made with {}, and this node has {identity}: rooms would not be found",
                found.map_or("nothing", String::as_str),
            ))),
        }
    }

    /// Tries every command that the engine needs, on keys of its own, so that a right that is missing is found at start
    /// and not at three in the morning.
    async fn try_rights(&self, connection: &mut MultiplexedConnection) -> Result<(), Problem> {
        let keys = ["hash", "zset", "list", "stream", "channel"].map(|what| self.keys.trial(what));
        let [.., channel] = &keys;
        let loaded = Loaded(vec![ask(connection, &scripts::TRIAL.load(), "SCRIPT LOAD").await?]);
        let tried: Result<Vec<String>, RedisError> = scripts::TRIAL.call(&loaded, &keys).query_async(connection).await;
        let refusals = tried.map_err(|error| match error.to_string().contains("one of the keys") {
            true => Problem::Fatal(format!(
                "the user may not use keys and channels that begin with {:?}; {OPERATORS_GUIDE} ({error})",
                self.options.prefix,
            )),
            false => refused(&error, "EVALSHA"),
        })?;
        if let [first, others @ ..] = &refusals[..] {
            let name = |refusal: &String| refusal.split(':').next().unwrap_or_default().to_owned();
            let names: Vec<String> = std::iter::once(first).chain(others).map(name).collect();
            return Err(Problem::Fatal(format!(
                "the user may not use {} in a script on keys and channels that begin with {:?}; {OPERATORS_GUIDE} \
                 ({first})",
                names.join(", "),
                self.options.prefix,
            )));
        }
        if self.options.replicas > 0 {
            ask::<Value>(connection, redis::cmd("SET").arg(channel).arg(1).arg("EX").arg(1), "SET").await?;
            ask::<Value>(connection, redis::cmd("WAIT").arg(0).arg(1), "WAIT").await?;
        }
        subscriber::try_rights(&self.options, channel).await.map_err(|error| {
            Problem::Fatal(format!(
                "the user may not subscribe to channels that begin with {:?}; {OPERATORS_GUIDE} ({error})",
                self.options.prefix
            ))
        })
    }
}

/// Whether INFO says that it is the primary of this life of the data.
fn is_primary_of(info: Value, replication_id: &str) -> bool {
    redis::from_redis_value::<String>(info).is_ok_and(|text| Info::parse(&text).is_primary_of(replication_id))
}

/// Opens a connection, for whoever needs one.
pub(super) async fn open(options: &RedisOptions) -> Result<MultiplexedConnection, Problem> {
    let client = Client::open(&*options.url)
        .map_err(|error| Problem::Fatal(format!("redis.url is not redis://user:password@host:port: {error}")))?;
    if !matches!(client.get_connection_info().addr(), ConnectionAddr::Tcp(..)) {
        return Err(Problem::Fatal(
            "redis.url must begin with redis://: TLS and Unix sockets are not supported".into(),
        ));
    }
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(ANSWER_WITHIN))
        .set_response_timeout(Some(ANSWER_WITHIN))
        .set_pipeline_buffer_size(WAITING_MAX);
    client.get_multiplexed_async_connection_with_config(&config).await.map_err(|error| {
        if error.is_io_error() || error.is_timeout() {
            Problem::Passing(format!("it cannot be reached: {error}"))
        } else {
            refused(&error, "the connection")
        }
    })
}

async fn ask<T: redis::FromRedisValue>(
    connection: &mut MultiplexedConnection,
    cmd: &Cmd,
    name: &str,
) -> Result<T, Problem> {
    cmd.query_async(connection).await.map_err(|error| refused(&error, name))
}

/// Puts a refusal into words that say what to do.
fn refused(error: &RedisError, what: &str) -> Problem {
    let text = error.to_string();
    let has = |word: &str| error.code() == Some(word) || text.contains(word);
    if has("WRONGPASS") || has("NOAUTH") || error.kind() == redis::ErrorKind::AuthenticationFailed {
        return Problem::Fatal(format!("user name or password are wrong; set them in redis.url ({error})"));
    }
    if has("NOPERM") || text.contains("no permissions") || text.contains("ACL failure") {
        return Problem::Fatal(format!("the user may not use {what}; {OPERATORS_GUIDE} ({error})"));
    }
    if has("OOM") {
        return Problem::Passing(format!("its memory is full: raise maxmemory ({error})"));
    }
    Problem::Passing(format!("{what}: {error}"))
}
