//! A sink that writes down what it is told.

use std::sync::Arc;

use lanecast_protocol::log::Record;
use lanecast_protocol::position::DurableLane;
use lanecast_protocol::v1;
use parking_lot::Mutex;

use crate::engine::{EngineSink, Signal, Transient};

/// One thing that the sink was told.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Told {
    Appended { room: Arc<str>, epoch: u64, record: Record },
    Transient { room: Arc<str>, lane: DurableLane, mark: v1::TransientMark },
    Signal { room: Arc<str>, signal: Signal },
    Epoch { room: Arc<str>, epoch: u64 },
}

impl Told {
    pub(super) fn room(&self) -> &str {
        match self {
            Self::Appended { room, .. }
            | Self::Transient { room, .. }
            | Self::Signal { room, .. }
            | Self::Epoch { room, .. } => room,
        }
    }
}

/// The sink of the suite.
#[derive(Debug, Default)]
pub(super) struct Recorder(Mutex<Vec<Told>>);

impl Recorder {
    /// What was told since the last call.
    pub(super) fn take(&self) -> Vec<Told> {
        std::mem::take(&mut self.0.lock())
    }
}

impl EngineSink for Recorder {
    fn appended(&self, room: &Arc<str>, epoch: u64, record: &Record) {
        self.0.lock().push(Told::Appended { room: room.clone(), epoch, record: record.clone() });
    }

    fn transient(&self, room: &Arc<str>, event: &Transient, mark: &v1::TransientMark) {
        self.0.lock().push(Told::Transient { room: room.clone(), lane: event.lane, mark: *mark });
    }

    fn signal(&self, room: &Arc<str>, signal: &Signal) {
        self.0.lock().push(Told::Signal { room: room.clone(), signal: signal.clone() });
    }

    fn epoch_changed(&self, room: &Arc<str>, epoch: u64) {
        self.0.lock().push(Told::Epoch { room: room.clone(), epoch });
    }
}
