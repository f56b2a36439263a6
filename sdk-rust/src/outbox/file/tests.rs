//! What an outbox file keeps: over openings, torn ends, damage, and disks that do not take it.

use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;

use super::*;
use crate::disk::DAMAGED_FILES_MAX;

/// A folder of a test's own, removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("lanecast-outbox-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self) -> PathBuf {
        self.0.join("outbox")
    }

    fn open(&self) -> (OutboxFile, Contents) {
        OutboxFile::open(&self.path(), OutboxSync::Process).unwrap()
    }

    /// The error of opening it.
    fn fails(&self) -> ConnectError {
        OutboxFile::open(&self.path(), OutboxSync::Process).unwrap_err()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn item(id: u64, text: &str) -> Item {
    Item {
        id,
        room: format!("room.{}", id % 3),
        lane: 2 + (id % 3) as i32,
        number: 100 + id,
        envelope: Bytes::copy_from_slice(text.as_bytes()),
        ttl_ms: 7,
        ack: 2,
        queued_at_ms: 1000 + id,
        keep_ms: 50_000,
    }
}

fn queue(file: &mut OutboxFile, ids: impl IntoIterator<Item = u64>) {
    for id in ids {
        file.write(&[Change::Queue(item(id, &format!("text {id}")))]).unwrap();
    }
}

fn ids(contents: &Contents) -> Vec<u64> {
    contents.items.iter().map(|item| item.id).collect()
}

/// A file with the items 1 to 6, of which 2 has ended, not yet rewritten; and the places of its records.
fn six(folder: &Folder) -> (Vec<u8>, Vec<Range<usize>>) {
    let (mut file, _) = folder.open();
    file.write(&[Change::User("ann".into())]).unwrap();
    queue(&mut file, 1..=6);
    file.write(&[Change::End(2)]).unwrap();
    drop(file);
    let bytes = fs::read(folder.path()).unwrap();
    let scan = record::scan(&bytes.clone().into(), HEADER);
    let places = scan.records.into_iter().map(|found| found.place).collect();
    (bytes, places)
}

#[test]
fn an_opening_finds_what_has_not_ended_as_it_was_queued() {
    // LC-SDK-016, LC-SIG-012
    let folder = Folder::new();
    let (file, first) = folder.open();
    assert_eq!((first.start, first.floor, &first.user, ids(&first)), (1, 0, &None, vec![]));
    assert!(first.instance.len() == 32);
    drop(file);
    six(&folder);
    for opening in 3..6 {
        let (_file, contents) = folder.open();
        assert_eq!((&contents.instance, contents.start), (&first.instance, opening));
        assert_eq!(contents.user.as_deref(), Some("ann"));
        let expected: Vec<_> = [1, 3, 4, 5, 6].map(|id| item(id, &format!("text {id}"))).into();
        assert_eq!(contents.items, expected);
        assert!(contents.floor >= 106);
    }
}

#[test]
fn no_number_is_used_twice_even_if_the_end_of_the_file_is_gone() {
    // LC-PUB-026: after a power loss the file may be older than what was sent.
    let folder = Folder::new();
    let (mut file, contents) = folder.open();
    let after_opening = fs::read(folder.path()).unwrap();
    let far = Item { number: contents.floor + RESERVED, ..item(1, "sent") };
    file.write(&[Change::Queue(far.clone())]).unwrap();
    drop(file);
    fs::write(folder.path(), &after_opening).unwrap();
    let (mut file, contents) = folder.open();
    assert!(contents.floor >= far.number, "{} is below {}", contents.floor, far.number);
    // Beyond what is reserved, a reservation goes before.
    let farther = Item { number: contents.floor + RESERVED + 1, ..item(2, "") };
    file.write(&[Change::Queue(farther.clone())]).unwrap();
    let bytes = Bytes::from(fs::read(folder.path()).unwrap());
    let records = record::scan(&bytes, HEADER).records;
    let [.., Entry::Identity(identity), Entry::Item(_)] =
        &records.into_iter().map(|found| found.entry).collect::<Vec<_>>()[..]
    else {
        panic!("no reservation before the item");
    };
    assert!(identity.reserved > farther.number);
}

#[test]
fn a_torn_end_is_dropped_in_silence_at_every_byte() {
    let folder = Folder::new();
    let (bytes, places) = six(&folder);
    // The last record but one queues 6: a process killed while it was written had not reported it.
    let last = &places[places.len() - 2];
    for end in last.start..last.end {
        fs::write(folder.path(), &bytes[..end]).unwrap();
        let (_file, contents) = folder.open();
        assert_eq!(ids(&contents), [1, 2, 3, 4, 5], "cut at {end} of {last:?}");
    }
    assert_eq!(folder.names(), ["outbox", "outbox.lock"]);
}

/// What is left when a byte of this part is wrong: the header, two copies of the identity, the user, items 1 to 6, and that
/// 2 has ended.
fn left_without(part: usize) -> Vec<u64> {
    match part {
        0..=3 => vec![1, 3, 4, 5, 6],
        4..=9 => [1, 3, 4, 5, 6].into_iter().filter(|id| *id != part as u64 - 3).collect(),
        // It is sent again, and is a duplicate.
        _ => (1..=6).collect(),
    }
}

#[test]
fn a_flipped_byte_costs_only_its_record() {
    // LC-SDK-018
    let folder = Folder::new();
    let (bytes, places) = six(&folder);
    let whole = Old::read(&folder.path(), &bytes.clone().into()).unwrap();
    assert!(whole.damage.is_none());
    let header = 0..HEADER;
    for (part, place) in [&header].into_iter().chain(&places).enumerate() {
        for at in place.clone() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x40;
            let old = Old::read(&folder.path(), &bytes.into()).unwrap();
            assert_eq!(old.items.keys().copied().collect::<Vec<_>>(), left_without(part), "byte {at} of part {part}");
            assert_eq!(old.identity.instance, whole.identity.instance);
            assert!(old.floor > whole.floor);
            let damage = old.damage.unwrap();
            assert_eq!((damage.offset, damage.bytes, damage.instance), (place.start, place.len(), false), "byte {at}");
        }
    }
}

