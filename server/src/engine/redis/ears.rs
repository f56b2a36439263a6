//! What the subscribers hear, and who is told.

use std::sync::Arc;

use bytes::Bytes;

use super::Inner;
use super::follow::Need;
use super::keys::{Channel, Kind};
use super::record::Message;
use super::subscriber::Listener;

/// The listener of the subscribers.
pub(super) struct Ears(pub(super) Arc<Inner>);

impl Listener for Ears {
    fn confirmed(&self, kind: Kind, channel: &str) {
        match self.0.keys.parse(kind, channel) {
            Some(Channel::Room(room)) => {
                if let Some(room) = self.0.rooms.find(room) {
                    self.0.join_if_on(&room);
                }
            }
            Some(Channel::Nodes) => self.0.cluster.changed.notify_waiters(),
            Some(Channel::Probe) | None => {}
        }
    }

    fn settled(&self, _: Kind) {
        self.0.probes.hurry();
    }

    fn message(&self, kind: Kind, channel: &str, payload: Bytes) {
        match self.0.keys.parse(kind, channel) {
            Some(Channel::Probe) => self.0.probes.arrived(kind, &payload),
            Some(Channel::Nodes) => self.0.sink.told(&payload),
            Some(Channel::Room(name)) => {
                let Some(room) = self.0.rooms.find(name) else { return };
                let need = match Message::parse(payload) {
                    Some(message) => room.told.lock().hear(&*self.0.sink, &room.name, self.0.clock.now_ms(), message),
                    // Of a later version: the log will tell.
                    None => Need::Open,
                };
                self.0.serve(room, need);
            }
            None => {}
        }
    }

    fn connected(&self, kind: Kind, connected: bool) {
        if kind == Kind::Events {
            self.0.sink.following(connected);
        }
        if !connected {
            self.0.link.doubt();
        }
    }
}
