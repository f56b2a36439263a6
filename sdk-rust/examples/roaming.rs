//! Measures how long a client takes to be current again after its device changed its address: the client side of `roaming.sh`,
//! which changes it for real, and the publisher that it needs near the node.
//!
//! ```text
//! roaming URL --room ROOM --publish                              publishes an event every 20 ms until it is killed
//! roaming URL --room ROOM --change CMD [--times N] [--hint]      runs CMD with 0, 1, 0 … N times, and prints for each the ms
//!     [--token T] [--hash HEX]
//! ```
//!
//! Current means that an event has come that was published after the change, and with it, in order, all from before. With
//! `--hint` it calls `network_changed` right after the change. Fails if an event is missing or comes twice.

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lanecast::{Client, Subscription};
use tokio::process::Command;

/// Between two events.
const EVERY: Duration = Duration::from_millis(20);
/// Between being current and the next change, so that nothing of the one before is measured again.
const REST: Duration = Duration::from_secs(2);
/// A change that takes longer to get over is a failure.
const WITHIN: Duration = Duration::from_secs(60);

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Default)]
struct Args {
    url: String,
    room: String,
    token: String,
    hash: Option<[u8; 32]>,
    publish: bool,
    change: String,
    times: usize,
    hint: bool,
}

impl Args {
    fn read() -> Option<Self> {
        let mut read = Self { token: "dev:alice".to_owned(), times: 5, ..Self::default() };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--room" => read.room = args.next()?,
                "--token" => read.token = args.next()?,
                "--hash" => read.hash = Some(digest(&args.next()?)?),
                "--publish" => read.publish = true,
                "--change" => read.change = args.next()?,
                "--times" => read.times = args.next()?.parse().ok()?,
                "--hint" => read.hint = true,
                _ if read.url.is_empty() => read.url = arg,
                _ => return None,
            }
        }
        (!read.url.is_empty() && !read.room.is_empty() && read.publish == read.change.is_empty()).then_some(read)
    }

    fn client(&self) -> Outcome<Client> {
        let builder = Client::builder(&self.url).token(&self.token).app("roaming", "1");
        let builder = match self.hash {
            Some(hash) => builder.certificate_hash(hash),
            None => builder,
        };
        Ok(builder.connect()?)
    }
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    let bytes: Option<Vec<u8>> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()).collect();
    bytes?.try_into().ok()
}

fn now_us() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros()
}

async fn publish(client: &Client, room: &str) -> Outcome<()> {
    let mut tick = tokio::time::interval(EVERY);
    for number in 0_u64.. {
        tick.tick().await;
        client.room(room).publish("at", format!("{number} {}", now_us())).send().await?;
    }
    Ok(())
}

/// Reads numbered events, each once and in order.
struct Reader {
    subscription: Subscription,
    next: Option<u64>,
}

impl Reader {
    /// Reads on to one that was published after a moment.
    async fn read_past(&mut self, after_us: u128) -> Outcome<()> {
        loop {
            let item = self.subscription.next().await.ok_or("the subscription ended")?;
            let event = item.map_err(|gap| format!("missing: {gap}"))?;
            let text = event.text().unwrap_or_default();
            let (number, at_us) = text.split_once(' ').ok_or("not an event of this program")?;
            let (number, at_us): (u64, u128) = (number.parse()?, at_us.parse()?);
            if let Some(next) = self.next
                && next != number
            {
                return Err(format!("{number} came in the place of {next}").into());
            }
            self.next = Some(number + 1);
            if at_us > after_us {
                return Ok(());
            }
        }
    }

    async fn rest(&mut self) -> Outcome<()> {
        self.read_past(now_us() + REST.as_micros()).await
    }
}

async fn roam(client: &Client, args: &Args) -> Outcome<()> {
    let subscription = client.room(&args.room).subscribe().await?;
    subscription.ready().await?;
    let mut reader = Reader { subscription, next: None };
    for change in 0..args.times {
        reader.rest().await?;
        let changed = Command::new("sh").args(["-c", &format!("{} {}", args.change, change % 2)]).status().await?;
        if !changed.success() {
            return Err(format!("the change failed: {changed}").into());
        }
        let (began, began_us) = (Instant::now(), now_us());
        if args.hint {
            client.network_changed().await;
        }
        tokio::time::timeout(WITHIN, reader.read_past(began_us)).await.map_err(|_| "not current within a minute")??;
        println!("{}", began.elapsed().as_millis());
    }
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let Some(args) = Args::read() else {
        eprintln!(
            "usage: roaming URL --room ROOM (--publish | --change CMD [--times N] [--hint]) [--token T] [--hash HEX]"
        );
        return ExitCode::from(2);
    };
    let run = async {
        let client = args.client()?;
        match args.publish {
            true => publish(&client, &args.room).await,
            false => roam(&client, &args).await,
        }
    };
    match run.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
