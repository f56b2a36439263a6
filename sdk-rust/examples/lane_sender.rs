//! Publishes urgent, signal, normal and bulk messages at their times until it is told to stop: the sender of
//! `lanecast-conform load lanes --role subscriber`, so that what it measures in the upward direction are the queues of this
//! SDK.
//!
//! `cargo run -p lanecast --example lane_sender -- URL --room ROOM [--token T] [--hash HEX] [--no-bulk] [--bulk-in-flight N]
//! [--urgent-rate N] [--signal-rate N] [--normal-rate N] [--one-queue]`
//!
//! It begins when an event of type `go` comes in `ROOM.meeting` and ends at one of type `done`. Each message begins with the
//! time at which it was due (µs since the Unix epoch, 8 bytes, little-endian) and its number (8 bytes).

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lanecast::{Client, Lane, PublishErrorKind, Room};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// From `go` to the first message.
const AHEAD: Duration = Duration::from_millis(200);
const BULK_BYTES: usize = 16 * 1024;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

struct Args {
    url: String,
    room: String,
    token: String,
    hash: Option<[u8; 32]>,
    /// Without lanes, for comparison.
    one_queue: bool,
    /// Bulk events that are queued or unanswered at a time; 0: none.
    bulk_in_flight: usize,
    urgent_rate: f64,
    signal_rate: f64,
    normal_rate: f64,
}

impl Args {
    fn read() -> Option<Self> {
        let mut read = Self {
            url: String::new(),
            room: String::new(),
            token: "dev:alice".to_owned(),
            hash: None,
            one_queue: false,
            bulk_in_flight: 64,
            urgent_rate: 50.0,
            signal_rate: 62.5,
            normal_rate: 20.0,
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--room" => read.room = args.next()?,
                "--token" => read.token = args.next()?,
                "--hash" => read.hash = Some(digest(&args.next()?)?),
                "--one-queue" => read.one_queue = true,
                "--no-bulk" => read.bulk_in_flight = 0,
                "--bulk-in-flight" => read.bulk_in_flight = args.next()?.parse().ok()?,
                "--urgent-rate" => read.urgent_rate = args.next()?.parse().ok()?,
                "--signal-rate" => read.signal_rate = args.next()?.parse().ok()?,
                "--normal-rate" => read.normal_rate = args.next()?.parse().ok()?,
                _ if read.url.is_empty() => read.url = arg,
                _ => return None,
            }
        }
        (!read.url.is_empty() && !read.room.is_empty()).then_some(read)
    }

    fn client(&self) -> Outcome<Client> {
        let builder = Client::builder(&self.url).token(&self.token).app("lane sender", "1").one_queue(self.one_queue);
        let builder = match self.hash {
            Some(hash) => builder.certificate_hash(hash),
            None => builder,
        };
        Ok(builder.connect()?)
    }
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    let hex: String = hex.chars().filter(|digit| *digit != ':').collect();
    let bytes: Option<Vec<u8>> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()).collect();
    bytes?.try_into().ok()
}

fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64)
}

fn payload(due_us: u64, number: u64, bytes: usize) -> Vec<u8> {
    let mut data = vec![b'x'; bytes.max(16)];
    data[..8].copy_from_slice(&due_us.to_le_bytes());
    data[8..16].copy_from_slice(&number.to_le_bytes());
    data
}

/// When the sender began, on the clock that waits and on the one that is written into messages.
#[derive(Clone, Copy)]
struct Begin {
    at: Instant,
    us: u64,
}

impl Begin {
    /// Waits until a message is due and returns when that was.
    async fn due(self, number: u64, rate: f64) -> u64 {
        let after_us = (number as f64 * 1e6 / rate) as u64;
        sleep_until(self.at + Duration::from_micros(after_us)).await;
        self.us + after_us
    }
}

async fn events(room: Room, lane: Lane, rate: f64, bytes: usize, begin: Begin) -> Outcome<()> {
    for number in 0.. {
        let due_us = begin.due(number, rate).await;
        // What became of it the subscriber sees.
        room.publish("load", payload(due_us, number, bytes)).lane(lane).send().await?;
    }
    Ok(())
}

async fn signals(room: Room, rate: f64, begin: Begin) -> Outcome<()> {
    for number in 0.. {
        let due_us = begin.due(number, rate).await;
        room.signal("load", number.to_string(), payload(due_us, number, 100)).await?;
    }
    Ok(())
}

/// As much as the node takes, with that many on their way.
async fn bulk(room: Room, in_flight: usize, begin: Begin) -> Outcome<()> {
    sleep_until(begin.at).await;
    let mut receipts = std::collections::VecDeque::new();
    for number in 0.. {
        if receipts.len() >= in_flight
            && let Some(oldest) = receipts.pop_front()
        {
            settle(oldest).await?;
        }
        let publish = room.publish("load", payload(now_us(), number, BULK_BYTES)).lane(Lane::Bulk);
        receipts.push_back(publish.send().await?);
    }
    Ok(())
}

async fn settle(receipt: lanecast::Receipt) -> Outcome<()> {
    match receipt.await {
        // The outbox is bounded, and the other lanes fill it too.
        Err(error) if error.kind != PublishErrorKind::OutboxFull => Err(error.into()),
        _ => Ok(()),
    }
}

async fn run(args: &Args) -> Outcome<()> {
    let client = args.client()?;
    let mut meeting = client.room(format!("{}.meeting", args.room)).subscribe().from_beginning().await?;
    let mut next = async |word: &str| -> Outcome<()> {
        while let Some(item) = meeting.next().await {
            if item.is_ok_and(|event| event.r#type == word) {
                return Ok(());
            }
        }
        Err(format!("the meeting ended before anyone said {word}").into())
    };
    next("go").await?;
    let begin = Begin { at: Instant::now() + AHEAD, us: now_us() + AHEAD.as_micros() as u64 };
    let room = client.room(&args.room);
    let mut tasks = JoinSet::new();
    tasks.spawn(events(room.clone(), Lane::Urgent, args.urgent_rate, 200, begin));
    tasks.spawn(events(room.clone(), Lane::Normal, args.normal_rate, 500, begin));
    tasks.spawn(signals(room, args.signal_rate, begin));
    if args.bulk_in_flight > 0 {
        tasks.spawn(bulk(client.room(format!("{}.bulk", args.room)), args.bulk_in_flight, begin));
    }
    tokio::select! {
        done = next("done") => done,
        Some(failed) = tasks.join_next() => failed?,
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let Some(args) = Args::read() else {
        eprintln!("usage: lane_sender URL --room ROOM [--token T] [--hash HEX] [--no-bulk] [--bulk-in-flight N]");
        return ExitCode::from(2);
    };
    match run(&args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(1)
        }
    }
}