#[test]
fn a_file_without_its_beginning_is_damaged() {
    let folder = Folder::new();
    let (bytes, places) = six(&folder);
    for cut in [3, HEADER, places[2].start] {
        let old = Old::read(&folder.path(), &bytes[cut..].to_vec().into()).unwrap();
        assert_eq!(old.damage.unwrap().offset, 0, "cut at {cut}");
        assert_eq!(old.items.keys().copied().collect::<Vec<_>>(), [1, 3, 4, 5, 6]);
    }
}

#[test]
fn a_file_cut_before_what_was_appended_is_damaged() {
    let folder = Folder::new();
    six(&folder);
    drop(folder.open());
    let bytes = fs::read(folder.path()).unwrap();
    for end in HEADER..bytes.len() {
        let old = Old::read(&folder.path(), &bytes[..end].to_vec().into()).unwrap();
        assert!(old.damage.is_some(), "cut at {end} of {}", bytes.len());
    }
    assert!(Old::read(&folder.path(), &bytes.into()).unwrap().damage.is_none());
}

#[test]
fn damage_is_an_error_once_and_the_next_opening_goes_on() {
    // LC-SDK-018
    let folder = Folder::new();
    let (whole, places) = six(&folder);
    let header = 0..HEADER;
    for (part, place) in [&header].into_iter().chain(&places).enumerate() {
        let mut bytes = whole.clone();
        bytes[place.start] ^= 0x40;
        fs::write(folder.path(), &bytes).unwrap();
        let error = folder.fails();
        assert_eq!((error.kind, error.retryable), (ConnectErrorKind::OutboxDamaged, true));
        let aside = folder.path().canonicalize().unwrap().with_file_name("outbox.damaged-1");
        assert_eq!(fs::read(&aside).unwrap(), bytes);
        let left = left_without(part);
        let expected = [
            format!("outbox: damaged at byte {}: {} bytes cannot be read", place.start, place.len()),
            format!("{} unsettled publishes are intact", left.len()),
            format!("now {}. Connect again", aside.display()),
        ];
        for words in expected {
            assert!(error.detail.contains(&words), "{:?} lacks {words:?}", error.detail);
        }
        fs::remove_file(aside).unwrap();
        let (_file, contents) = folder.open();
        assert_eq!(ids(&contents), left);
    }
}

#[test]
fn a_file_that_lost_its_instance_gets_a_new_one_and_says_so() {
    // LC-HS-021
    let folder = Folder::new();
    let (mut bytes, places) = six(&folder);
    for record in 0..3 {
        bytes[places[record].start] ^= 1;
    }
    let before = record::scan(&bytes.clone().into(), HEADER).records;
    assert!(!before.iter().any(|found| matches!(found.entry, Entry::Identity(_))));
    fs::write(folder.path(), &bytes).unwrap();
    assert!(folder.fails().detail.contains("the id of the instance is lost too"));
    let (_file, contents) = folder.open();
    assert_eq!((contents.instance.len(), ids(&contents)), (32, vec![1, 3, 4, 5, 6]));
}

