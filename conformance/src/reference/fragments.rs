//! Frames in pieces: what the reference server holds of them, and how it cuts.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::session::{Fatal, PROTOCOL};
use super::{Mutant, RECORD_BYTES, Shared};
use crate::client::Lane;
use crate::schema;
use crate::schema::v1;
use crate::schema::v1::frame::Body;
use prost::Message as _;

/// Longest record that leaves whole, and data of a piece.
const WHOLE_BYTES: usize = 8 * 1024;
/// Bytes of the longest record of a piece.
pub(super) const PIECE_BYTES_MAX: usize = WHOLE_BYTES + 32;
const UNFINISHED_MAX: usize = 4;
const SILENCE: Duration = Duration::from_secs(30);

struct Transfer {
    lane: i32,
    total: u64,
    data: Vec<u8>,
    heard: Instant,
}

/// Frames of a client of which pieces are missing.
#[derive(Default)]
pub(super) struct Pieces {
    transfers: HashMap<u64, Transfer>,
    /// Transfers that were forgotten: so few that they need no bound here.
    late: Vec<u64>,
}

impl Pieces {
    /// Takes a piece; `Some`: the frame is whole.
    pub(super) fn take(&mut self, shared: &Shared, fragment: v1::Fragment) -> Result<Option<v1::Frame>, Fatal> {
        let v1::Fragment { transfer: number, lane, total, data } = fragment;
        if !shared.is(Mutant::SilentTransferKept) {
            let late = self.transfers.extract_if(|_, transfer| transfer.heard.elapsed() >= SILENCE);
            self.late.extend(late.map(|(number, _)| number));
        }
        if total == 0 && self.late.contains(&number) {
            return Err(Fatal(4201));
        }
        if total > 0 {
            if total > RECORD_BYTES.into() && !shared.is(Mutant::FragmentTotalUnchecked) {
                return Err(Fatal(4003));
            }
            let beside = self.transfers.values().filter(|transfer| transfer.lane == lane).count();
            let full = beside == UNFINISHED_MAX && !shared.is(Mutant::TransfersUnbounded);
            if number == 0 || full || self.transfers.contains_key(&number) {
                return Err(PROTOCOL);
            }
            let transfer = Transfer { lane, total, data: Vec::new(), heard: Instant::now() };
            self.transfers.insert(number, transfer);
        }
        let Some(transfer) = self.transfers.get_mut(&number) else { return Err(PROTOCOL) };
        transfer.data.extend_from_slice(&data);
        transfer.heard = Instant::now();
        let came = transfer.data.len() as u64;
        if transfer.lane != lane || came > transfer.total {
            return Err(PROTOCOL);
        }
        if came < transfer.total {
            return Ok(None);
        }
        let whole = self.transfers.remove(&number).map(|whole| whole.data).unwrap_or_default();
        let frame = v1::Frame::decode(&whole[..]).map_err(|_| PROTOCOL)?;
        let body = frame.body.as_ref();
        let nested = matches!(body, Some(Body::Fragment(_) | Body::FragmentAbort(_)));
        let strays = body.is_some_and(|body| Lane::of_body(body).to_wire() != lane);
        if nested || strays && !shared.is(Mutant::FragmentLaneUnchecked) {
            return Err(PROTOCOL);
        }
        Ok(Some(frame))
    }

    /// The client gave a transfer up.
    pub(super) fn abort(&mut self, number: u64) {
        self.transfers.remove(&number);
    }
}

/// The records of a record's pieces; none if it leaves whole.
pub(super) fn cut(transfer: u64, lane: i32, record: &[u8]) -> Vec<Vec<u8>> {
    let frame = schema::split_records(record).ok().and_then(|frames| frames.first().copied()).unwrap_or_default();
    if record.len() <= WHOLE_BYTES || frame.is_empty() {
        return Vec::new();
    }
    let parts = frame.chunks(WHOLE_BYTES).enumerate();
    let piece = |(at, data): (usize, &[u8])| {
        let total = if at == 0 { frame.len() as u64 } else { 0 };
        let fragment = v1::Fragment { transfer, lane, total, data: data.to_vec().into() };
        schema::record(&v1::Frame { id: 0, body: Some(Body::Fragment(fragment)) }.encode_to_vec())
    };
    parts.map(piece).collect()
}

/// The record with which a transfer ends early.
pub(super) fn abort(transfer: u64, lane: i32) -> Vec<u8> {
    let abort = v1::FragmentAbort { transfer, lane, code: 0 };
    schema::record(&v1::Frame { id: 0, body: Some(Body::FragmentAbort(abort)) }.encode_to_vec())
}
