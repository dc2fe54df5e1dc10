//! Which seqs rows have for those who come from another sidecar.

use super::*;
use crate::mirror::content::{Content, Row, Update};
use crate::upstream::kinto::{Metadata, NewRow};

/// A mirror's content, and nothing around it but whether a write is under way.
#[derive(Debug)]
struct Mirrored(Content, bool, Given);

impl Mirrored {
    fn row(&self, place: usize) -> Option<&Row> {
        self.0.rows().get(*self.0.by_seq().get(place)?)
    }
}

impl Table for Mirrored {
    fn lineage(&self) -> u64 {
        1
    }

    fn began(&self) -> Seq {
        Seq::of(self.0.began())
    }

    fn serial(&self) -> u64 {
        self.0.serial
    }

    fn newest_seq(&self) -> Seq {
        self.0.high
    }

    fn digest(&self) -> u64 {
        self.0.digest()
    }

    fn count(&self) -> usize {
        self.0.rows().len()
    }

    fn mark(&self, place: usize) -> Option<Mark<'_>> {
        self.row(place).map(Mark::from)
    }

    fn may_hide(&self, place: usize, since: Timestamp) -> bool {
        self.row(place).is_some_and(|row| self.0.may_hide(row, since))
    }

    fn is_undecided(&self, _place: usize, _since: Timestamp) -> bool {
        self.1
    }

    fn json(&self, _place: usize) -> (Bytes, bool) {
        (Bytes::new(), false)
    }

    fn overlap(&self) -> Duration {
        Duration::from_millis(10)
    }

    fn given(&self) -> &Given {
        &self.2
    }

    fn heed(&self, _seq: Seq) {}

    fn heard(&self) -> Seq {
        Seq::ZERO
    }
}

fn update(rows: &[(&str, u64)]) -> Update {
    let row = |(id, last_modified): &(&str, u64)| NewRow {
        id: (*id).into(),
        last_modified: Timestamp(*last_modified),
        deleted: false,
        is_marked: false,
        json: Bytes::from(format!(r#"{{"id":"{id}","last_modified":{last_modified}}}"#)),
    };
    Update { rows: rows.iter().map(row).collect(), ..Update::default() }
}

#[test]
fn who_was_told_elsewhere_of_what_is_late_here_is_told_again_at_the_seq_that_they_have() {
    let metadata = || Metadata { json: Bytes::from_static(b"{}"), last_modified: Timestamp(1) };
    let first = Content::new(metadata(), Timestamp(20), None, update(&[("first", 20)]));
    let other = first.updated(metadata(), Timestamp(33), update(&[("other", 33)]));
    // A batch from before it, and the other one is written anew.
    let late = other.updated(metadata(), Timestamp(35), update(&[("a", 31), ("b", 32), ("other", 35)]));
    let group = late.rows().iter().find(|row| &*row.id == "b").map(|row| row.seq).unwrap();
    assert!(group > Seq::of(Timestamp(33)) && group < Seq::of(Timestamp(34)));
    let table = Mirrored(late, false, Given::default());
    // Another sidecar saw the batch in time; or did not, and had nothing newer than this.
    for since in [31, 20] {
        let seq = Seq::of(Timestamp(since));
        let page = page(&table, &Position::anybodys(&table, seq), Room::PIECE);
        let told: Vec<(&str, Seq)> = page.rows.iter().map(|row| (&*row.id, row.seq)).collect();
        // Who is cut off after the first of them comes back with the seq that they had.
        assert_eq!(told, [("a", seq), ("b", group), ("other", Seq::of(Timestamp(35)))]);
    }
}

#[test]
fn who_waits_is_told_again_once_it_is_known_whether_something_was_hidden_from_them() {
    let metadata = || Metadata { json: Bytes::from_static(b"{}"), last_modified: Timestamp(1) };
    let first = Content::new(metadata(), Timestamp(20), None, update(&[("first", 20)]));
    let both = || first.updated(metadata(), Timestamp(23), update(&[("a", 22), ("b", 23)]));
    let seq = Seq::of(Timestamp(23));
    for (is_undecided, waits, told) in [(true, true, 0), (true, false, 1), (false, true, 1)] {
        let table = Mirrored(both(), is_undecided, Given::default());
        let from = Position::anybodys(&table, seq);
        let page = page(&table, &from, Room { waits, ..Room::PIECE });
        assert_eq!((page.rows.len(), page.pending), (told, 0), "{is_undecided} {waits}");
        // Where nothing is told, they are where they were.
        assert_eq!(page.next == from, told == 0);
    }
}

#[test]
fn who_was_told_by_another_of_the_same_number_is_told_again_once() {
    let metadata = || Metadata { json: Bytes::from_static(b"{}"), last_modified: Timestamp(1) };
    // One finds a batch late in two steps, the other one all of it in time: to its readers of 33 it was hidden.
    let first = Content::new(metadata(), Timestamp(33), None, update(&[("first", 33)]));
    let late = first.updated(metadata(), Timestamp(33), update(&[("a", 31)]));
    let theirs = Mirrored(late, false, Given::default());
    let told = page(&theirs, &Position::new(Seq::of(Timestamp(33)), 1), Room::PIECE).next.seq;
    assert!(told.is_own(), "{told}");
    assert!(page(&theirs, &Position::anybodys(&theirs, told), Room::PIECE).rows.is_empty());
    let early = Content::new(metadata(), Timestamp(20), None, update(&[("before", 20)]));
    let all =
        early.updated(metadata(), Timestamp(40), update(&[("a", 31), ("b", 32), ("first", 33), ("c", 40)]));
    let mine = Mirrored(all, false, Given::default());
    let first = page(&mine, &Position::anybodys(&mine, told), Room::PIECE);
    let ids = |page: &FeedPage| page.rows.iter().map(|row| row.id.to_string()).collect::<Vec<_>>();
    assert_eq!(ids(&first), ["a", "b", "c"]);
    assert!(page(&mine, &first.next, Room::PIECE).rows.is_empty());
}
