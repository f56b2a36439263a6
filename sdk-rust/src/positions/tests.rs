//! What is known of rooms, and when a reader may go on.

use std::fs;

use proptest::prelude::*;

use super::file::tests::Folder;
use super::*;

fn at(normal: u64) -> Position {
    Position { epoch: 7, normal, ..Position::default() }
}

fn name(room: usize) -> Arc<str> {
    format!("room.{room}").into()
}

/// Waits for the file as a reader does.
async fn written(bookmark: &Bookmark) {
    std::future::poll_fn(|cx| bookmark.poll_written(cx)).await;
    bookmark.written().await;
}

#[tokio::test]
async fn a_reader_goes_on_once_the_file_has_what_it_acknowledged() {
    // LC-SDK-024
    let folder = Folder::new();
    let positions = Positions::open(&folder.path()).unwrap();
    let bookmark = positions.bookmark(name(1));
    assert_eq!(bookmark.position(), None);
    written(&bookmark).await;
    for normal in 1..=200 {
        bookmark.store(at(normal));
        written(&bookmark).await;
        // As a process that is killed now leaves it.
        let copy = Folder::new();
        fs::copy(folder.path(), copy.path()).unwrap();
        let (_file, rows) = PositionsFile::open(&copy.path()).unwrap();
        assert_eq!(rows, [(name(1), at(normal))]);
    }
    drop(bookmark);
    assert_eq!(positions.bookmark(name(1)).position(), Some(at(200)), "also within one life");
}

#[tokio::test]
async fn the_end_writes_the_rest_and_unlocks_the_file() {
    let folder = Folder::new();
    for round in 1..=20 {
        let positions = Positions::open(&folder.path()).unwrap();
        let bookmark = positions.bookmark(name(0));
        assert_eq!(bookmark.position(), (round > 1).then(|| at(round - 1)));
        bookmark.store(at(round));
        positions.finish().wait().await;
        // Kept no more, and nobody waits for it.
        bookmark.store(at(1000));
        written(&bookmark).await;
    }
}

#[tokio::test]
async fn a_hold_that_is_dropped_ends_the_thread() {
    let folder = Folder::new();
    let positions = Positions::open(&folder.path()).unwrap();
    let over = positions.shared.syncs.end();
    let hold = Hold(positions.clone());
    positions.sync().wait().await;
    drop(hold);
    over.wait().await;
    Positions::open(&folder.path()).unwrap();
}

#[test]
fn rooms_are_bounded_and_those_that_are_subscribed_stay() {
    let mut table = Table::default();
    table.rooms.insert(name(0), Kept { bookmarks: 1, ..Kept::default() });
    for room in 0..ROOMS_MAX + 100 {
        table.store(&name(room), at(1));
        assert!(table.rooms.len() <= ROOMS_MAX && table.changed.len() <= ROOMS_MAX);
    }
    let kept = |room| table.rooms.contains_key(&name(room));
    assert!(kept(0) && !kept(1) && !kept(100) && kept(101) && kept(ROOMS_MAX + 99));
}

#[derive(Clone, Debug)]
enum Step {
    /// So many rooms move on by one.
    Move(usize),
    /// The reader of this room waits for the file.
    Wait(usize),
    /// The process is killed, when so many bytes of a further record are in the file.
    Kill(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1usize..4).prop_map(Step::Move),
        6 => (0usize..4).prop_map(Step::Wait),
        1 => (0usize..40).prop_map(Step::Kill),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn after_a_kill_nothing_is_behind_what_a_reader_waited_for(steps in proptest::collection::vec(step(), 1..60)) {
        // LC-SDK-024: what is behind it comes twice, and what is before it would be lost.
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut folder = Folder::new();
        let mut positions = Positions::open(&folder.path()).unwrap();
        let (mut stored, mut waited) = ([0; 4], [0; 4]);
        for step in steps {
            match step {
                Step::Move(rooms) => for (room, stored) in stored.iter_mut().enumerate().take(rooms) {
                    *stored += 1;
                    positions.store(&name(room), at(*stored));
                },
                Step::Wait(room) => {
                    runtime.block_on(written(&positions.bookmark(name(room))));
                    waited[room] = stored[room];
                }
                Step::Kill(torn) => {
                    let next = Folder::new();
                    let mut bytes = fs::read(folder.path()).unwrap();
                    let mut record = Vec::new();
                    record::encode(record::Entry::Place(record::Place::new("room.9", at(1))), &mut record);
                    bytes.extend(&record[..torn.min(record.len() - 1)]);
                    fs::write(next.path(), bytes).unwrap();
                    runtime.block_on(positions.finish().wait());
                    folder = next;
                    positions = Positions::open(&folder.path()).unwrap();
                }
            }
            for room in 0..4 {
                let found = positions.bookmark(name(room)).position().map_or(0, |position| position.normal);
                prop_assert!((waited[room]..=stored[room]).contains(&found), "room {room}: {found} of {waited:?}, {stored:?}");
                stored[room] = found;
            }
        }
    }
}
