//! What an application has seen of its rooms, checked as it comes: law 1, as the application knows it.

use std::collections::BTreeMap;

use lanecast_protocol::inbox::{Delivery, Item};
use lanecast_protocol::position::{DurableLane, PerLane, Position};
use lanecast_protocol::tracker::SeqGap;
use lanecast_protocol::v1::{self, GapCause};
use prost::Message;

/// What stands for a seq.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// An event with that text.
    Event(String),
    /// A gap.
    Gap(GapCause),
}

/// One lane of a room.
#[derive(Debug, Default)]
pub struct LaneLedger {
    /// The seq before the first that the subscription covers.
    pub base: u64,
    /// What stands for each seq since.
    pub seen: BTreeMap<u64, Seen>,
    /// Seqs that were seen and then revoked.
    pub revoked: u64,
    /// Gaps as they came.
    pub gaps: Vec<SeqGap>,
    /// Transient events, and those that gaps counted.
    pub transients: u64,
    pub transients_lost: u64,
    /// The texts of the transient events.
    pub transient_texts: Vec<String>,
}

impl LaneLedger {
    /// The texts of the events, by seq.
    pub fn texts(&self) -> Vec<&str> {
        fn text(seen: &Seen) -> Option<&str> {
            match seen {
                Seen::Event(text) => Some(text.as_str()),
                Seen::Gap(_) => None,
            }
        }
        self.seen.values().filter_map(text).collect()
    }

    pub fn delivered(&self) -> u64 {
        self.texts().len() as u64
    }

    pub fn missing(&self) -> u64 {
        self.seen.len() as u64 - self.delivered()
    }

    /// Every seq after the base is there, once.
    pub fn check(&self, head: u64) {
        let expected = self.base + 1..=head;
        assert!(self.seen.keys().copied().eq(expected.clone()), "expected {expected:?}, seen {:?}", spans(&self.seen));
    }
}

fn spans(seen: &BTreeMap<u64, Seen>) -> Vec<(u64, u64)> {
    let mut spans: Vec<(u64, u64)> = Vec::new();
    for &seq in seen.keys() {
        match spans.last_mut() {
            Some((_, to)) if *to + 1 == seq => *to = seq,
            _ => spans.push((seq, seq)),
        }
    }
    spans
}

/// One room.
#[derive(Debug, Default)]
pub struct Ledger {
    begun: bool,
    pub epoch: u64,
    pub lanes: PerLane<LaneLedger>,
    /// Transients missed while away, as far as a number was given, and how often none was.
    pub missed_while_away: u64,
    pub missed_unknown: u64,
    /// Lanes in the order in which items came.
    pub order: Vec<(DurableLane, u64)>,
}

impl Ledger {
    /// Where the room begins: the position before anything was taken.
    pub fn begin(&mut self, position: Position) {
        if !self.begun {
            self.begun = true;
            self.epoch = position.epoch;
            for lane in DurableLane::ALL {
                self.lanes[lane].base = position.seq(lane);
            }
        }
    }

    /// Takes an item; `overtaking` says that urgent events may overtake one another.
    pub fn take(&mut self, item: Item, overtaking: bool) {
        match item {
            Item::Event(delivery) => self.event(&delivery, overtaking),
            Item::Gap(gap) if gap.cause == GapCause::RolledBack => self.roll_back(gap),
            Item::Gap(gap) => self.gap(gap, overtaking),
            Item::TransientGap { lane: Some(lane), count: Some(count), .. } => {
                self.lanes[lane].transients_lost += count
            }
            Item::TransientGap { lane: None, count: Some(count), .. } => self.missed_while_away += count,
            Item::TransientGap { count: None, .. } => self.missed_unknown += 1,
        }
    }

    fn event(&mut self, delivery: &Delivery, overtaking: bool) {
        let event = &delivery.event;
        let lane = DurableLane::from_wire(event.lane).expect("events have a durable lane");
        let text = text_of(&event.envelope);
        if event.seq == 0 {
            self.lanes[lane].transients += 1;
            self.lanes[lane].transient_texts.push(text);
            return;
        }
        assert!(delivery.epoch >= self.epoch, "epochs rise");
        self.epoch = delivery.epoch;
        self.order.push((lane, event.seq));
        self.put(lane, event.seq, Seen::Event(text), overtaking);
    }

    fn gap(&mut self, gap: SeqGap, overtaking: bool) {
        assert_ne!(gap.cause, GapCause::Filtered, "filtered gaps are not shown");
        self.lanes[gap.lane].gaps.push(gap);
        for seq in gap.from..=gap.to.expect("only rolled-back gaps have no upper end") {
            self.put(gap.lane, seq, Seen::Gap(gap.cause), overtaking);
        }
    }

    fn put(&mut self, lane: DurableLane, seq: u64, what: Seen, overtaking: bool) {
        let ledger = &mut self.lanes[lane];
        assert!(seq > ledger.base, "{lane} {seq} is before the beginning {}", ledger.base);
        if !(overtaking && lane == DurableLane::Urgent) {
            let last = ledger.seen.last_key_value().map_or(ledger.base, |(seq, _)| *seq);
            assert_eq!(seq, last + 1, "{lane} in the order of the seqs");
        }
        let before = ledger.seen.insert(seq, what);
        assert_eq!(before, None, "{lane} {seq} came twice");
    }

    fn roll_back(&mut self, gap: SeqGap) {
        let ledger = &mut self.lanes[gap.lane];
        ledger.gaps.push(gap);
        let gone = ledger.seen.split_off(&gap.from);
        assert!(gap.to.is_none_or(|to| gone.keys().all(|seq| *seq <= to)), "a rolled-back gap covers all that came");
        ledger.revoked += gone.values().filter(|seen| matches!(seen, Seen::Event(_))).count() as u64;
        if gap.to.is_none() {
            // Another life of the log begins, whose numbers are its own.
            ledger.seen.clear();
            ledger.base = 0;
        }
    }

    pub fn gaps(&self) -> impl Iterator<Item = &SeqGap> {
        self.lanes.iter().flat_map(|(_, lane)| &lane.gaps)
    }
}

/// An envelope that carries a text.
pub fn envelope(text: &str) -> bytes::Bytes {
    keyed("", text)
}

/// An envelope with a key.
pub fn keyed(key: &str, text: &str) -> bytes::Bytes {
    let body = Some(v1::envelope::Body::Text(text.into()));
    v1::Envelope { r#type: "test".into(), key: key.into(), body, ..Default::default() }.encode_to_vec().into()
}

/// The text of an envelope.
pub fn text_of(envelope: &bytes::Bytes) -> String {
    match v1::Envelope::decode(envelope.clone()).expect("an envelope").body {
        Some(v1::envelope::Body::Text(text)) => text,
        other => panic!("no text: {other:?}"),
    }
}
