//! `lanecast why`: where the time of an event went, as one node saw it.

use clap::Args;
use hyper::Method;
use lanecast_protocol::lane::Lane;
use lanecast_protocol::position::DurableLane;
use lanecast_protocol::v1;

use super::Failure;
use super::api::{Api, quoted};
use super::operate::{block_on, table};

/// `lanecast why`.
#[derive(Debug, Args)]
pub(super) struct Why {
    /// The room.
    room: String,
    /// The event's seq in its lane.
    seq: u64,
    /// The lane; without it all in which the node remembers that seq.
    #[arg(long, value_parser = lane)]
    lane: Option<DurableLane>,
    #[command(flatten)]
    api: Api,
}

fn lane(name: &str) -> Result<DurableLane, String> {
    DurableLane::from_name(name).ok_or_else(|| "expected urgent, normal or bulk".to_owned())
}

impl Why {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let mut path = format!("/v1/traces?room={}&seq={}", quoted(&self.room), self.seq);
        if let Some(lane) = self.lane {
            path.push_str(&format!("&lane={}", Lane::from(lane).name()));
        }
        let answer: v1::ListTracesResponse = block_on(self.api.ask(Method::GET, &path, Vec::new()))?;
        self.api.print("ListTracesResponse", &answer, || {
            answer.traces.iter().for_each(|trace| print!("{}", told(trace)));
        });
        Ok(())
    }
}

/// One line about the event, and one for each subscriber.
fn told(trace: &v1::EventTrace) -> String {
    let lane = Lane::from_wire(trace.lane).map_or("?", Lane::name);
    let mut text =
        format!("{lane} {} of {} (epoch {})", trace.seq, trace.room.replace(char::is_control, "?"), trace.epoch);
    if trace.received_elsewhere {
        text.push_str(", received by another node: the time in the engine compares two clocks");
    }
    text.push('\n');
    if trace.deliveries.is_empty() {
        text.push_str(&format!(
            "publisher {}, engine {}; no subscriber of this node got it\n",
            ms(trace.publisher_ms),
            ms(trace.engine_ms)
        ));
        return text;
    }
    let rows = trace.deliveries.iter().map(|delivery| {
        let wire = match (delivery.wire_ms, delivery.acknowledged) {
            (None, _) => "on its way".to_owned(),
            (wire, true) => format!("{} to the acknowledgement", ms(wire)),
            (wire, false) => format!("{} to the socket", ms(wire)),
        };
        let before = [ms(trace.publisher_ms), ms(trace.engine_ms), ms(delivery.queue_ms)];
        let [publisher, engine, queue] = before;
        vec![delivery.connection.clone(), delivery.user.clone(), publisher, engine, queue, wire]
    });
    text.push_str(&table(&["CONNECTION", "USER", "PUBLISHER", "ENGINE", "QUEUE", "WIRE"], rows.collect()));
    if trace.untraced > 0 {
        text.push_str(&format!("and {} more connections\n", trace.untraced));
    }
    text
}

fn ms(ms: Option<f64>) -> String {
    ms.map_or_else(|| "?".to_owned(), |ms| format!("{ms:.1} ms"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_the_way_has_its_column() {
        let delivery = |connection: &str, wire_ms, acknowledged| v1::DeliveryTrace {
            connection: connection.into(),
            user: "ann".into(),
            queue_ms: Some(0.25),
            wire_ms,
            acknowledged,
        };
        let trace = v1::EventTrace {
            room: "r".into(),
            lane: v1::Lane::Urgent.into(),
            epoch: 9,
            seq: 3,
            engine_ms: Some(1.5),
            deliveries: vec![
                delivery("a", Some(31.0), true),
                delivery("b", Some(2.0), false),
                delivery("c", None, false),
            ],
            ..Default::default()
        };
        let expected = "urgent 3 of r (epoch 9)\n\
                        CONNECTION  USER  PUBLISHER  ENGINE  QUEUE   WIRE\n\
                        a           ann   ?          1.5 ms  0.2 ms  31.0 ms to the acknowledgement\n\
                        b           ann   ?          1.5 ms  0.2 ms  2.0 ms to the socket\n\
                        c           ann   ?          1.5 ms  0.2 ms  on its way\n";
        assert_eq!(told(&trace), expected);
    }
}
