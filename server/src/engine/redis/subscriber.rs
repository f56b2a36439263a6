//! A connection for subscriptions: our own, so that every confirmation is checked and nothing queues without a bound.
//!
//! ```text
//!              ┌──────────── wanted ────────────┐
//!              ▼                                │
//! off ─SUBSCRIBE──▶ asked ──confirmed──▶ on ─UNSUBSCRIBE──▶ leaving ──confirmed──▶ off
//! ```
//!
//! What arrives is handed on at once, by the task that reads: there is no queue in between, and whoever listens must not
//! wait. When the connection breaks it is made anew for ever, and everything that is wanted is asked for again, in
//! batches. Redis closes a connection that reads too slowly; the holes that this leaves are found by their numbers.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use parking_lot::Mutex;
use redis::{ConnectionAddr, IntoConnectionInfo};
use redis_protocol::codec::Resp3;
use redis_protocol::resp3::types::BytesFrame;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_util::codec::Framed;

use super::RedisOptions;
use super::keys::Kind;
use super::link::ANSWER_WITHIN;

/// Channels of one SUBSCRIBE.
const BATCH_MAX: usize = 500;
/// Channels that may be asked for and not confirmed. Their confirmations fit the socket's buffers, so neither side waits
/// for the other.
const UNCONFIRMED_MAX: usize = 2_000;
/// A connection on which an asked channel is not confirmed for so long is made anew.
const CONFIRM_WITHIN: Duration = Duration::from_secs(5);
/// Longest wait between two attempts to connect, ms.
const RETRY_MS_MAX: u64 = 2_000;

type Stream = Framed<TcpStream, Resp3>;

/// Who hears what happens on a connection. Calls come from the one task that reads; they must not wait.
pub(super) trait Listener: Send + Sync {
    /// A channel is on: everything that is published from now on arrives.
    fn confirmed(&self, kind: Kind, channel: &str);
    /// Everything that is wanted is on.
    fn settled(&self, kind: Kind);
    /// A message.
    fn message(&self, kind: Kind, channel: &str, payload: Bytes);
    /// The connection is there, or gone, and with it what was on its way.
    fn connected(&self, kind: Kind, connected: bool);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    Off,
    Asked,
    On,
    Leaving,
}

#[derive(Debug)]
struct Channel {
    wanted: bool,
    wire: Wire,
}

/// Which channels are wanted, and what was asked of this connection. Bounded by the rooms that the node follows.
#[derive(Debug, Default)]
struct Channels {
    known: HashMap<Arc<str>, Channel>,
    /// Channels whose wire may not be as wanted.
    queue: VecDeque<Arc<str>>,
    unconfirmed: usize,
}

/// What to ask for next.
#[derive(Debug, Default, PartialEq, Eq)]
struct Batch {
    subscribe: Vec<Arc<str>>,
    unsubscribe: Vec<Arc<str>>,
}

impl Channels {
    fn want(&mut self, name: Arc<str>) {
        let channel = self.known.entry(Arc::clone(&name)).or_insert(Channel { wanted: true, wire: Wire::Off });
        channel.wanted = true;
        if channel.wire == Wire::Off {
            self.queue.push_back(name);
        }
    }

    fn release(&mut self, name: &str) {
        let Some(channel) = self.known.get_mut(name) else { return };
        channel.wanted = false;
        match channel.wire {
            Wire::Off => drop(self.known.remove(name)),
            Wire::On => self.queue.push_back(name.into()),
            Wire::Asked | Wire::Leaving => {}
        }
    }

    /// A new connection: nothing is on.
    fn begin(&mut self) {
        self.known.retain(|_, channel| channel.wanted);
        self.known.values_mut().for_each(|channel| channel.wire = Wire::Off);
        self.queue = self.known.keys().cloned().collect();
        self.unconfirmed = 0;
    }

