//! The clients: what they send and what arrives there.

use bytes::Bytes;
use lanecast_protocol::position::DurableLane;
use lanecast_protocol::publisher::{Settled, Terms, Ticket};
use lanecast_protocol::v1;
use rand::Rng;

use super::{Connection, NODES, Published, ROOM, World};
use crate::wire::{Down, Link, Up};

impl World {
    pub(super) fn connect(&mut self, client: usize) {
        let node = self.rng.random_range(0..NODES);
        // A client stays with one kind of transport for a run, which says what order its application may expect.
        let mut link = Link::new(self.clients[client].ordered);
        let subscribe = self.clients[client].subscribe(self.planted);
        tell!(self, "client {client} connects to node {node}: {subscribe:?}");
        link.control_up.push_back(subscribe);
        self.connections[client] = Some(Connection { node, link, place: None });
    }

    pub(super) fn publish(&mut self, client: usize) {
        self.next_payload += 1;
        let lane = self.lane();
        let payload = self.next_payload * 10 + lane.index() as u64;
        let expires_at_ms = if self.chance(200) { self.now_ms + self.rng.random_range(1..600) } else { 0 };
        let published = Published {
            instance: self.clients[client].instance,
            expires_at_ms,
            secret: self.chance(100),
            too_large: self.chance(30),
            acknowledged: false,
            settled: false,
        };
        self.publishes.insert(payload, published);
        let give_up_at_ms = self.now_ms + self.rng.random_range(100..4_000);
        let envelope = Bytes::copy_from_slice(&payload.to_be_bytes());
        let ticket = Ticket(payload);
        let terms = Terms { expires_at_ms: None, ack: v1::AckLevel::Stored, give_up_at_ms, asked_at_ms: None };
        self.clients[client].publisher.push(ticket, ROOM, lane, envelope, terms).unwrap();
    }

    /// Sends what is due: a Subscribe after a hole, and a publish.
    pub(super) fn send(&mut self, client: usize) {
        let again = self.chance(30) || std::mem::take(&mut self.clients[client].again);
        let Some(connection) = &mut self.connections[client] else { return };
        let state = &mut self.clients[client];
        if again {
            connection.link.control_up.push_back(state.subscribe(self.planted));
        }
        let (next_id, instance) = (&mut state.next_id, state.instance);
        let mut next_id = || {
            *next_id += 1;
            *next_id
        };
        let polled = state.publisher.poll(self.now_ms, 16, |_| true, &mut next_id);
        if let Some((id, publish)) = polled {
            let lane = DurableLane::from_wire(publish.lane).unwrap();
            connection.link.lanes_up[lane].push_back(Up::Publish { id, publish, instance });
        }
        if connection.link.ordered {
            return;
        }
        // LC-QUIC-015: a copy overtakes what it likes of what is on the way.
        state.publisher.set_round_trip(Some(1));
        state.publisher.note_overdue(self.now_ms, true);
        if let Some((id, publish)) = state.publisher.repeat(self.now_ms, 16, &mut next_id) {
            let queue = &mut connection.link.lanes_up[DurableLane::Urgent];
            queue.insert(self.rng.random_range(0..=queue.len()), Up::Publish { id, publish, instance });
            self.tally.copies += 1;
        }
    }

    pub(super) fn control_arrives(&mut self, client: usize) -> Result<(), String> {
        let Some(connection) = &mut self.connections[client] else { return Ok(()) };
        let Some(frame) = connection.link.control_down.pop_front() else { return Ok(()) };
        tell!(self, "client {client} gets {frame:?}");
        let state = &mut self.clients[client];
        match frame {
            Down::Subscribed(id, frame) => {
                let subscribed = state.subscribed(&connection.link, id, &frame, self.planted);
                if !subscribed.map_err(|wrong| format!("client {client}, subscribed: {wrong}"))? {
                    self.tally.skipped_answers += 1;
                    self.cut(client);
                }
            }
            Down::Published { id, published } => drop(state.publisher.published(self.now_ms, id, published)),
            Down::Refused { id, error } => drop(state.publisher.refused(self.now_ms, id, &error)),
            other => return Err(format!("{other:?} on control")),
        }
        Ok(())
    }

    pub(super) fn lane_arrives(&mut self, client: usize) -> Result<(), String> {
        let lane = self.lane();
        let pick = self.rng.random_range(0..64);
        let Some(connection) = &mut self.connections[client] else { return Ok(()) };
        let Some(frame) = connection.link.arrive(lane, pick) else { return Ok(()) };
        tell!(self, "client {client} gets {lane} {frame:?}");
        self.clients[client]
            .durable(&connection.link, lane, frame, self.planted)
            .map_err(|wrong| format!("client {client}, received: {wrong}"))
    }

    /// Looks at publishes that ended.
    pub(super) fn settle(&mut self, client: usize) -> Result<(), String> {
        while let Some((Ticket(payload), settled)) = self.clients[client].publisher.poll_settled() {
            let publish = self.publishes.get_mut(&payload).ok_or("a publish that was never made ended")?;
            if std::mem::replace(&mut publish.settled, true) {
                return Err(format!("publish {payload} ended twice"));
            }
            match settled {
                Settled::Stored(published) => {
                    self.tally.acknowledged += 1;
                    publish.acknowledged = true;
                    let lane = DurableLane::from_wire(published.lane).ok_or("no lane in Published")?;
                    let name = (published.epoch, lane, published.seq);
                    // With seq 0 it proves only that the number was used.
                    if published.seq != 0 && self.store.names.get(&name) != Some(&payload) {
                        return Err(format!("publish {payload} was acknowledged as {name:?}, which is another event"));
                    }
                }
                Settled::Refused { code, .. } => {
                    if !publish.too_large {
                        return Err(format!("publish {payload} was refused for good with {code}"));
                    }
                }
                Settled::GivenUp => self.tally.given_up += 1,
            }
        }
        Ok(())
    }
}