#[test]
fn what_is_not_understood_is_not_touched() {
    // LC-SDK-018
    let folder = Folder::new();
    let (mut bytes, _) = six(&folder);
    bytes[8] = 2;
    let checksum = crc32fast::hash(&bytes[..12]);
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    for (bytes, kind, words) in [
        (bytes, ConnectErrorKind::OutboxVersion, "has format 2"),
        (b"my diary".to_vec(), ConnectErrorKind::OutboxFile, "is no outbox"),
        (vec![0; 4096], ConnectErrorKind::OutboxFile, "is no outbox"),
    ] {
        fs::write(folder.path(), &bytes).unwrap();
        let error = folder.fails();
        assert_eq!(error.kind, kind);
        assert!(error.detail.contains(words) && error.detail.contains("was not touched"), "{}", error.detail);
        assert_eq!(fs::read(folder.path()).unwrap(), bytes);
    }
    assert_eq!(folder.names(), ["outbox", "outbox.lock"]);
}

#[test]
fn damaged_files_are_kept_and_bounded() {
    let folder = Folder::new();
    let (bytes, places) = six(&folder);
    for round in 1..=DAMAGED_FILES_MAX + 2 {
        let mut bytes = bytes.clone();
        bytes[places[5].end - 1] ^= round as u8;
        fs::write(folder.path(), &bytes).unwrap();
        let aside = format!("outbox.damaged-{}", round.min(DAMAGED_FILES_MAX));
        assert!(folder.fails().detail.contains(&aside));
    }
    assert_eq!(folder.names().len() as u32, DAMAGED_FILES_MAX + 2);
}

#[test]
fn a_file_is_open_once() {
    // LC-HS-021
    let folder = Folder::new();
    let (file, _) = folder.open();
    let error = folder.fails();
    assert_eq!((error.kind, error.retryable), (ConnectErrorKind::OutboxLocked, true));
    assert!(error.detail.contains("another client has this outbox open"));
    #[cfg(unix)]
    {
        let link = folder.0.join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        let error = OutboxFile::open(&link, OutboxSync::Process).unwrap_err();
        assert_eq!(error.kind, ConnectErrorKind::OutboxLocked, "by another name");
    }
    drop(file);
    folder.open();
}

#[test]
fn a_folder_that_is_not_there_is_a_clear_error() {
    let folder = Folder::new();
    let path = folder.0.join("no/outbox");
    let error = OutboxFile::open(&path, OutboxSync::Process).unwrap_err();
    assert_eq!(error.kind, ConnectErrorKind::OutboxFile);
    assert!(error.detail.contains("no/outbox"), "{}", error.detail);
}

#[test]
fn the_file_stays_small_and_keeps_what_has_not_ended() {
    let folder = Folder::new();
    let (mut file, _) = folder.open();
    let text = "x".repeat(10_000);
    file.write(&[Change::Queue(item(1, "stays"))]).unwrap();
    let mut rewritten = 0;
    for id in 2..1000 {
        file.write(&[Change::Queue(item(id, &text)), Change::End(id)]).unwrap();
        if file.is_bloated() {
            file.rewrite().unwrap();
            rewritten += 1;
            assert!(file.length < 1000, "{}", file.length);
        }
        assert!(file.length <= DEAD_BYTES + 20_000);
        assert_eq!(file.length, fs::metadata(folder.path()).unwrap().len());
    }
    assert_eq!(rewritten, 9);
    queue(&mut file, [1000]);
    drop(file);
    let (_file, contents) = folder.open();
    assert_eq!(ids(&contents), [1, 1000]);
}

#[test]
fn half_a_rewriting_changes_nothing() {
    let folder = Folder::new();
    let (bytes, _) = six(&folder);
    fs::write(folder.0.join("outbox.new"), &bytes[..100]).unwrap();
    let (_file, contents) = folder.open();
    assert_eq!(ids(&contents), [1, 3, 4, 5, 6]);
    assert_eq!(folder.names(), ["outbox", "outbox.lock"]);
}

/// A file that takes no bytes, as on a full disk, and cannot be cut either.
fn break_off(file: &mut OutboxFile) {
    file.file = File::open(&file.path).unwrap();
}