    fn next_batch(&mut self) -> Batch {
        let mut batch = Batch::default();
        while self.unconfirmed < UNCONFIRMED_MAX
            && batch.subscribe.len() < BATCH_MAX
            && batch.unsubscribe.len() < BATCH_MAX
            && let Some(name) = self.queue.pop_front()
        {
            let Some(channel) = self.known.get_mut(&name) else { continue };
            match (channel.wanted, channel.wire) {
                (true, Wire::Off) => {
                    channel.wire = Wire::Asked;
                    batch.subscribe.push(name);
                }
                (false, Wire::On) => {
                    channel.wire = Wire::Leaving;
                    batch.unsubscribe.push(name);
                }
                _ => continue,
            }
            self.unconfirmed += 1;
        }
        batch
    }

    /// A SUBSCRIBE was confirmed; says whether it was asked for.
    fn confirm(&mut self, name: &str) -> bool {
        let Some(channel) = self.known.get_mut(name) else { return false };
        if channel.wire != Wire::Asked {
            return false;
        }
        channel.wire = Wire::On;
        self.unconfirmed -= 1;
        if !channel.wanted {
            self.queue.push_back(name.into());
        }
        true
    }

    /// An UNSUBSCRIBE was confirmed.
    fn left(&mut self, name: &str) {
        let Some(channel) = self.known.get_mut(name) else { return };
        if channel.wire != Wire::Leaving {
            return;
        }
        channel.wire = Wire::Off;
        self.unconfirmed -= 1;
        if channel.wanted {
            self.queue.push_back(name.into());
        } else {
            self.known.remove(name);
        }
    }

    fn is_settled(&self) -> bool {
        self.unconfirmed == 0 && self.queue.is_empty()
    }
}

/// One connection for one kind of channels. See the [module](self).
pub(super) struct Subscriber {
    kind: Kind,
    options: Arc<RedisOptions>,
    channels: Mutex<Channels>,
    /// Something is wanted anew, or not any more.
    changed: Notify,
    /// The connection must be made anew.
    rebuild: Notify,
    /// Counts connections; 0 while there is none.
    generation: AtomicU64,
    generations: AtomicU64,
    /// Frames that came on this connection.
    heard: AtomicU64,
    told: Mutex<String>,
}

impl Subscriber {
    pub(super) fn new(kind: Kind, options: Arc<RedisOptions>) -> Self {
        Self {
            kind,
            options,
            channels: Mutex::default(),
            changed: Notify::new(),
            rebuild: Notify::new(),
            generation: AtomicU64::new(0),
            generations: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            told: Mutex::default(),
        }
    }

    /// Asks for a channel, now and on every later connection.
    pub(super) fn want(&self, channel: &str) {
        self.channels.lock().want(channel.into());
        self.changed.notify_one();
    }

    /// Gives a channel up.
    pub(super) fn release(&self, channel: &str) {
        self.channels.lock().release(channel);
        self.changed.notify_one();
    }

    /// Whether a channel is on.
    pub(super) fn is_on(&self, channel: &str) -> bool {
        self.channels.lock().known.get(channel).is_some_and(|channel| channel.wire == Wire::On)
    }

    /// Whether everything that is wanted is on.
    #[cfg(test)]
    pub(super) fn is_settled(&self) -> bool {
        self.generation() != 0 && self.channels.lock().is_settled()
    }

    /// The connection, counted from 1; 0: there is none.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Frames that came so far.
    pub(super) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Makes the connection anew: it does not deliver.
    pub(super) fn rebuild(&self, why: &str) {
        self.tell(format!("the {} connection is made anew: {why}", self.kind.word()));
        self.rebuild.notify_one();
    }

    fn tell(&self, sentence: String) {
        let mut told = self.told.lock();
        if *told != sentence {
            tracing::warn!("{}: {sentence}", self.options.shown_url());
            *told = sentence;
        }
    }

