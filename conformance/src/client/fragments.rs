//! Frames that came in pieces (LC-FRM-030, LC-FRM-031).

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use crate::schema::v1;

/// Transfers of a lane that may be unfinished at once.
const UNFINISHED_MAX: usize = 4;

/// A transfer that goes on.
#[derive(Debug)]
struct Transfer {
    lane: i32,
    total: u64,
    bytes: BytesMut,
}

/// A rule that fragments break.
pub(crate) type Broken = (&'static str, String);

/// Puts the fragments of one sender together.
#[derive(Debug)]
pub(crate) struct Assembler {
    total_max: u64,
    transfers: BTreeMap<u64, Transfer>,
    /// The highest number of a transfer that began.
    last: u64,
}

impl Assembler {
    /// One that takes frames up to that length.
    pub(crate) fn new(total_max: u64) -> Self {
        Self { total_max, transfers: BTreeMap::new(), last: 0 }
    }

    /// Takes a fragment. `Some`: the frame is whole, and these are its bytes.
    pub(crate) fn take(&mut self, fragment: v1::Fragment) -> Result<Option<Bytes>, Broken> {
        let v1::Fragment { transfer: number, lane, total, data } = fragment;
        if total > 0 {
            self.begin(number, lane, total)?;
        }
        let Some(transfer) = self.transfers.get_mut(&number) else {
            return Err(("LC-FRM-030", format!("a fragment of transfer {number}, which has not begun, without total")));
        };
        if transfer.lane != lane {
            return Err(("LC-FRM-030", format!("transfer {number} moved from lane {} to lane {lane}", transfer.lane)));
        }
        transfer.bytes.extend_from_slice(&data);
        let (came, total) = (transfer.bytes.len() as u64, transfer.total);
        if came > total {
            return Err(("LC-FRM-030", format!("transfer {number} has {came} bytes, {total} were announced")));
        }
        if came < total {
            return Ok(None);
        }
        Ok(self.transfers.remove(&number).map(|whole| whole.bytes.freeze()))
    }

    /// Forgets a transfer that its sender gave up.
    pub(crate) fn abort(&mut self, number: u64) {
        self.transfers.remove(&number);
    }

    fn begin(&mut self, number: u64, lane: i32, total: u64) -> Result<(), Broken> {
        if number <= self.last {
            return Err(("LC-FRM-030", format!("transfer {number} begins after {}", self.last)));
        }
        if total > self.total_max {
            return Err(("LC-FRM-005", format!("a transfer of {total} bytes, allowed are {}", self.total_max)));
        }
        if self.transfers.values().filter(|transfer| transfer.lane == lane).count() >= UNFINISHED_MAX {
            return Err(("LC-FRM-031", format!("a transfer beside {UNFINISHED_MAX} unfinished ones of lane {lane}")));
        }
        self.last = number;
        self.transfers.insert(number, Transfer { lane, total, bytes: BytesMut::new() });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Lane;

    fn fragment(transfer: u64, total: u64, data: &'static [u8]) -> v1::Fragment {
        v1::Fragment { transfer, lane: Lane::Bulk.to_wire(), total, data: data.into() }
    }

    #[test]
    fn a_frame_is_whole_when_its_pieces_add_up() {
        let mut assembler = Assembler::new(100);
        assert_eq!(assembler.take(fragment(1, 5, b"ab")), Ok(None));
        assert_eq!(assembler.take(fragment(2, 1, b"x")), Ok(Some(Bytes::from_static(b"x"))));
        assert_eq!(assembler.take(fragment(1, 0, b"cde")), Ok(Some(Bytes::from_static(b"abcde"))));
        assert!(assembler.transfers.is_empty());
    }

    #[test]
    fn pieces_that_do_not_fit_break_a_rule() {
        let rule = |assembler: &mut Assembler, piece| assembler.take(piece).unwrap_err().0;
        let mut assembler = Assembler::new(100);
        assert_eq!(rule(&mut assembler, fragment(1, 0, b"a")), "LC-FRM-030", "without a total");
        assert_eq!(rule(&mut assembler, fragment(1, 101, b"a")), "LC-FRM-005");
        for number in 1..=4 {
            assert_eq!(assembler.take(fragment(number, 5, b"a")), Ok(None));
        }
        assert_eq!(rule(&mut assembler, fragment(5, 5, b"a")), "LC-FRM-031");
        assembler.abort(2);
        assert_eq!(assembler.take(fragment(5, 5, b"a")), Ok(None));
        assert_eq!(rule(&mut assembler, fragment(2, 5, b"a")), "LC-FRM-030", "a number that was used");
        assert_eq!(rule(&mut assembler, fragment(1, 0, b"abcde")), "LC-FRM-030", "too many bytes");
    }
}
