//! What the records of a file of positions say. Their bytes are those of [`crate::disk::record`].

use bytes::Bytes;
use lanecast_protocol::position::Position;
use lanecast_protocol::room::RoomName;
use prost::Message;

use crate::disk::record::{self, Format};
pub(super) use crate::disk::record::{HEADER, Header};

const FORMAT: Format = Format { magic: *b"LCPOSITN", version: 1 };

/// What is in a file.
pub(super) type Scan = record::Scan<Entry>;

/// What a record says.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Entry {
    /// The file was made with so many positions: fewer say that its end is missing.
    #[prost(uint64, tag = "1")]
    Made(u64),
    /// Where a room stands. The last one holds.
    #[prost(message, tag = "2")]
    Place(Place),
}

/// Where a room stands.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Place {
    #[prost(string, tag = "1")]
    pub(super) room: String,
    #[prost(uint64, tag = "2")]
    pub(super) epoch: u64,
    #[prost(uint64, tag = "3")]
    pub(super) urgent: u64,
    #[prost(uint64, tag = "4")]
    pub(super) normal: u64,
    #[prost(uint64, tag = "5")]
    pub(super) bulk: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Record {
    #[prost(oneof = "Entry", tags = "1, 2")]
    entry: Option<Entry>,
}

impl Place {
    pub(super) fn new(room: &str, position: Position) -> Self {
        let Position { epoch, urgent, normal, bulk } = position;
        Self { room: room.to_owned(), epoch, urgent, normal, bulk }
    }

    pub(super) fn position(&self) -> Position {
        Position { epoch: self.epoch, urgent: self.urgent, normal: self.normal, bulk: self.bulk }
    }

    /// Whether a node could be asked to go on there.
    fn is_valid(&self) -> bool {
        RoomName::check(&self.room).is_ok() && self.position().is_in_bounds()
    }
}

/// What every file begins with.
pub(super) fn header() -> Vec<u8> {
    record::header(FORMAT)
}

pub(super) fn read_header(bytes: &[u8]) -> Header {
    record::read_header(FORMAT, bytes)
}

/// Appends a record.
pub(super) fn encode(entry: Entry, into: &mut Vec<u8>) {
    record::encode(&Record { entry: Some(entry) }, into);
}

/// Reads all records from an offset on.
pub(super) fn scan(bytes: &Bytes, from: usize) -> Scan {
    record::scan(bytes, from, |payload| match Record::decode(payload).ok()?.entry? {
        Entry::Place(place) if !place.is_valid() => None,
        entry => Some(entry),
    })
}
