//! What a file of positions keeps: over openings, torn ends and damage.

use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;

use super::*;
use crate::disk::DAMAGED_FILES_MAX;

/// A folder of a test's own, removed with it.
pub(in crate::positions) struct Folder(PathBuf);

impl Folder {
    pub(in crate::positions) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("lanecast-positions-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(in crate::positions) fn path(&self) -> PathBuf {
        self.0.join("positions")
    }

    fn open(&self) -> (PositionsFile, Vec<Row>) {
        PositionsFile::open(&self.path()).unwrap()
    }

    fn fails(&self) -> ConnectError {
        PositionsFile::open(&self.path()).unwrap_err()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn row(room: &str, normal: u64) -> Row {
    (room.into(), Position { epoch: 7, urgent: 1, normal, bulk: 3 })
}

/// A file made with rooms a and b, to which b, c and a were appended; and the places of its records.
fn five(folder: &Folder) -> (Vec<u8>, Vec<Range<usize>>) {
    let (mut file, _) = folder.open();
    file.rewrite(&[row("a", 1), row("b", 1)]).unwrap();
    for row in [row("b", 2), row("c", 1), row("a", 2)] {
        file.append(&[row]).unwrap();
    }
    drop(file);
    let bytes = fs::read(folder.path()).unwrap();
    let places = record::scan(&bytes.clone().into(), HEADER).records.into_iter().map(|found| found.place).collect();
    (bytes, places)
}

/// What is left when this record is wrong: that of the making, a, b, and what was appended.
fn left_without(record: usize) -> Vec<Row> {
    match record {
        // An older one, of which what follows comes twice.
        3 => vec![row("b", 1), row("c", 1), row("a", 2)],
        4 => vec![row("b", 2), row("a", 2)],
        5 => vec![row("a", 1), row("b", 2), row("c", 1)],
        _ => vec![row("b", 2), row("c", 1), row("a", 2)],
    }
}

#[test]
fn the_last_position_of_each_room_is_found() {
    // LC-SDK-005
    let folder = Folder::new();
    assert_eq!(folder.open().1, []);
    five(&folder);
    for _ in 0..3 {
        assert_eq!(folder.open().1, [row("b", 2), row("c", 1), row("a", 2)], "those first that moved first");
    }
}

#[test]
fn a_torn_end_is_dropped_in_silence_at_every_byte() {
    let folder = Folder::new();
    let (bytes, places) = five(&folder);
    for end in places[5].start..places[5].end {
        fs::write(folder.path(), &bytes[..end]).unwrap();
        assert_eq!(folder.open().1, left_without(5), "cut at {end}");
    }
}

#[test]
fn a_wrong_byte_is_told_and_costs_only_its_record() {
    // LC-SDK-024
    let folder = Folder::new();
    let (whole, places) = five(&folder);
    for (record, place) in places.iter().enumerate() {
        for at in place.clone() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            let old = Old::read(&folder.path(), &bytes.into()).unwrap();
            assert_eq!(old.rows, left_without(record), "byte {at} of record {record}");
            assert_eq!(old.damage, Some(Damage { offset: place.start, bytes: place.len() }));
        }
    }
    let mut bytes = whole.clone();
    bytes[places[4].start] ^= 1;
    fs::write(folder.path(), &bytes).unwrap();
    let error = folder.fails();
    assert_eq!((error.kind, error.retryable), (ConnectErrorKind::PositionsDamaged, true));
    assert!(error.detail.contains("The positions of 2 rooms are intact"), "{}", error.detail);
    assert_eq!(fs::read(folder.0.join("positions.damaged-1")).unwrap(), bytes);
    assert_eq!(folder.open().1, left_without(4), "connecting again goes on");
}

#[test]
fn a_file_without_its_beginning_or_its_end_is_damaged() {
    // LC-SDK-024
    let folder = Folder::new();
    let (bytes, places) = five(&folder);
    for cut in [3, HEADER, places[1].start] {
        let old = Old::read(&folder.path(), &bytes[cut..].to_vec().into()).unwrap();
        assert_eq!((old.rows, old.damage.unwrap().offset), (left_without(0), 0), "cut at {cut}");
    }
    for end in HEADER..places[2].end {
        let old = Old::read(&folder.path(), &bytes[..end].to_vec().into()).unwrap();
        assert!(old.damage.is_some(), "cut at {end}, before what was appended");
    }
}

#[test]
fn what_is_not_understood_is_not_touched() {
    // LC-SDK-024
    let folder = Folder::new();
    let (mut bytes, _) = five(&folder);
    bytes[8] = 2;
    let checksum = crc32fast::hash(&bytes[..12]);
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    for (bytes, kind) in [
        (bytes, ConnectErrorKind::PositionsVersion),
        (b"my diary".to_vec(), ConnectErrorKind::PositionsFile),
        (vec![0; 4096], ConnectErrorKind::PositionsFile),
    ] {
        fs::write(folder.path(), &bytes).unwrap();
        let error = folder.fails();
        assert_eq!(error.kind, kind);
        assert!(error.detail.contains("was not touched"), "{}", error.detail);
        assert_eq!(fs::read(folder.path()).unwrap(), bytes);
    }
}

#[test]
fn a_position_that_no_node_can_have_given_is_damage() {
    let folder = Folder::new();
    let (mut bytes, _) = five(&folder);
    let far = Position { epoch: u64::MAX, ..row("", 0).1 };
    record::encode(Entry::Place(Place::new("d", far)), &mut bytes);
    record::encode(Entry::Place(Place::new("", row("", 1).1)), &mut bytes);
    let old = Old::read(&folder.path(), &bytes.into()).unwrap();
    assert!(old.damage.is_some() && old.rows.len() == 3);
}

#[test]
fn damaged_files_are_kept_and_bounded() {
    let folder = Folder::new();
    let (bytes, places) = five(&folder);
    for round in 1..=DAMAGED_FILES_MAX + 2 {
        let mut bytes = bytes.clone();
        bytes[places[3].end - 1] ^= round as u8;
        fs::write(folder.path(), &bytes).unwrap();
        let aside = format!("positions.damaged-{}", round.min(DAMAGED_FILES_MAX));
        assert!(folder.fails().detail.contains(&aside));
    }
    assert_eq!(fs::read_dir(&folder.0).unwrap().count() as u32, DAMAGED_FILES_MAX + 2);
}

#[test]
fn a_file_is_open_once() {
    let folder = Folder::new();
    let open = folder.open();
    let error = folder.fails();
    assert_eq!((error.kind, error.retryable), (ConnectErrorKind::PositionsLocked, true));
    drop(open);
    folder.open();
}

#[test]
fn the_file_stays_small() {
    let folder = Folder::new();
    let (mut file, _) = folder.open();
    let mut rewritten = 0;
    for normal in 0..100_000 {
        file.append(&[row("a", normal)]).unwrap();
        if file.wants_rewrite() {
            file.rewrite(&[row("a", normal)]).unwrap();
            rewritten += 1;
        }
        assert!(file.length <= GROWTH_BYTES + 1000);
    }
    assert!(rewritten >= 2, "{rewritten}");
    drop(file);
    assert_eq!(folder.open().1, [row("a", 99_999)]);
}

#[test]
fn the_newest_rooms_are_kept() {
    let folder = Folder::new();
    let (mut file, _) = folder.open();
    let rows: Vec<_> = (0..ROOMS_MAX + 10).map(|room| row(&format!("room.{room}"), 1)).collect();
    file.append(&rows).unwrap();
    drop(file);
    assert_eq!(folder.open().1, rows[10..]);
}

#[test]
fn what_could_not_be_written_is_written_with_the_next() {
    let folder = Folder::new();
    let (mut file, _) = folder.open();
    // A file that takes no bytes, as on a full disk.
    file.file = File::open(folder.path()).unwrap();
    assert!(file.append(&[row("a", 1)]).is_err());
    assert!(file.wants_rewrite());
    file.rewrite(&[row("a", 1), row("b", 1)]).unwrap();
    assert!(!file.wants_rewrite());
    drop(file);
    assert_eq!(folder.open().1, [row("a", 1), row("b", 1)]);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), known in any::<bool>()) {
        if known {
            bytes.splice(0..0, record::header());
        }
        let _ = Old::read(Path::new("x"), &bytes.into());
    }
}
