//! Large frames in pieces, so that others pass between them on a transport that folds all lanes into one pipe.
//!
//! ```text
//!  record ──▶ Cut ──▶ Fragment{1, total} Fragment{1} … ──▶ Assembler ──▶ the frame
//!              └────▶ FragmentAbort{1}: the rest is not worth sending any more
//! ```
//!
//! A sender cuts one frame of a lane at a time, so the order inside the lane stays. A receiver takes more, within its
//! bounds, and allocates no more than has arrived.

use bytes::{Bytes, BytesMut};

use crate::codec::{self, CodecError};
use crate::codes::Code;
use crate::lane::Lane;
use crate::v1;
use crate::v1::frame::Body;

/// Longest record that leaves in one on a pipe to a peer that takes fragments, and longest record of a piece: at 10
/// Mbit/s it is 3 ms during which nothing passes.
pub const PIECE_BYTES_MAX: usize = 4 * 1024;
/// What a piece bears beside its data at most: the keys and lengths of record, frame and fragment, and its numbers.
const FRONT_BYTES_MAX: usize = 48;
/// Transfers of one lane that a receiver holds unfinished (LC-FRM-031).
const TRANSFERS_MAX: usize = 4;
/// How long a transfer may be without a piece (LC-FRM-031).
const SILENCE_MS: u64 = 30_000;

/// A record that leaves in pieces.
#[derive(Debug)]
pub(crate) struct Cut {
    transfer: u64,
    lane: Lane,
    /// Bytes of data in a piece.
    piece: usize,
    total: usize,
    /// What of the frame has not left.
    rest: Bytes,
}

impl Cut {
    /// Begins to cut a record into records of at most `bytes_max`. `None` if it is none that has a frame.
    pub(crate) fn new(transfer: u64, lane: Lane, record: &Bytes, bytes_max: usize) -> Option<Self> {
        let rest = codec::records(record.clone(), usize::MAX).next()?.ok()?;
        let piece = bytes_max.saturating_sub(FRONT_BYTES_MAX).max(1);
        Some(Self { transfer, lane, piece, total: rest.len(), rest })
    }

    /// Bytes of the next piece's record at most.
    pub(crate) fn head(&self) -> usize {
        self.rest.len().min(self.piece) + FRONT_BYTES_MAX
    }

    /// Bytes that have not left.
    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    /// The record of the next piece.
    pub(crate) fn next(&mut self) -> Bytes {
        let first = self.rest.len() == self.total;
        let fragment = v1::Fragment {
            transfer: self.transfer,
            lane: self.lane.to_wire().into(),
            total: if first { self.total as u64 } else { 0 },
            data: self.rest.split_to(self.rest.len().min(self.piece)),
        };
        codec::encode_body(0, Body::Fragment(fragment))
    }

    /// The record that says that no further piece follows.
    pub(crate) fn abort(&self) -> Bytes {
        let lane = self.lane.to_wire().into();
        codec::encode_body(0, Body::FragmentAbort(v1::FragmentAbort { transfer: self.transfer, lane, code: 0 }))
    }
}

#[derive(Debug)]
struct Transfer {
    number: u64,
    lane: Lane,
    total: usize,
    data: BytesMut,
    heard_at_ms: u64,
}

/// What a receiver holds of frames of which pieces are missing.
#[derive(Debug, Default)]
pub struct Assembler {
    transfers: Vec<Transfer>,
    /// The highest number that was forgotten because no piece came for too long.
    late_through: u64,
}

impl Assembler {
    /// Takes a piece; returns the encoded frame and its lane once it is whole. `bytes_max` is the longest frame that the
    /// receiver accepts.
    ///
    /// # Errors
    /// TOO_LARGE for a longer one, before anything is kept of it; PROTOCOL for a piece that does not fit; IDLE_TIMEOUT for
    /// one of a transfer that was silent for too long.
    pub fn take(
        &mut self,
        now_ms: u64,
        fragment: v1::Fragment,
        bytes_max: usize,
    ) -> Result<Option<(Lane, Bytes)>, CodecError> {
        let v1::Fragment { transfer: number, lane, total, data } = fragment;
        let lane = Lane::from_wire(lane).ok_or(fault("a fragment without a lane"))?;
        self.forget_silent(now_ms);
        let known = self.transfers.iter().position(|transfer| transfer.number == number);
        let at = match known {
            None if total == 0 && number <= self.late_through => {
                return Err(CodecError { code: Code::IdleTimeout, detail: "the rest of a transfer came too late" });
            }
            None => self.begin(now_ms, number, lane, total, bytes_max)?,
            Some(_) if total != 0 => return Err(fault("a transfer that begins twice")),
            Some(at) => at,
        };
        let transfer = &mut self.transfers[at];
        if transfer.lane != lane {
            return Err(fault("a fragment on another lane than its transfer"));
        }
        if data.len() > transfer.total - transfer.data.len() {
            return Err(fault("more fragments than the transfer has bytes"));
        }
        transfer.heard_at_ms = now_ms;
        transfer.data.extend_from_slice(&data);
        if transfer.data.len() < transfer.total {
            return Ok(None);
        }
        let whole = self.transfers.swap_remove(at);
        Ok(Some((lane, whole.data.freeze())))
    }

