//! A sink that writes down what it is told.

use std::sync::Arc;

use bytes::Bytes;
use lanecast_protocol::log::Record;
use lanecast_protocol::position::DurableLane;
use lanecast_protocol::v1;
use parking_lot::Mutex;

use crate::engine::{EngineSink, Signal, Transient};

/// One thing that the sink was told.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::engine) enum Told {
    Appended { room: Arc<str>, epoch: u64, record: Record },
    Transient { room: Arc<str>, lane: DurableLane, mark: v1::TransientMark },
    Signal { room: Arc<str>, signal: Signal },
    Epoch { room: Arc<str>, epoch: u64 },
    Missed { room: Arc<str>, lane: DurableLane, count: Option<u64> },
    Jumped { room: Arc<str>, lane: DurableLane },
}

impl Told {
    pub(in crate::engine) fn room(&self) -> &str {
        match self {
            Self::Appended { room, .. }
            | Self::Transient { room, .. }
            | Self::Signal { room, .. }
            | Self::Epoch { room, .. }
            | Self::Missed { room, .. }
            | Self::Jumped { room, .. } => room,
        }
    }
}

/// The sink of the suite.
#[derive(Debug, Default)]
pub(in crate::engine) struct Recorder {
    told: Mutex<Vec<Told>>,
    messages: Mutex<Vec<Bytes>>,
    reachable: Mutex<Vec<bool>>,
    following: Mutex<Vec<bool>>,
}

impl Recorder {
    /// What was told since the last call.
    pub(in crate::engine) fn take(&self) -> Vec<Told> {
        std::mem::take(&mut self.told.lock())
    }

    /// What was told of the store, from the start.
    pub(in crate::engine) fn reachable(&self) -> Vec<bool> {
        self.reachable.lock().clone()
    }

    /// What was told of following, from the start.
    pub(in crate::engine) fn following(&self) -> Vec<bool> {
        self.following.lock().clone()
    }

    /// The messages of nodes since the last call.
    pub(in crate::engine) fn messages(&self) -> Vec<Bytes> {
        std::mem::take(&mut self.messages.lock())
    }
}

impl EngineSink for Recorder {
    fn appended(&self, room: &Arc<str>, epoch: u64, record: &Record) {
        self.told.lock().push(Told::Appended { room: room.clone(), epoch, record: record.clone() });
    }

    fn transient(&self, room: &Arc<str>, event: &Transient, mark: &v1::TransientMark) {
        self.told.lock().push(Told::Transient { room: room.clone(), lane: event.lane, mark: *mark });
    }

    fn signal(&self, room: &Arc<str>, signal: &Signal) {
        self.told.lock().push(Told::Signal { room: room.clone(), signal: signal.clone() });
    }

    fn epoch_changed(&self, room: &Arc<str>, epoch: u64) {
        self.told.lock().push(Told::Epoch { room: room.clone(), epoch });
    }

    fn jumped(&self, room: &Arc<str>, lane: DurableLane) {
        self.told.lock().push(Told::Jumped { room: room.clone(), lane });
    }

    fn transients_missed(&self, room: &Arc<str>, lane: DurableLane, count: Option<u64>) {
        self.told.lock().push(Told::Missed { room: room.clone(), lane, count });
    }

    fn reachable(&self, reachable: bool) {
        self.reachable.lock().push(reachable);
    }

    fn following(&self, following: bool) {
        self.following.lock().push(following);
    }

    fn told(&self, message: &Bytes) {
        self.messages.lock().push(message.clone());
    }
}
