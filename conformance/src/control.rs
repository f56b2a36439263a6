//! What the suite may do to the server under test: the control contract of `control.md`.
//!
//! *Restart*: the server ends without ceremony and begins again with another life of its logs. *Drain*: it is told to
//! stop, as by SIGTERM, and begins again when the case is over.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::client::WireLog;
use crate::client::http::{Request, request};
use crate::faults::redis::Redis;
use crate::reference::Reference;
use crate::runner::process::Process;
use crate::target::Endpoint;
use crate::verdict::{Outcome, Stop};

/// How the server is controlled.
#[derive(Clone)]
pub enum Control {
    /// It is not.
    None,
    /// The suite started the process: signals and starting again.
    Process(Arc<Mutex<Process>>),
    /// The suite started the process, and the store in which it keeps its logs.
    Stored(Arc<Mutex<Process>>, Arc<Redis>),
    /// The suite started the process, which takes commands on its standard input.
    Lines(Arc<Mutex<Process>>),
    /// Commands go to this address by POST.
    Http(Endpoint),
    /// A reference server inside this process.
    Reference(Arc<Reference>),
}

/// Deletes all keys of a room from the store. A node never looks for keys; the suite may.
const FORGET_ROOM: &str = "local keys = redis.call('KEYS', '*:' .. ARGV[1]) \
    for _, key in ipairs(redis.call('KEYS', '*:' .. ARGV[1] .. ':*')) do keys[#keys + 1] = key end \
    return #keys > 0 and redis.call('DEL', unpack(keys)) or 0";
/// Copies all keys of a room aside; nothing reads the copies but the next script.
const KEEP_ROOM: &str = "local function keep(keys) for _, key in ipairs(keys) do \
    if string.sub(key, 1, 5) ~= 'kept:' then redis.call('COPY', key, 'kept:' .. key, 'REPLACE') end end end \
    keep(redis.call('KEYS', '*:' .. ARGV[1])) keep(redis.call('KEYS', '*:' .. ARGV[1] .. ':*')) return 1";
/// Puts the copies in place of all keys of a room.
const RESTORE_ROOM: &str = "local function restore(keys) \
    for _, key in ipairs(keys) do if string.sub(key, 1, 5) ~= 'kept:' then redis.call('DEL', key) end end \
    for _, key in ipairs(keys) do \
    if string.sub(key, 1, 5) == 'kept:' then redis.call('RENAME', key, string.sub(key, 6)) end end end \
    restore(redis.call('KEYS', '*:' .. ARGV[1])) restore(redis.call('KEYS', '*:' .. ARGV[1] .. ':*')) return 1";
/// How long a server may take to end or to begin.
const TURN: Duration = Duration::from_secs(30);

impl Control {
    /// Ends the server abruptly and starts it with another life of its logs.
    pub async fn restart(&self) -> Outcome {
        match self {
            Self::None => Err(none()),
            Self::Process(process) => process.lock().await.restart().await,
            Self::Stored(process, store) => {
                let mut process = process.lock().await;
                process.stop().await;
                // Without this its logs would go on, as they should.
                store.command(&["FLUSHALL"]).await.map_err(Stop::Harness)?;
                process.start().await
            }
            Self::Reference(reference) => reference.restart().await,
            Self::Lines(_) | Self::Http(_) => self.command("restart", "").await,
        }
    }

    /// Tells the server to stop, and returns before it did.
    pub async fn drain(&self) -> Outcome {
        match self {
            Self::None => Err(none()),
            Self::Process(process) | Self::Stored(process, _) => process.lock().await.signal("TERM").await,
            Self::Reference(reference) => {
                let _ = reference.drain();
                Ok(())
            }
            Self::Lines(_) | Self::Http(_) => self.command("drain", "").await,
        }
    }

