//! `lanecast subscribe`: a room as lines of JSON on standard output.

use std::io::Write as _;

use clap::Args;
use lanecast_protocol::inbox::Item;
use lanecast_protocol::json;
use lanecast_protocol::position::{DurableLane, Position};
use lanecast_protocol::session::client::{Event, RoomState, SubscribeOptions};
use lanecast_protocol::v1;
use serde_json::{Value, json};

use super::Failure;
use super::link::{Link, Target, refused};

/// Items taken from the room at a time.
const BATCH: usize = 256;

#[derive(Debug, Args)]
pub(super) struct Subscribe {
    /// The room.
    room: String,
    /// Where to begin: "live", "beginning", a position such as "7-0-12-0", or so many events back, such as "20".
    #[arg(long, default_value = "live", value_parser = start)]
    from: v1::start::At,
    /// Also print signals.
    #[arg(long)]
    signals: bool,
    /// End after so many events.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    target: Target,
}

impl Subscribe {
    pub(super) fn run(self) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.subscribe())
    }

    async fn subscribe(self) -> Result<(), Failure> {
        let mut link = Link::new(self.target);
        let options = SubscribeOptions { start: Some(self.from), signals: self.signals };
        link.client.subscribe(&self.room, options)?;
        let mut left = self.count;
        loop {
            match link.event().await? {
                Event::Room(_, RoomState::Ended { code: Some(code) }) => return Err(refused(code, "")),
                Event::Signal(_, signal) => print(&message("signal", "Signal", &*signal))?,
                Event::Ready(_) => {
                    while let batch = link.client.next_batch(&self.room, BATCH)
                        && !batch.is_empty()
                    {
                        for item in batch {
                            print(&line(&item))?;
                            if let (Item::Event(_), Some(left)) = (&item, &mut left) {
                                *left -= 1;
                                if *left == 0 {
                                    return Ok(());
                                }
                            }
                        }
                    }
                }
                _ => {}
            }
        }
    }
}

/// A reader that went away (`| head`) ends the command.
fn print(line: &Value) -> Result<(), Failure> {
    Ok(writeln!(std::io::stdout().lock(), "{line}")?)
}

fn message(name: &str, schema: &str, message: &impl prost::Message) -> Value {
    // The JSON was made by this program a moment ago.
    let value: Value = serde_json::from_str(&json::message_to_json(schema, message)).unwrap_or_default();
    json!({ name: value })
}

fn line(item: &Item) -> Value {
    match item {
        Item::Event(delivery) => {
            let event = v1::Event { handle: 0, epoch: delivery.epoch, ..delivery.event.clone() };
            message("event", "Event", &event)
        }
        Item::Gap(gap) => json!({ "gap": {
            "lane": gap.lane.name(), "epoch": gap.epoch, "from": gap.from, "to": gap.to, "cause": gap.cause.as_str_name(),
        }}),
        Item::TransientGap { lane, count, cause } => {
            json!({ "gap": { "lane": lane.map(DurableLane::name), "transients": count, "cause": cause.as_str_name() }})
        }
    }
}

fn start(text: &str) -> Result<v1::start::At, String> {
    match text {
        "live" => Ok(v1::start::At::Live(v1::StartLive {})),
        "beginning" => Ok(v1::start::At::Beginning(v1::StartBeginning {})),
        _ => match (text.parse::<u32>(), text.parse::<Position>()) {
            (Ok(count), _) => Ok(v1::start::At::Count(count)),
            (_, Ok(position)) => Ok(v1::start::At::Position(position.into())),
            _ => Err("live, beginning, a position or a number of events".into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_told_apart() {
        assert_eq!(start("20"), Ok(v1::start::At::Count(20)));
        let position = Position { epoch: 7, urgent: 0, normal: 12, bulk: 0 };
        assert_eq!(start("7-0-12-0"), Ok(v1::start::At::Position(position.into())));
        assert!(start("yesterday").is_err());
    }

    #[test]
    fn gaps_are_lines_of_their_own() {
        let item = Item::TransientGap { lane: Some(DurableLane::Normal), count: None, cause: v1::GapCause::Dropped };
        assert_eq!(
            line(&item).to_string(),
            r#"{"gap":{"cause":"GAP_CAUSE_DROPPED","lane":"normal","transients":null}}"#
        );
    }
}