    /// Keeps the connection for ever.
    pub(super) async fn run(&self, listener: &dyn Listener) {
        let mut window_ms = 50;
        loop {
            match tokio::time::timeout(ANSWER_WITHIN, connect(&self.options, self.kind.word())).await {
                Ok(Ok(stream)) => {
                    window_ms = 50;
                    self.channels.lock().begin();
                    let generation = self.generations.fetch_add(1, Ordering::Relaxed) + 1;
                    self.generation.store(generation, Ordering::Release);
                    listener.connected(self.kind, true);
                    let why = self.serve(stream, listener).await;
                    self.generation.store(0, Ordering::Release);
                    listener.connected(self.kind, false);
                    self.tell(format!("the {} connection broke: {why}", self.kind.word()));
                }
                Ok(Err(why)) => self.tell(format!("no {} connection: {why}", self.kind.word())),
                Err(_) => self.tell(format!("no {} connection: no answer", self.kind.word())),
            }
            tokio::time::sleep(Duration::from_millis(rand::random_range(0..=window_ms))).await;
            window_ms = (window_ms * 2).min(RETRY_MS_MAX);
        }
    }

    /// Serves one connection to its end; says why it ended.
    async fn serve(&self, mut stream: Stream, listener: &dyn Listener) -> String {
        let (mut unsettled, mut heard_then) = (true, 0);
        let mut patience = tokio::time::interval(CONFIRM_WITHIN);
        patience.tick().await;
        loop {
            if let Err(error) = self.ask(&mut stream).await {
                return error;
            }
            tokio::select! {
                frame = stream.next() => match frame {
                    Some(Ok(frame)) => {
                        self.heard.fetch_add(1, Ordering::Relaxed);
                        if let Err(error) = self.hear(frame, listener) {
                            return error;
                        }
                    }
                    Some(Err(error)) => return error.to_string(),
                    None => return "closed by Redis".into(),
                },
                () = self.changed.notified() => {}
                () = self.rebuild.notified() => return "given up".into(),
                _ = patience.tick() => {
                    let heard = self.heard();
                    if self.channels.lock().unconfirmed > 0 && heard == heard_then {
                        return "a subscription was not confirmed".into();
                    }
                    heard_then = heard;
                }
            }
            let settled = self.channels.lock().is_settled();
            if settled && unsettled {
                listener.settled(self.kind);
            }
            unsettled = !settled;
        }
    }

    /// Sends what is wanted anew, as far as the bound on unconfirmed ones allows.
    async fn ask(&self, stream: &mut Stream) -> Result<(), String> {
        loop {
            let batch = self.channels.lock().next_batch();
            if batch == Batch::default() {
                return Ok(());
            }
            for (name, channels) in [("SUBSCRIBE", batch.subscribe), ("UNSUBSCRIBE", batch.unsubscribe)] {
                if !channels.is_empty() {
                    let words =
                        std::iter::once(name.to_owned()).chain(channels.iter().map(|channel| channel.to_string()));
                    stream.feed(command(words.collect())).await.map_err(|error| error.to_string())?;
                }
            }
            SinkExt::<BytesFrame>::flush(stream).await.map_err(|error| error.to_string())?;
        }
    }

    fn hear(&self, frame: BytesFrame, listener: &dyn Listener) -> Result<(), String> {
        let data = match frame {
            BytesFrame::Push { data, .. } => data,
            BytesFrame::SimpleError { data, .. } => return Err(data.to_string()),
            _ => return Ok(()),
        };
        let mut parts = data.into_iter().filter_map(|part| match part {
            BytesFrame::BlobString { data, .. } | BytesFrame::SimpleString { data, .. } => Some(data),
            _ => None,
        });
        let (Some(what), Some(channel)) = (parts.next(), parts.next()) else { return Ok(()) };
        let Ok(channel) = std::str::from_utf8(&channel) else { return Ok(()) };
        match &*what {
            b"message" => {
                if let Some(payload) = parts.next() {
                    listener.message(self.kind, channel, payload);
                }
            }
            b"subscribe" => {
                let asked = self.channels.lock().confirm(channel);
                if asked {
                    listener.confirmed(self.kind, channel);
                }
            }
            b"unsubscribe" => self.channels.lock().left(channel),
            _ => {}
        }
        Ok(())
    }
}

