//! `lanecast publish`: one event, stored before the command ends.

use std::io::Read as _;

use clap::Args;
use lanecast_protocol::position::DurableLane;
use lanecast_protocol::publisher::Settled;
use lanecast_protocol::session::client::{CommandError, Event};
use lanecast_protocol::v1;
use prost::Message as _;

use super::Failure;
use super::link::{Link, Target, refused};

#[derive(Debug, Args)]
pub(super) struct Publish {
    /// The room.
    room: String,
    /// The body, as text; "-" or none: standard input.
    body: Option<String>,
    /// The lane: urgent, normal or bulk.
    #[arg(long, default_value = "normal", value_parser = lane)]
    lane: DurableLane,
    /// The type.
    #[arg(long = "type", default_value = "message", value_name = "TYPE")]
    event_type: String,
    /// The key.
    #[arg(long, default_value = "")]
    key: String,
    /// Not to be delivered later than this many ms; 0: no limit.
    #[arg(long, default_value_t = 0)]
    ttl_ms: u32,
    /// Pass the event on without storing it.
    #[arg(long)]
    transient: bool,
    #[command(flatten)]
    target: Target,
}

impl Publish {
    pub(super) fn run(self) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.publish())
    }

    async fn publish(self) -> Result<(), Failure> {
        let envelope = v1::Envelope {
            r#type: self.event_type,
            key: self.key,
            body: Some(v1::envelope::Body::Text(body(self.body)?)),
            ..Default::default()
        };
        let envelope = envelope.encode_to_vec().into();
        let mut link = Link::new(self.target);
        let (room, lane, ttl_ms) = (self.room.as_str(), self.lane, self.ttl_ms);
        let ticket = if self.transient {
            loop {
                let now = link.now();
                match link.client.publish_transient(now, room, lane, Clone::clone(&envelope), ttl_ms) {
                    Err(CommandError::NotConnected) => {
                        link.event().await?;
                    }
                    published => break published?,
                }
            }
        } else {
            let now = link.now();
            link.client.publish(now, room, lane, envelope, ttl_ms)?
        };
        loop {
            let Event::Settled(settled, outcome) = link.event().await? else { continue };
            if settled != ticket {
                continue;
            }
            return match outcome {
                Settled::Stored(published) if published.seq > 0 => {
                    println!(
                        "stored epoch={} lane={} seq={} order={}",
                        published.epoch, self.lane, published.seq, published.order
                    );
                    Ok(())
                }
                Settled::Stored(_) => {
                    println!("passed on");
                    Ok(())
                }
                Settled::Refused { code, detail } => Err(refused(code, &detail)),
                Settled::GivenUp => Err("not stored in time; it may be stored all the same".into()),
            };
        }
    }
}

fn body(argument: Option<String>) -> Result<String, Failure> {
    match argument {
        Some(text) if text != "-" => Ok(text),
        _ => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            Ok(text)
        }
    }
}

pub(super) fn lane(name: &str) -> Result<DurableLane, String> {
    DurableLane::from_name(name).ok_or_else(|| "urgent, normal or bulk".into())
}
