//! Which seqs of one lane of a room a connection may still get, on a transport whose streams overtake each other.
//!
//! A Subscribe for a subscribed room moves the node's place, and what was already on its way arrives all the same
//! (LC-SUB-007, LC-SUB-008). So a lane has *runs*, one for each Subscribed. On an ordered lane the runs arrive one after
//! the other, each broken off where the next began; as several places may fit what came, all that fit are kept. In lane
//! urgent events overtake one another (LC-QUIC-004), so what counts there is how often a seq came; each may come once more
//! than it is sent for (LC-QUIC-014).

use std::collections::BTreeMap;

/// How far an urgent event may be above the lowest one that is still missing.
const WINDOW: u64 = 64;

/// Why a seq cannot come now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unexpected(pub String);

/// One lane.
#[derive(Debug, Default)]
pub(super) struct Track {
    urgent: bool,
    /// Where each run begins: the seq before its first.
    starts: Vec<u64>,
    /// Ordered lanes: the places that fit what came, as run and last seq.
    places: Vec<(usize, u64)>,
    /// Lane urgent: how often seqs came, those above the lowest missing one of the only run.
    came: BTreeMap<u64, usize>,
    /// Lane urgent: all seqs up to this one came, or lie before every run.
    below: u64,
    /// Lane urgent: how many copies of the events that came may still come.
    copies: BTreeMap<u64, usize>,
}

impl Track {
    pub(super) fn new(urgent: bool) -> Self {
        Self { urgent, ..Self::default() }
    }

    /// A Subscribed that begins after this seq.
    pub(super) fn begin(&mut self, after: u64) {
        if self.starts.is_empty() {
            self.places.push((0, after));
            self.below = after;
        }
        self.starts.push(after);
    }

    /// Whether these seqs can come now.
    pub(super) fn fits(&self, from: u64, to: u64) -> bool {
        if !self.urgent {
            return !self.places_after(from, to).is_empty();
        }
        (from..=to).all(|seq| self.came.get(&seq).copied().unwrap_or(0) < self.runs_with(seq))
    }

    /// An event of this seq came.
    pub(super) fn take_event(&mut self, seq: u64) -> Result<(), Unexpected> {
        if self.urgent
            && !self.fits(seq, seq)
            && let Some(copies) = self.copies.get_mut(&seq).filter(|copies| **copies > 0)
        {
            *copies -= 1;
            return Ok(());
        }
        self.take(seq, seq)?;
        if self.urgent {
            *self.copies.entry(seq).or_default() += 1;
        }
        Ok(())
    }

    /// Seqs from `from` to `to` came, in an event or in a gap.
    pub(super) fn take(&mut self, from: u64, to: u64) -> Result<(), Unexpected> {
        if self.urgent { self.take_urgent(from, to) } else { self.take_next(from, to) }
    }

    /// The runs that bring a seq.
    fn runs_with(&self, seq: u64) -> usize {
        self.starts.iter().filter(|start| **start < seq).count()
    }

    /// The places of an ordered lane that fit once these seqs came.
    fn places_after(&self, from: u64, to: u64) -> Vec<(usize, u64)> {
        let mut fitting = Vec::new();
        for &(run, last) in &self.places {
            let begins = |later: &usize| self.starts[*later] + 1 == from;
            if last + 1 == from {
                fitting.push((run, to));
            }
            fitting.extend((run + 1..self.starts.len()).filter(begins).map(|later| (later, to)));
        }
        fitting.sort_unstable();
        fitting.dedup();
        fitting
    }

    fn take_next(&mut self, from: u64, to: u64) -> Result<(), Unexpected> {
        let fitting = self.places_after(from, to);
        if fitting.is_empty() {
            let next = self.places.last().map_or(0, |(_, last)| last + 1);
            return Err(Unexpected(format!("seq {from} came, {next} follows")));
        }
        self.places = fitting;
        Ok(())
    }

    fn take_urgent(&mut self, from: u64, to: u64) -> Result<(), Unexpected> {
        for seq in from..=to {
            let runs = self.runs_with(seq);
            let came = self.came.entry(seq).or_default();
            if *came >= runs {
                return Err(Unexpected(format!("seq {seq} came again, or before the position")));
            }
            *came += 1;
        }
        if self.starts.len() > 1 {
            return Ok(());
        }
        while self.came.remove(&(self.below + 1)).is_some() {
            self.below += 1;
            // Further runs would need it again.
            self.starts[0] = self.below;
        }
        if to > self.below + 1 + WINDOW {
            return Err(Unexpected(format!("seq {to} came while {} is missing", self.below + 1)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(track: &mut Track, seqs: &[u64]) -> Vec<bool> {
        seqs.iter().map(|seq| track.take(*seq, *seq).is_ok()).collect()
    }

    #[test]
    fn an_ordered_lane_takes_the_next_seq_only() {
        let mut track = Track::new(false);
        track.begin(2);
        assert_eq!(takes(&mut track, &[3, 5, 4, 4]), [true, false, true, false]);
        assert!(track.take(5, 9).is_ok());
        assert_eq!(takes(&mut track, &[10]), [true]);
    }

    #[test]
    fn what_was_on_its_way_may_come_after_a_move() {
        let mut track = Track::new(false);
        track.begin(0);
        assert_eq!(takes(&mut track, &[1]), [true]);
        track.begin(1);
        // 2 of the former place, 2 of the new one, and never a third.
        assert_eq!(takes(&mut track, &[2, 3, 2, 3, 4, 2]), [true, true, true, true, true, false]);
        track.begin(0);
        assert_eq!(takes(&mut track, &[5, 1, 2, 6]), [true, true, true, false]);
    }

    #[test]
    fn an_urgent_event_may_come_once_more() {
        let mut track = Track::new(true);
        track.begin(4);
        let seqs = [4, 4, 6, 6, 6, 5, 5, 6, 5, 7];
        let taken = seqs.map(|seq| track.take_event(seq).is_ok());
        assert_eq!(taken, [false, false, true, true, false, true, true, false, false, true]);
        assert!(track.take(7, 7).is_err(), "a gap comes once");
        assert!(track.take(8, 9).is_ok() && track.take_event(8).is_err(), "no event of what a gap covered");
        let mut track = Track::new(false);
        track.begin(4);
        assert_eq!([5, 5].map(|seq| track.take_event(seq).is_ok()), [true, false]);
    }

    #[test]
    fn urgent_seqs_come_once_each_within_the_window() {
        let mut track = Track::new(true);
        track.begin(0);
        assert_eq!(takes(&mut track, &[2, 65, 66, 2, 1, 1, 67]), [true, true, false, false, true, false, true]);
        let mut track = Track::new(true);
        track.begin(4);
        assert_eq!(takes(&mut track, &[4, 6, 5]), [false, true, true]);
        track.begin(5);
        assert_eq!(takes(&mut track, &[6, 6]), [true, false]);
    }
}