async fn connect(options: &RedisOptions, name: &str) -> Result<Stream, String> {
    let info = (&*options.url).into_connection_info().map_err(|error| error.to_string())?;
    let ConnectionAddr::Tcp(host, port) = info.addr() else { return Err("only redis:// is supported".into()) };
    let socket = TcpStream::connect((host.as_str(), *port)).await.map_err(|error| error.to_string())?;
    socket.set_nodelay(true).map_err(|error| error.to_string())?;
    let mut stream = Framed::new(socket, Resp3::default());
    let mut hello = vec!["HELLO".to_owned(), "3".to_owned()];
    if let Some(password) = info.redis_settings().password() {
        let user = info.redis_settings().username().unwrap_or("default");
        hello.extend(["AUTH".to_owned(), user.to_owned(), password.to_owned()]);
    }
    hello.extend(["SETNAME".to_owned(), format!("lanecast-{name}")]);
    stream.send(command(hello)).await.map_err(|error| error.to_string())?;
    match stream.next().await {
        Some(Ok(BytesFrame::SimpleError { data, .. })) => Err(data.to_string()),
        Some(Ok(_)) => Ok(stream),
        Some(Err(error)) => Err(error.to_string()),
        None => Err("closed".into()),
    }
}

/// Subscribes to a channel and leaves it, to see whether that is allowed. Says what Redis says.
pub(super) async fn try_rights(options: &RedisOptions, channel: &str) -> Result<(), String> {
    let tried = async {
        let mut stream = connect(options, "trial").await?;
        for name in ["SUBSCRIBE", "UNSUBSCRIBE"] {
            let words = vec![name.to_owned(), channel.to_owned()];
            stream.send(command(words)).await.map_err(|error| error.to_string())?;
            match stream.next().await {
                Some(Ok(BytesFrame::SimpleError { data, .. })) => return Err(data.to_string()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.to_string()),
                None => return Err("closed".into()),
            }
        }
        Ok(())
    };
    tokio::time::timeout(ANSWER_WITHIN, tried).await.unwrap_or_else(|_| Err("no answer".into()))
}

fn command(words: Vec<String>) -> BytesFrame {
    let data = words.into_iter().map(|word| BytesFrame::BlobString { data: word.into(), attributes: None }).collect();
    BytesFrame::Array { data, attributes: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(batch: &[Arc<str>]) -> Vec<&str> {
        batch.iter().map(|name| &**name).collect()
    }

    #[test]
    fn what_is_wanted_is_asked_for_once_and_again_after_a_break() {
        let mut channels = Channels::default();
        channels.want("a".into());
        channels.want("a".into());
        assert_eq!(names(&channels.next_batch().subscribe), ["a"]);
        assert_eq!(channels.next_batch(), Batch::default());
        assert!(!channels.is_settled() && channels.confirm("a") && channels.is_settled());
        assert!(!channels.confirm("a"), "a second confirmation says nothing new");
        channels.begin();
        assert_eq!(names(&channels.next_batch().subscribe), ["a"]);
    }

    #[test]
    fn who_changes_their_mind_gets_what_they_said_last() {
        let mut channels = Channels::default();
        channels.want("a".into());
        channels.next_batch();
        channels.release("a");
        assert_eq!(channels.next_batch(), Batch::default(), "first the confirmation");
        channels.confirm("a");
        assert_eq!(names(&channels.next_batch().unsubscribe), ["a"]);
        channels.want("a".into());
        assert_eq!(channels.next_batch(), Batch::default());
        channels.left("a");
        assert_eq!(names(&channels.next_batch().subscribe), ["a"]);
        channels.confirm("a");
        channels.release("a");
        channels.next_batch();
        channels.left("a");
        assert!(channels.known.is_empty() && channels.is_settled());
    }

    #[test]
    fn batches_and_unconfirmed_ones_are_bounded() {
        let mut channels = Channels::default();
        (0..5_000).for_each(|name| channels.want(name.to_string().into()));
        let asked: Vec<usize> = std::iter::from_fn(|| Some(channels.next_batch().subscribe.len())).take(5).collect();
        assert_eq!(asked, [500, 500, 500, 500, 0]);
        channels.confirm("0");
        assert_eq!(channels.next_batch().subscribe.len(), 1);
    }
}