    fn begin(
        &mut self,
        now_ms: u64,
        number: u64,
        lane: Lane,
        total: u64,
        bytes_max: usize,
    ) -> Result<usize, CodecError> {
        if number == 0 || total == 0 {
            return Err(fault("a fragment of a transfer that is not under way"));
        }
        if total > bytes_max as u64 {
            return Err(CodecError { code: Code::TooLarge, detail: "a transfer above the limit of a record" });
        }
        if self.transfers.iter().filter(|transfer| transfer.lane == lane).count() == TRANSFERS_MAX {
            return Err(fault("too many unfinished transfers of a lane"));
        }
        let data = BytesMut::new();
        self.transfers.push(Transfer { number, lane, total: total as usize, data, heard_at_ms: now_ms });
        Ok(self.transfers.len() - 1)
    }

    /// The sender gave a transfer up. One that is not known was whole, or forgotten, before.
    pub fn abort(&mut self, abort: &v1::FragmentAbort) {
        self.transfers.retain(|transfer| transfer.number != abort.transfer);
    }

    /// Forgets what was silent for too long.
    pub fn forget_silent(&mut self, now_ms: u64) {
        let late_through = &mut self.late_through;
        self.transfers.retain(|transfer| {
            let silent = transfer.heard_at_ms + SILENCE_MS <= now_ms;
            if silent {
                *late_through = transfer.number.max(*late_through);
            }
            !silent
        });
    }

    /// When [`Self::forget_silent`] has something to do, monotonic ms.
    pub fn poll_timeout(&self) -> Option<u64> {
        self.transfers.iter().map(|transfer| transfer.heard_at_ms + SILENCE_MS).min()
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        self.transfers.iter().map(|transfer| transfer.data.len()).sum()
    }
}

/// Decodes a frame that came in pieces. Pieces of pieces are none.
///
/// # Errors
/// PROTOCOL.
pub(crate) fn decode(frame: Bytes) -> Result<v1::Frame, CodecError> {
    let frame = codec::decode(frame)?;
    match &frame.body {
        Some(Body::Fragment(_) | Body::FragmentAbort(_)) => Err(fault("a fragment in fragments")),
        _ => Ok(frame),
    }
}

