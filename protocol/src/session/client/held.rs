//! Frames that came before the Subscribed that names their handle.

use std::collections::{BTreeSet, VecDeque};

use super::frames::handle_of;
use super::{DROPPED_HANDLES_MAX, HELD_BYTES_MAX, HELD_MS};
use crate::v1::frame::Body;

pub(super) struct HeldFrame {
    pub(super) at_ms: u64,
    pub(super) bytes: usize,
    pub(super) body: Body,
}

/// Frames whose handle is not known yet, oldest first.
#[derive(Default)]
pub(super) struct Held {
    pub(super) frames: VecDeque<HeldFrame>,
    pub(super) bytes: usize,
    /// Handles of which frames were dropped: once one is known, its room is subscribed again, since nothing else need
    /// show that something is missing.
    pub(super) dropped: BTreeSet<u64>,
}

impl Held {
    /// Keeps a frame; false if there is no room for it.
    pub(super) fn push(&mut self, frame: HeldFrame) -> bool {
        if self.bytes + frame.bytes > HELD_BYTES_MAX {
            self.drop_frame(&frame);
            return false;
        }
        self.bytes += frame.bytes;
        self.frames.push_back(frame);
        true
    }

    pub(super) fn drop_all(&mut self) {
        self.bytes = 0;
        for frame in std::mem::take(&mut self.frames) {
            self.drop_frame(&frame);
        }
    }

    pub(super) fn drop_frame(&mut self, frame: &HeldFrame) {
        if self.dropped.len() == DROPPED_HANDLES_MAX {
            // Handles rise, so the lowest is the likeliest to have ended.
            self.dropped.pop_first();
        }
        self.dropped.extend(handle_of(&frame.body));
    }

    pub(super) fn expires_at_ms(&self) -> Option<u64> {
        self.frames.front().map(|frame| frame.at_ms + HELD_MS)
    }
}
