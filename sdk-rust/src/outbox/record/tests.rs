//! Every record comes back, whatever else is wrong in the file.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn entry() -> impl Strategy<Value = Entry> {
    // Payloads that look like records are among them, since an application may send what it likes.
    let envelope = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        Just({
            let mut bytes = b"\xf5LCo\xf5".to_vec();
            encode(Entry::Ended(99), &mut bytes);
            bytes
        }),
    ];
    let item = (any::<u64>(), "[a-z]{1,9}", any::<u64>(), envelope).prop_map(|(id, room, number, envelope)| {
        Entry::Item(Item { id, room, lane: 3, number, envelope: envelope.into(), ..Item::default() })
    });
    let identity = ("[a-f0-9]{32}", any::<u64>(), proptest::option::of("[a-z]{0,9}"))
        .prop_map(|(instance, start, user)| Entry::Identity(Identity { instance, start, reserved: 7, user }));
    prop_oneof![4 => item, 1 => identity, 2 => any::<u64>().prop_map(Entry::Ended)]
}

/// A file, and where its records begin and the last one ends.
fn file(entries: &[Entry]) -> (Vec<u8>, Vec<usize>) {
    let mut bytes = header();
    let mut places = vec![bytes.len()];
    for entry in entries {
        encode(entry.clone(), &mut bytes);
        places.push(bytes.len());
    }
    (bytes, places)
}

fn entries(scan: &Scan) -> Vec<Entry> {
    scan.records.iter().map(|found| found.entry.clone()).collect()
}

proptest! {
    #[test]
    fn what_was_written_is_read(written in proptest::collection::vec(entry(), 0..20)) {
        let (bytes, _) = file(&written);
        prop_assert_eq!(read_header(&bytes), Header::Known);
        let scan = scan(&bytes.into(), HEADER);
        prop_assert_eq!(entries(&scan), written);
        prop_assert_eq!((scan.damaged, scan.torn), (vec![], None));
    }

    #[test]
    fn a_file_cut_anywhere_keeps_the_whole_records(
        written in proptest::collection::vec(entry(), 1..10),
        cut in any::<prop::sample::Index>(),
    ) {
        let (bytes, places) = file(&written);
        let cut = HEADER + cut.index(bytes.len() - HEADER);
        let whole = places.iter().filter(|place| **place <= cut).count() - 1;
        let scan = scan(&bytes[..cut].to_vec().into(), HEADER);
        prop_assert_eq!(&entries(&scan)[..], &written[..whole]);
        prop_assert_eq!(scan.damaged, vec![]);
        prop_assert_eq!(scan.torn, (places[whole] < cut).then_some(places[whole]));
    }

    #[test]
    fn damage_costs_the_records_that_it_hits_and_no_others(
        written in proptest::collection::vec(entry(), 1..10),
        at in any::<prop::sample::Index>(),
        garbage in proptest::collection::vec(1u8.., 1..40),
    ) {
        let (mut bytes, places) = file(&written);
        let at = HEADER + at.index(bytes.len() - HEADER);
        for (byte, wrong) in bytes[at..].iter_mut().zip(&garbage) {
            *byte ^= wrong;
        }
        let hit = at..(at + garbage.len()).min(bytes.len());
        let is_hit = |record: usize| places[record] < hit.end && hit.start < places[record + 1];
        let intact: Vec<_> = (0..written.len()).filter(|&record| !is_hit(record)).map(|record| places[record]).collect();
        let scan = scan(&bytes.into(), HEADER);
        let found: Vec<_> = scan.records.iter().map(|found| found.place.start).collect();
        prop_assert!(intact.iter().all(|place| found.contains(place)), "{found:?} lacks some of {intact:?}");
        prop_assert!(!scan.damaged.is_empty() && scan.damaged[0].start <= hit.start);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let scan = scan(&Bytes::from(bytes.clone()), 0);
        prop_assert!(scan.records.iter().all(|found| found.place.end <= bytes.len()));
        read_header(&bytes);
    }
}

#[test]
fn a_header_is_known_of_another_version_or_damaged() {
    let mut bytes = header();
    assert_eq!(read_header(&bytes[..15]), Header::Damaged);
    bytes[8] = 2;
    assert_eq!(read_header(&bytes), Header::Damaged, "a flipped bit is no version");
    let checksum = crc32fast::hash(&bytes[..12]);
    bytes[12..].copy_from_slice(&checksum.to_le_bytes());
    assert_eq!(read_header(&bytes), Header::Version(2));
}
