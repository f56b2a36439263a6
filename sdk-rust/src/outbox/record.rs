//! What the records of an outbox file say. Their bytes are those of [`crate::disk::record`].

use bytes::Bytes;
use prost::Message;

use crate::disk::record::{self, Format};
pub(super) use crate::disk::record::{HEADER, Header};

const FORMAT: Format = Format { magic: *b"LCOUTBOX", version: 1 };

/// What is in a file.
pub(super) type Scan = record::Scan<Entry>;

/// What a record says.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Entry {
    /// Whose outbox it is. The last one holds.
    #[prost(message, tag = "1")]
    Identity(Identity),
    /// A publish was queued.
    #[prost(message, tag = "2")]
    Item(Item),
    /// The publish with this id has ended.
    #[prost(uint64, tag = "3")]
    Ended(u64),
}

/// Who publishes from the file.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Identity {
    /// The instance id.
    #[prost(string, tag = "1")]
    pub(super) instance: String,
    /// How often the outbox was opened.
    #[prost(uint64, tag = "2")]
    pub(super) start: u64,
    /// No publish has a higher number. Reaches the disk before a publish with a higher one is reported as queued.
    #[prost(uint64, tag = "3")]
    pub(super) reserved: u64,
    /// Whose publishes these are, as far as a node has said it.
    #[prost(string, optional, tag = "4")]
    pub(super) user: Option<String>,
}

/// A queued publish.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Item {
    /// Names it in this file; rises.
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(string, tag = "2")]
    pub(crate) room: String,
    /// As on the wire.
    #[prost(int32, tag = "3")]
    pub(crate) lane: i32,
    #[prost(uint64, tag = "4")]
    pub(crate) number: u64,
    #[prost(bytes = "bytes", tag = "5")]
    pub(crate) envelope: Bytes,
    /// How long the event lives at the node, ms; 0: for ever.
    #[prost(uint32, tag = "6")]
    pub(crate) ttl_ms: u32,
    /// As on the wire.
    #[prost(int32, tag = "7")]
    pub(crate) ack: i32,
    /// When it was queued, ms by the device's clock.
    #[prost(uint64, tag = "8")]
    pub(crate) queued_at_ms: u64,
    /// How long it may wait for its node, ms.
    #[prost(uint64, tag = "9")]
    pub(crate) keep_ms: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Record {
    #[prost(oneof = "Entry", tags = "1, 2, 3")]
    entry: Option<Entry>,
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
    record::scan(bytes, from, |payload| Record::decode(payload).ok()?.entry)
}

#[cfg(test)]
mod tests;
