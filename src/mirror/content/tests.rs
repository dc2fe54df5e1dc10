//! What readers are given of a content, and what they are not given twice.

use std::collections::BTreeSet;

use super::*;
use crate::upstream::kinto::NewRow;

const OVERLAP: Duration = Duration::from_millis(10);

fn row(id: &str, last_modified: u64) -> NewRow {
    let json = Bytes::from(format!(r#"{{"id":"{id}","last_modified":{last_modified}}}"#));
    NewRow { id: id.into(), last_modified: Timestamp(last_modified), deleted: false, is_marked: false, json }
}

fn tombstone(id: &str, last_modified: u64) -> NewRow {
    NewRow { deleted: true, is_marked: true, ..row(id, last_modified) }
}

fn metadata() -> Metadata {
    Metadata { json: Bytes::from_static(b"{}"), last_modified: Timestamp(1) }
}

fn content(timestamp: u64, rows: Vec<NewRow>) -> Content {
    Content::new(metadata(), Timestamp(timestamp), None, Update { rows, ..Update::default() })
}

fn updated(content: &Content, timestamp: u64, rows: Vec<NewRow>) -> Content {
    content.updated(metadata(), Timestamp(timestamp), Update { rows, ..Update::default() })
}

fn ids(content: &Content, since: u64) -> Vec<String> {
    let selection = content.since(Timestamp(since), None, OVERLAP);
    let text: Vec<u8> = content.chunks(&selection).concat();
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&[b"[", &text[..], b"]"].concat()).unwrap();
    rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn rows_are_newest_first_and_without_tombstones_unless_since_is_asked_for() {
    let content = content(30, vec![row("a", 10), tombstone("b", 20), row("c", 30)]);
    assert_eq!(content.all(None).concat(), br#"{"id":"c","last_modified":30},{"id":"a","last_modified":10}"#);
    assert_eq!(content.all(Some(1)).concat(), br#"{"id":"c","last_modified":30}"#);
    assert!(content.all(Some(0)).is_empty());
    assert_eq!(ids(&content, 5), ["c", "b", "a"]);
    assert_eq!(content.live(), 2);
}

#[test]
fn a_row_found_late_goes_to_readers_of_that_moment_until_the_timestamp_moves_on() {
    let before = updated(&content(100, vec![row("a", 100)]), 200, vec![row("b", 200)]);
    assert_eq!(ids(&before, 200), [""; 0]);
    let found = updated(&before, 200, vec![row("late", 150)]);
    assert_eq!(ids(&found, 200), ["late"]);
    let moved = updated(&found, 300, vec![row("c", 300)]);
    assert_eq!(ids(&moved, 200), ["c", "late"]);
    assert_eq!(ids(&moved, 300), [""; 0]);
}

#[test]
fn a_since_is_answered_from_an_overlap_before_it_but_for_what_was_surely_there() {
    let content =
        updated(&content(100, vec![row("old", 50), row("a", 95), row("b", 100)]), 200, vec![row("c", 200)]);
    assert_eq!(ids(&content, 99), ["c", "b", "a"]);
    assert_eq!(ids(&content, 100), ["c", "a"], "who read at 100 may have done so before a was visible");
    assert_eq!(ids(&content, 200), [""; 0]);
    let both = updated(&content, 300, vec![row("batch", 295), row("d", 300)]);
    assert_eq!(ids(&both, 300), ["batch"], "another sidecar may have seen d alone");
    let moved = updated(&both, 400, vec![row("e", 400)]);
    assert_eq!(ids(&moved, 300), ["e", "batch"]);
    assert_eq!(ids(&moved, 400), [""; 0], "when e was seen, all that was before it was there");
}

#[test]
fn rows_once_seen_to_be_the_newest_are_not_repeated() {
    let update = Update {
        rows: vec![row("a", 95), row("b", 100)],
        witnessed: vec![Timestamp(95)],
        ..Update::default()
    };
    let content = Content::new(metadata(), Timestamp(100), None, update);
    assert_eq!(ids(&content, 97), ["b"]);
}

#[test]
fn all_moments_between_two_rows_are_one_selection() {
    let timestamps = [40, 50, 60];
    let update = Update {
        rows: timestamps.map(|timestamp| row(&timestamp.to_string(), timestamp)).to_vec(),
        witnessed: timestamps.map(Timestamp).to_vec(),
        ..Update::default()
    };
    let content = Content::new(metadata(), Timestamp(60), None, update);
    let of = |since: u64| content.since(Timestamp(since), None, OVERLAP);
    for (number, gap) in [0..40, 40..50, 50..60, 60..90].into_iter().enumerate() {
        let first = of(gap.start);
        assert_eq!(content.chunks(&first).is_empty(), number == 3);
        assert!(gap.clone().all(|since| of(since) == first), "{gap:?}");
        assert!(number == 3 || of(gap.end) != first, "{gap:?}");
    }
}

#[test]
fn of_writes_that_were_alone_here_only_who_knows_of_another_has_seen_the_earlier() {
    let update = Update {
        rows: vec![row("a", 95), row("b", 97), row("c", 100)],
        lone: vec![Timestamp(95), Timestamp(97)],
        ..Update::default()
    };
    let content = Content::new(metadata(), Timestamp(100), None, update);
    assert_eq!(ids(&content, 97), ["c"]);
    assert_eq!(ids(&content, 98), ["c", "b", "a"], "98 was written elsewhere, and maybe visible before both");
    assert_eq!(ids(&content, 100), ["b", "a"]);
}

#[test]
fn rows_that_vanished_get_a_tombstone() {
    let before = content(100, vec![row("a", 50), tombstone("b", 60), row("c", 100)]);
    let update = Update { rows: vec![row("c", 100)], ..Update::default() };
    let after = Content::new(metadata(), Timestamp(100), Some(&before), update);
    assert_eq!(ids(&after, 100), ["a"]);
    assert_eq!(after.all(None).concat(), br#"{"id":"c","last_modified":100}"#);
    let back = updated(&after, 120, vec![row("a", 120)]);
    assert_eq!(ids(&back, 100), ["a"]);
    assert_eq!(back.live(), 2);
}

#[test]
fn a_tombstone_is_json_whatever_the_id() {
    let odd =
        NewRow { json: Bytes::from_static(br#"{"id":"a\"\\","last_modified":50}"#), ..row("a\"\\", 50) };
    let before = content(100, vec![odd, row("c", 100)]);
    let after = Content::new(metadata(), Timestamp(100), Some(&before), Update::default());
    assert_eq!(ids(&after, 100), ["a\"\\", "c"]);
}

#[test]
fn a_row_that_may_have_been_hidden_for_two_reasons_comes_once() {
    let before = content(100, vec![row("a", 97), row("b", 94), row("c", 100)]);
    let found = updated(&before, 100, vec![row("d", 98), row("e", 96), row("f", 95)]);
    assert_eq!(ids(&found, 100), ["d", "a", "e", "f", "b"]);
}

#[test]
fn limits_select_the_newest() {
    let content = content(30, vec![row("a", 10), row("b", 20), row("c", 30)]);
    let selection = content.since(Timestamp(0), Some(2), OVERLAP);
    assert_eq!(selection, RowSelection { newer: 2, others: vec![] });
}

#[test]
fn the_digest_names_the_content() {
    let one = content(30, vec![row("a", 10), row("c", 30)]);
    let other = updated(&content(10, vec![row("a", 10)]), 30, vec![row("c", 30)]);
    assert_eq!(one.digest(), other.digest());
    assert_ne!(one.digest(), updated(&other, 30, vec![row("b", 20)]).digest());
}

#[test]
fn rows_are_found_by_their_ids_however_often() {
    let content = content(30, vec![row("b", 10), tombstone("a", 20), row("c", 30)]);
    for _ in 0..3 {
        let found = content.with_ids(&["a", "c", "none", "0", "z"].into());
        let mut found: Vec<&str> = found.iter().map(|row| &*row.id).collect();
        found.sort_unstable();
        assert_eq!(found, ["a", "c"]);
    }
}

/// Numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// A Kinto on PostgreSQL: who writes is given timestamps first, and commits later, though not later than an overlap.
#[derive(Default)]
struct Storage {
    clock: u64,
    written: u64,
    open: Vec<Vec<NewRow>>,
    visible: Vec<NewRow>,
}

impl Storage {
    fn begin(&mut self, dice: &mut Dice) {
        let rows = (0..=dice.roll(3)).map(|_| {
            self.clock += 1;
            self.written += 1;
            row(&format!("r{}", self.written), self.clock)
        });
        self.open.push(rows.collect());
        self.pass(0);
    }

    fn commit(&mut self, index: usize) {
        self.visible.extend(self.open.remove(index));
    }

    /// Time passes. Nobody writes for longer than an overlap.
    fn pass(&mut self, milliseconds: u64) {
        self.clock += milliseconds;
        let longest = u64::try_from(OVERLAP.as_millis()).unwrap();
        while let Some(late) =
            self.open.iter().position(|rows| rows[0].last_modified.0 + longest <= self.clock)
        {
            self.commit(late);
        }
    }

    fn read(&self, mirror: &mut Option<Content>) {
        let Some(timestamp) = self.visible.iter().map(|row| row.last_modified).max() else { return };
        *mirror = Some(match mirror.take() {
            None => content(timestamp.0, self.visible.clone()),
            Some(known) => {
                let from = known.timestamp.back(OVERLAP);
                let newer = self.visible.iter().filter(|row| row.last_modified > from).cloned();
                updated(&known, timestamp.0, newer.collect())
            }
        });
    }
}

#[test]
fn a_reader_who_goes_from_mirror_to_mirror_is_told_of_every_row() {
    for seed in 0..400 {
        let mut dice = Dice(seed);
        let mut storage = Storage { clock: 1000, ..Storage::default() };
        let mut mirrors: [Option<Content>; 3] = Default::default();
        let (mut since, mut told) = (0, BTreeSet::new());
        let mut visit = |mirror: &Content| {
            told.extend(ids(mirror, since));
            since = mirror.timestamp.0;
            (since, told.len())
        };
        let mut known = 0;
        for _ in 0..80 {
            let mirror = usize::try_from(dice.roll(3)).unwrap();
            match dice.roll(8) {
                0 | 1 => storage.begin(&mut dice),
                2 if !storage.open.is_empty() => {
                    let index = dice.roll(storage.open.len().try_into().unwrap());
                    storage.commit(index.try_into().unwrap());
                }
                3 => storage.pass(dice.roll(4)),
                4 | 5 => storage.read(&mut mirrors[mirror]),
                6 if dice.roll(5) == 0 => mirrors[mirror] = None,
                _ => {
                    if mirrors[mirror].as_ref().is_none_or(|content| content.timestamp.0 < known) {
                        storage.read(&mut mirrors[mirror]);
                    }
                    if let Some(content) = &mirrors[mirror] {
                        (known, _) = visit(content);
                    }
                }
            }
        }
        storage.pass(100);
        let last = &mut mirrors[usize::try_from(dice.roll(3)).unwrap()];
        storage.read(last);
        let written = usize::try_from(storage.written).unwrap();
        let count = last.as_ref().map_or(0, |content| visit(content).1);
        assert_eq!(count, written, "seed {seed}");
    }
}

#[test]
fn who_cannot_have_read_a_former_life_is_not_told_of_it() {
    let before = content(100, vec![row("old", 50), row("older", 60), tombstone("gone", 70)]);
    let after = |ended: u64| {
        let born = [("old".into(), Timestamp(20))].into();
        let former = Some(Former { ended: Timestamp(ended), born, others: Timestamp(1) });
        let update = Update { rows: vec![row("new", 200)], former, ..Update::default() };
        Content::new(metadata(), Timestamp(200), Some(&before), update)
    };
    let collection_made_anew = after(0);
    assert_eq!(ids(&collection_made_anew, 0), ["new"]);
    assert_eq!(ids(&collection_made_anew, 19), ["new", "older"]);
    assert_eq!(ids(&collection_made_anew, 20), ["new", "old", "older"]);
    let one = collection_made_anew.since(Timestamp::ZERO, Some(1), OVERLAP);
    assert_eq!(collection_made_anew.chunks(&one).concat(), *br#"{"id":"new","last_modified":200}"#);
    let (line, bytes) = collection_made_anew.to_keep().unwrap();
    assert_eq!(ids(&Content::revive(&line, bytes).unwrap(), 0), ["new"], "also after a restart");
    let bucket_made_anew = after(100);
    assert_eq!(ids(&bucket_made_anew, 99), ["new"]);
}