    /// After a drain: waits for the end and starts the server again.
    pub async fn resume(&self) -> Outcome {
        match self {
            Self::None => Err(none()),
            Self::Process(process) | Self::Stored(process, _) => {
                let mut process = process.lock().await;
                process.wait_exit(TURN).await?;
                process.start().await
            }
            Self::Reference(reference) => reference.restart().await,
            Self::Lines(_) | Self::Http(_) => self.command("resume", "").await,
        }
    }

    /// Whether a room's log can be replaced while connections live.
    pub fn can_renew_logs(&self) -> bool {
        matches!(self, Self::Lines(_) | Self::Http(_) | Self::Reference(_) | Self::Stored(..))
    }

    /// Replaces the log of a room by an empty one of a new epoch, as if its store had been lost.
    pub async fn new_log(&self, room: &str) -> Outcome {
        match self {
            Self::Reference(reference) => {
                reference.new_log(room);
                Ok(())
            }
            Self::None | Self::Process(_) => Err(none()),
            Self::Stored(_, store) => {
                store.command(&["EVAL", FORGET_ROOM, "0", room]).await.map(drop).map_err(Stop::Harness)
            }
            Self::Lines(_) | Self::Http(_) => self.command("new_log", room).await,
        }
    }

    /// Keeps the log of a room as it is, for [`old_log`](Self::old_log).
    pub async fn keep_log(&self, room: &str) -> Outcome {
        match self {
            Self::Reference(reference) => {
                reference.keep_log(room);
                Ok(())
            }
            Self::None | Self::Process(_) => Err(none()),
            Self::Stored(_, store) => {
                store.command(&["EVAL", KEEP_ROOM, "0", room]).await.map(drop).map_err(Stop::Harness)
            }
            Self::Lines(_) | Self::Http(_) => self.command("keep_log", room).await,
        }
    }

    /// Puts the log of a room back to what was kept of it, as if the store had been restored from an older dump.
    pub async fn old_log(&self, room: &str) -> Outcome {
        match self {
            Self::Reference(reference) => {
                reference.old_log(room);
                Ok(())
            }
            Self::None | Self::Process(_) => Err(none()),
            Self::Stored(_, store) => {
                store.command(&["EVAL", RESTORE_ROOM, "0", room]).await.map(drop).map_err(Stop::Harness)
            }
            Self::Lines(_) | Self::Http(_) => self.command("old_log", room).await,
        }
    }

    /// Cuts the server off from all its logs, or lets it reach them again.
    pub async fn engine(&self, up: bool) -> Outcome {
        match self {
            Self::Reference(reference) => {
                reference.engine(up);
                Ok(())
            }
            Self::None | Self::Process(_) => Err(none()),
            Self::Stored(_, store) => store.signal(if up { "CONT" } else { "STOP" }).await.map_err(Stop::Harness),
            Self::Lines(_) | Self::Http(_) => self.command(if up { "engine_up" } else { "engine_down" }, "").await,
        }
    }

    async fn command(&self, verb: &str, room: &str) -> Outcome {
        let answer: Value = match self {
            Self::Lines(process) => process.lock().await.command(verb, room, TURN).await?,
            Self::Http(endpoint) => {
                let headers = [("Content-Type".to_owned(), "application/json".to_owned())];
                let body = Some(json!({"id": 1, "do": verb, "room": room}).to_string().into_bytes());
                let what = Request { method: "POST", path: &endpoint.path, headers: &headers, body };
                request(endpoint, &what, TURN, &WireLog::default()).await?.json()
            }
            _ => return Err(none()),
        };
        match (answer["ok"].as_bool(), answer["unsupported"].as_bool()) {
            (Some(true), _) => Ok(()),
            (_, Some(true)) => Err(Stop::Unsupported(format!("control: {verb} is not supported"))),
            _ => Err(Stop::Harness(format!("control: {verb} was answered with {answer}"))),
        }
    }
}

fn none() -> Stop {
    Stop::Unsupported("no control".into())
}