const fn fault(detail: &'static str) -> CodecError {
    CodecError { code: Code::Protocol, detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000;
    const LIMIT: usize = 100_000;

    fn fragment(transfer: u64, lane: Lane, total: u64, data: &'static [u8]) -> v1::Fragment {
        v1::Fragment { transfer, lane: lane.to_wire().into(), total, data: Bytes::from_static(data) }
    }

    fn code(result: Result<Option<(Lane, Bytes)>, CodecError>) -> Code {
        result.unwrap_err().code
    }

    fn body(record: Bytes) -> Body {
        let frame = codec::records(record, usize::MAX).next().unwrap().unwrap();
        codec::decode(frame).unwrap().body.unwrap()
    }

    #[test]
    fn a_record_is_cut_and_put_together_again() {
        // LC-FRM-030
        for (len, bytes_max) in [(1, 64), (60, 64), (5_000, 512), (70_000, PIECE_BYTES_MAX)] {
            let event = v1::Event { handle: 7, envelope: vec![9; len].into(), ..Default::default() };
            let record = codec::encode_body(0, Body::Event(event.clone()));
            let mut cut = Cut::new(3, Lane::Bulk, &record, bytes_max).unwrap();
            let mut assembler = Assembler::default();
            let mut whole = None;
            while cut.left() > 0 {
                assert_eq!(whole, None);
                let head = cut.head();
                let piece = cut.next();
                assert!(piece.len() <= head && (head <= bytes_max || bytes_max < 2 * FRONT_BYTES_MAX), "{head}");
                let Body::Fragment(fragment) = body(piece) else { panic!("no fragment") };
                whole = assembler.take(NOW, fragment, LIMIT).unwrap();
            }
            let (lane, frame) = whole.unwrap();
            assert_eq!((lane, codec::decode(frame).unwrap().body), (Lane::Bulk, Some(Body::Event(event))));
            assert_eq!((assembler.bytes(), assembler.poll_timeout()), (0, None));
        }
    }

    #[test]
    fn what_is_too_large_is_refused_before_anything_is_kept() {
        // LC-FRM-031
        let mut assembler = Assembler::default();
        let too_large = fragment(1, Lane::Normal, LIMIT as u64 + 1, b"abc");
        assert_eq!(code(assembler.take(NOW, too_large, LIMIT)), Code::TooLarge);
        let absurd = fragment(1, Lane::Normal, u64::MAX, b"abc");
        assert_eq!(code(assembler.take(NOW, absurd, LIMIT)), Code::TooLarge);
        assert!(assembler.transfers.is_empty());
        assert_eq!(assembler.take(NOW, fragment(1, Lane::Normal, LIMIT as u64, b"abc"), LIMIT), Ok(None));
        assert!(assembler.transfers[0].data.capacity() < 1_000, "the claim of a size allocates nothing");
    }

    #[test]
    fn four_transfers_of_a_lane_are_held() {
        // LC-FRM-031
        let mut assembler = Assembler::default();
        for number in 1..=4 {
            assert_eq!(assembler.take(NOW, fragment(number, Lane::Normal, 9, b"abc"), LIMIT), Ok(None));
        }
        assert_eq!(assembler.take(NOW, fragment(5, Lane::Bulk, 9, b"abc"), LIMIT), Ok(None), "another lane");
        assert_eq!(code(assembler.take(NOW, fragment(6, Lane::Normal, 9, b"abc"), LIMIT)), Code::Protocol);
        assembler.abort(&v1::FragmentAbort { transfer: 2, ..Default::default() });
        assert_eq!(assembler.take(NOW, fragment(7, Lane::Normal, 9, b"abc"), LIMIT), Ok(None));
        assert_eq!(assembler.bytes(), 15);
    }

    #[test]
    fn a_silent_transfer_is_forgotten_and_its_rest_is_late() {
        // LC-FRM-031
        let mut assembler = Assembler::default();
        assert_eq!(assembler.take(NOW, fragment(1, Lane::Normal, 9, b"abc"), LIMIT), Ok(None));
        assert_eq!(assembler.take(NOW + 20_000, fragment(1, Lane::Normal, 0, b"abc"), LIMIT), Ok(None));
        assert_eq!(assembler.poll_timeout(), Some(NOW + 50_000));
        assembler.forget_silent(NOW + 49_999);
        assert_eq!(assembler.bytes(), 6);
        assembler.forget_silent(NOW + 50_000);
        assert_eq!(assembler.bytes(), 0);
        let rest = fragment(1, Lane::Normal, 0, b"abc");
        assert_eq!(code(assembler.take(NOW + 50_000, rest, LIMIT)), Code::IdleTimeout);
        assert_eq!(assembler.take(NOW + 50_000, fragment(2, Lane::Normal, 9, b"abc"), LIMIT), Ok(None));
    }

    #[test]
    fn pieces_that_do_not_fit_are_refused() {
        // LC-FRM-030
        let begun = || {
            let mut assembler = Assembler::default();
            assembler.take(NOW, fragment(1, Lane::Normal, 5, b"abc"), LIMIT).unwrap();
            assembler
        };
        for wrong in [
            fragment(1, Lane::Normal, 0, b"abc"),
            fragment(1, Lane::Bulk, 0, b"ab"),
            fragment(1, Lane::Normal, 5, b"ab"),
            fragment(2, Lane::Normal, 0, b"ab"),
            fragment(0, Lane::Normal, 5, b"ab"),
            v1::Fragment { transfer: 2, lane: 0, total: 5, data: Bytes::from_static(b"ab") },
        ] {
            assert_eq!(code(begun().take(NOW, wrong.clone(), LIMIT)), Code::Protocol, "{wrong:?}");
        }
        let last = fragment(1, Lane::Normal, 0, b"de");
        assert_eq!(begun().take(NOW, last, LIMIT), Ok(Some((Lane::Normal, Bytes::from_static(b"abcde")))));
    }
}
