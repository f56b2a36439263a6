//! A connection that takes part in what keeps bulk from filling the path: it puts fragments together and gives credit
//! for what it consumed.

use std::collections::VecDeque;

use bytes::Bytes;
use prost::Message as _;
use tokio::time::Instant;
use v1::frame::Body;

use super::link::{Link, record};
use super::now_us;
use crate::client::{Assembler, Broken, Lane, Meter, Transport};
use crate::schema::{self, v1};
use crate::target::Target;
use crate::verdict::{Outcome, Stop};

/// What a consumer says that it can do.
pub(super) const CAPABILITIES: [v1::Capability; 2] = [v1::Capability::Fragments, v1::Capability::Credit];
/// Bytes of a lane that it takes beyond what it consumed: more than a fast path holds, so that the sender's own bound
/// is what counts.
const WINDOW: u64 = 1 << 20;
/// Bytes of the longest frame that it puts together.
const TOTAL_MAX: u64 = 64 << 20;

/// A frame that came.
#[derive(Debug)]
pub(super) struct Taken {
    /// The frame, whole.
    pub frame: v1::Frame,
    /// When its last piece came, µs since the Unix epoch.
    pub at_us: u64,
}

/// A joined connection.
pub(super) struct Consumer {
    link: Link,
    meter: Option<Meter>,
    assembler: Assembler,
    ready: VecDeque<Taken>,
}

fn broken((rule, text): Broken) -> Stop {
    Stop::Fail(format!("{rule}: {text}"), Some(rule))
}

impl Consumer {
    /// Joins with these subscriptions and capabilities; credit is given if they hold it.
    pub(super) async fn join(
        target: &Target,
        transport: Transport,
        name: &str,
        subscriptions: Vec<v1::Subscribe>,
        capabilities: &[v1::Capability],
    ) -> Outcome<Self> {
        let (link, came) = Link::join_with(target, transport, name, subscriptions, capabilities).await?;
        let meter = capabilities.contains(&v1::Capability::Credit).then(|| Meter::new(WINDOW));
        let mut consumer = Self { link, meter, assembler: Assembler::new(TOTAL_MAX), ready: VecDeque::new() };
        for frame in came {
            let record_bytes = schema::record_length(frame.encoded_len());
            consumer.take(frame, record_bytes)?;
        }
        Ok(consumer)
    }

    /// Sends a frame of lane control.
    pub(super) async fn send(&mut self, id: u32, body: Body) {
        self.link.send(Lane::Control, record(id, body)).await;
    }

    /// The next frame; `None`: nothing until the deadline.
    ///
    /// Not cancel safe: credit may be cut.
    pub(super) async fn next(&mut self, deadline: Instant) -> Outcome<Option<Taken>> {
        loop {
            self.give_credit().await;
            if let Some(taken) = self.ready.pop_front() {
                return Ok(Some(taken));
            }
            let due = self.meter.as_ref().and_then(Meter::due);
            match self.link.packet(due.unwrap_or(deadline).min(deadline)).await? {
                Some((packet, _)) => self.packet(&packet)?,
                None if Instant::now() >= deadline => return Ok(None),
                None => {}
            }
        }
    }

    async fn give_credit(&mut self) {
        let Some(meter) = &mut self.meter else { return };
        let records = meter.credits(Instant::now()).into_iter().flat_map(|credit| record(0, Body::Credit(credit)));
        let records: Vec<u8> = records.collect();
        if !records.is_empty() {
            self.link.send(Lane::Control, records).await;
        }
    }

    fn packet(&mut self, packet: &Bytes) -> Outcome {
        for bytes in schema::split_records(packet).map_err(|error| Stop::fail(error.0))? {
            let frame = v1::Frame::decode(bytes).map_err(Stop::harness)?;
            self.take(frame, schema::record_length(bytes.len()))?;
        }
        Ok(())
    }

    fn take(&mut self, frame: v1::Frame, record_bytes: usize) -> Outcome {
        let lane = frame.body.as_ref().map_or(Lane::Control, Lane::of_body);
        if let Some(meter) = &mut self.meter {
            meter.consumed(lane, record_bytes, Instant::now());
        }
        let whole = match frame.body {
            Some(Body::FragmentAbort(abort)) => {
                self.assembler.abort(abort.transfer);
                return Ok(());
            }
            Some(Body::Fragment(fragment)) => match self.assembler.take(fragment).map_err(broken)? {
                Some(bytes) => v1::Frame::decode(bytes).map_err(Stop::harness)?,
                None => return Ok(()),
            },
            _ => frame,
        };
        self.ready.push_back(Taken { frame: whole, at_us: now_us() });
        Ok(())
    }
}
