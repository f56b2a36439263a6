//! Publishes mixed events to a room and reads them back at the same time, and fails unless each came exactly once: in every lane
//! in order, but for urgent over QUIC, where each comes as it arrives.
//!
//! `cargo run -p lanecast --example exactly_once -- URL [COUNT] [--token T] [--hash HEX]`
//!
//! COUNT is 10,000 unless told otherwise. `--hash` is the SHA-256 of a development certificate. The exit status is 0 if all holds,
//! 1 if something was lost, doubled or out of order, 2 if the arguments are wrong or the run takes more than five minutes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lanecast::{Client, ClientState, Lane, Receipt, Subscription};

const COUNT: u64 = 10_000;
const WITHIN: Duration = Duration::from_secs(300);
/// Publishes that are on their way at a time.
const WINDOW: usize = 200;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

struct Args {
    url: String,
    count: u64,
    token: String,
    hash: Option<[u8; 32]>,
}

impl Args {
    fn read() -> Option<Self> {
        let (mut url, mut count, mut token, mut hash) = (None, COUNT, "dev:alice".to_owned(), None);
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--token" => token = args.next()?,
                "--hash" => hash = Some(digest(&args.next()?)?),
                _ if url.is_none() => url = Some(arg),
                _ => count = arg.parse().ok()?,
            }
        }
        Some(Self { url: url?, count, token, hash })
    }

    fn client(&self) -> Outcome<Client> {
        let builder = Client::builder(&self.url).token(&self.token).app("exactly once", "1");
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

/// Every tenth event is urgent, every fifth bulk and of some kilobytes, the rest normal and small.
fn mixed(number: u64) -> (Lane, String) {
    match number % 10 {
        0 => (Lane::Urgent, format!("{number} ")),
        5 | 7 => (Lane::Bulk, format!("{number} {}", "b".repeat(200 + number as usize * 37 % 3_000))),
        _ => (Lane::Normal, format!("{number} {}", "n".repeat(number as usize * 13 % 200))),
    }
}

/// What came.
#[derive(Default)]
struct Ledger {
    numbers: BTreeSet<u64>,
    seqs: BTreeMap<&'static str, BTreeSet<u64>>,
    faults: Vec<String>,
    /// Urgent events that came before one with a lower seq.
    overtook: u64,
}

impl Ledger {
    fn enter(&mut self, event: &lanecast::Event, may_overtake: bool) {
        let (lane, text) = (event.lane.name(), event.text().unwrap_or_default());
        let Some(number) = text.split(' ').next().and_then(|number| number.parse().ok()) else {
            return self.faults.push(format!("an event of somebody else: {text:?}"));
        };
        if !self.numbers.insert(number) {
            self.faults.push(format!("event {number} came twice"));
        }
        if mixed(number) != (event.lane, text.to_owned()) {
            self.faults.push(format!("event {number} came in another shape, on lane {lane}"));
        }
        let seqs = self.seqs.entry(lane).or_default();
        let expected = seqs.last().map_or(1, |last| last + 1);
        if event.seq < expected && event.lane == Lane::Urgent && may_overtake {
            self.overtook += 1;
        } else if event.seq != expected && !(event.lane == Lane::Urgent && may_overtake) {
            self.faults.push(format!("{lane} {} came where {expected} was next", event.seq));
        }
        if !seqs.insert(event.seq) {
            self.faults.push(format!("{lane} {} came twice", event.seq));
        }
    }

    /// In each lane every seq from 1 on.
    fn close(&mut self) {
        for (lane, seqs) in &self.seqs {
            if seqs.last().copied() != Some(seqs.len() as u64) {
                self.faults.push(format!("{lane} has holes: {} events up to {:?}", seqs.len(), seqs.last()));
            }
        }
    }
}

async fn publish(client: Client, room: String, count: u64) -> Outcome<u64> {
    let room = client.room(room);
    let (mut window, mut doubled) = (VecDeque::<Receipt>::new(), 0);
    for number in 0..count {
        if window.len() == WINDOW
            && let Some(oldest) = window.pop_front()
        {
            doubled += u64::from(oldest.await?.duplicate);
        }
        let (lane, text) = mixed(number);
        window.push_back(room.publish("mixed", text).lane(lane).send().await?);
    }
    for receipt in window {
        doubled += u64::from(receipt.await?.duplicate);
    }
    Ok(doubled)
}

async fn read(mut subscription: Subscription, count: u64, may_overtake: bool) -> Ledger {
    let mut ledger = Ledger::default();
    while (ledger.numbers.len() as u64) < count {
        match subscription.next().await {
            Some(Ok(event)) => ledger.enter(&event, may_overtake),
            // A cut may cost transient events, of which there are none here.
            Some(Err(gap)) if matches!(gap.missing, lanecast::Missing::Transients { .. }) => {}
            Some(Err(gap)) => {
                ledger.faults.push(format!("a gap: {gap}"));
                break;
            }
            None => {
                ledger.faults.push(format!("the subscription ended: {:?}", *subscription.state().borrow()));
                break;
            }
        }
    }
    ledger.close();
    ledger
}

async fn run(args: &Args) -> Outcome<bool> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let room = format!("chat.once.{since}");
    let (publisher, subscriber) = (args.client()?, args.client()?);
    for client in [&publisher, &subscriber] {
        client.connected().await?;
    }
    let subscription = subscriber.room(&room).subscribe().from_beginning().await?;
    let mut states = subscriber.state();
    let cuts = tokio::spawn(async move {
        let mut cuts = 0;
        while states.changed().await.is_ok() {
            cuts += u64::from(matches!(*states.borrow(), ClientState::Suspended(_)));
        }
        cuts
    });
    let began = Instant::now();
    let publishing = tokio::spawn(publish(publisher.clone(), room, args.count));
    // Over TCP nothing overtakes, and `https://` may be either.
    let may_overtake = args.url.starts_with("quic:") || args.url.starts_with("https:");
    let ledger = read(subscription, args.count, may_overtake).await;
    let doubled = publishing.await??;
    let took = began.elapsed();
    publisher.close().await;
    subscriber.close().await;
    drop((publisher, subscriber));
    for fault in ledger.faults.iter().take(20) {
        eprintln!("{fault}");
    }
    println!(
        "{} of {} events in {:.1} s; {} faults; {} urgent overtook; {doubled} publishes sent twice and stored once; {} cuts",
        ledger.numbers.len(),
        args.count,
        took.as_secs_f64(),
        ledger.faults.len(),
        ledger.overtook,
        cuts.await?,
    );
    Ok(ledger.faults.is_empty() && ledger.numbers.len() as u64 == args.count)
}

#[tokio::main]
async fn main() -> ExitCode {
    let Some(args) = Args::read() else {
        eprintln!("usage: exactly_once URL [COUNT] [--token T] [--hash HEX]");
        return ExitCode::from(2);
    };
    match tokio::time::timeout(WITHIN, run(&args)).await {
        Ok(Ok(true)) => ExitCode::SUCCESS,
        Ok(Ok(false)) => ExitCode::from(1),
        Ok(Err(error)) => {
            eprintln!("{error}");
            ExitCode::from(1)
        }
        Err(_) => {
            eprintln!("not done within {} s", WITHIN.as_secs());
            ExitCode::from(2)
        }
    }
}