#[test]
fn what_could_not_be_written_was_never_queued_and_the_file_recovers() {
    let folder = Folder::new();
    let (mut file, _) = folder.open();
    queue(&mut file, [1]);
    // Half of a batch is on the disk, and could not be removed.
    let mut half = fs::read(folder.path()).unwrap();
    half.extend(b"\xf5LCo and what follows");
    fs::write(folder.path(), half).unwrap();
    break_off(&mut file);
    assert!(file.write(&[Change::Queue(item(2, "lost")), Change::User("ann".into())]).is_err());
    assert!(file.stale);
    queue(&mut file, [3]);
    drop(file);
    let (_file, contents) = folder.open();
    assert_eq!((ids(&contents), contents.user.as_deref()), (vec![1, 3], Some("ann")));
}

#[test]
fn a_file_that_cannot_be_rewritten_takes_nothing_beyond_a_bound() {
    let folder = Folder::new();
    let (mut file, _) = folder.open();
    // A folder in the place of the new file: nothing can be written there.
    fs::create_dir(folder.0.join("outbox.new")).unwrap();
    let text = "x".repeat(100_000);
    let refused = (1..1000).find(|id| file.write(&[Change::Queue(item(*id, &text)), Change::End(*id)]).is_err());
    let length = file.length;
    assert!(refused.is_some() && (4 * DEAD_BYTES..4 * DEAD_BYTES + 200_000).contains(&length), "{length}");
    assert!(file.write(&[Change::Queue(item(1000, "no")), Change::End(1)]).is_err());
    fs::remove_dir(folder.0.join("outbox.new")).unwrap();
    queue(&mut file, [1001]);
    assert!(file.length < 1000);
    drop(file);
    let (_file, contents) = folder.open();
    assert_eq!(ids(&contents), [1001]);
}

#[cfg(unix)]
#[test]
fn nobody_else_may_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let _file = folder.open();
    assert_eq!(fs::metadata(folder.path()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[derive(Clone, Debug)]
enum Step {
    Queue(usize),
    /// The item at this place among those that have not ended.
    End(prop::sample::Index),
    /// Several changes in one write.
    Batch(usize),
    Rewrite,
    /// A kill while so many bytes of a further record were written, and an opening.
    Reopen(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0usize..3000).prop_map(Step::Queue),
        6 => any::<prop::sample::Index>().prop_map(Step::End),
        2 => (1usize..20).prop_map(Step::Batch),
        1 => Just(Step::Rewrite),
        2 => (0usize..60).prop_map(Step::Reopen),
    ]
}

proptest! {
    // Each case waits for the disk some times.
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn whatever_happens_the_file_holds_what_has_not_ended(steps in proptest::collection::vec(step(), 1..60)) {
        let folder = Folder::new();
        let (mut file, contents) = folder.open();
        let instance = contents.instance;
        let (mut model, mut next, mut start) = (BTreeMap::new(), 1, 1);
        for step in steps {
            match step {
                Step::Queue(length) => {
                    let new = item(next, &"x".repeat(length));
                    file.write(&[Change::Queue(new.clone())]).unwrap();
                    model.insert(next, new);
                    next += 1;
                }
                Step::End(index) if !model.is_empty() => {
                    let id = *model.keys().nth(index.index(model.len())).unwrap();
                    file.write(&[Change::End(id)]).unwrap();
                    model.remove(&id);
                }
                Step::End(_) => {}
                Step::Batch(count) => {
                    let mut changes = Vec::new();
                    for id in next..next + count as u64 {
                        let new = item(id, "in a batch");
                        changes.push(Change::Queue(new.clone()));
                        if id % 2 == 0 {
                            changes.push(Change::End(id));
                        } else {
                            model.insert(id, new);
                        }
                    }
                    file.write(&changes).unwrap();
                    next += count as u64;
                }
                Step::Rewrite => file.rewrite().unwrap(),
                Step::Reopen(torn) => {
                    drop(file);
                    let mut bytes = fs::read(folder.path()).unwrap();
                    let mut record = Vec::new();
                    record::encode(Entry::Item(item(next, "never reported as queued, for it was not written")), &mut record);
                    bytes.extend(&record[..torn]);
                    fs::write(folder.path(), bytes).unwrap();
                    start += 1;
                    let (reopened, contents) = folder.open();
                    file = reopened;
                    prop_assert_eq!((&contents.instance, contents.start), (&instance, start));
                    prop_assert_eq!(contents.items, model.values().cloned().collect::<Vec<_>>());
                    prop_assert!(contents.floor >= 100 + next - 1);
                }
            }
            prop_assert_eq!(file.live.keys().collect::<Vec<_>>(), model.keys().collect::<Vec<_>>());
            prop_assert_eq!(file.live_bytes, file.live.values().map(|place| place.end - place.start).sum::<u64>());
        }
    }
}
