//! What a feed is made of: rows of a source at one moment, read in pages from a position.
//!
//! A reader has nothing but a position. Whatever it missed while it was slow, away or waiting is found again from there in
//! the newest snapshot, so nobody's changes have to be queued for them.

use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::error::Error;
use crate::journal::Revision;
use crate::kinto::Timestamp;
use crate::kinto::seq::Seq;
use crate::wire::lent::Lent;

/// How far a reader has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The reader was shown everything with a seq up to this one.
    pub seq: Seq,
    /// The serial of the snapshot that it was shown from.
    pub serial: u64,
    /// Where the reader began with a seq of which is not known what its reader had been shown: how far it has been given
    /// what may have been hidden from it then.
    pub doubt: Option<Doubt>,
}

/// Rows that may have become visible behind a reader's back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// The seq that the reader came with.
    pub since: Seq,
    /// The last such row that was shown.
    pub shown: Option<(Timestamp, Arc<str>)>,
}

/// A change.
#[derive(Debug, Clone)]
pub struct FeedRow {
    /// Its place in the order of changes.
    pub seq: Seq,
    /// The id of what changed.
    pub id: Arc<str>,
    /// The timestamp of the version that this is.
    pub last_modified: Timestamp,
    /// What that version is called, where its object has a chain of versions.
    pub revision: Option<Revision>,
    /// Whether it was deleted.
    pub deleted: bool,
    /// It as JSON: an object.
    pub json: Bytes,
}

/// Some rows that follow a position, oldest first. A page never ends between two rows of one seq.
#[derive(Debug, Clone, Default)]
pub struct FeedPage {
    /// The rows.
    pub rows: Vec<FeedRow>,
    /// How many rows follow this page.
    pub pending: u64,
    /// The position after this page.
    pub next: Position,
}

/// How much a page may hold; more only where a seq would be divided.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// In rows.
    pub rows: usize,
    /// In bytes of their JSON.
    pub bytes: usize,
    /// The last seq that is wanted at all; what is beyond it counts nowhere.
    pub until: Option<Seq>,
    /// Whether the reader waits for more, so that what is not certain yet can be told later.
    pub waits: bool,
}

/// A source as it was at one moment.
pub trait Snapshot: Debug + Send + Sync {
    /// Tells this source, and its serials, from all others, and from itself where it was forgotten meanwhile.
    fn lineage(&self) -> u64;

    /// The newest seq of the first snapshot of this lineage.
    fn began(&self) -> Seq;

    /// Counts the snapshots of a source.
    fn serial(&self) -> u64;

    /// The newest seq.
    fn newest_seq(&self) -> Seq;

    /// Somebody has this seq, so that what is found late from now on has to go beyond it.
    fn heed(&self, _seq: Seq) {}

    /// Names what there is, as an `ETag` does, where that can be named.
    fn tag(&self) -> Option<String>;

    /// What whoever holds it is lent, where that is much.
    fn lent(&self) -> Option<Arc<Lent>> {
        None
    }

    /// The rows that follow a position.
    fn page(self: Arc<Self>, from: Position, room: Room) -> BoxFuture<'static, Result<FeedPage, Error>>;

    /// The rows below a seq, or all of them, newest first. Of the position after such a page only the seq means anything: it
    /// is that of the last row.
    fn before(self: Arc<Self>, below: Option<Seq>, room: Room)
    -> BoxFuture<'static, Result<FeedPage, Error>>;
}

// === impl Position ===

impl Position {
    /// Everything with a seq up to `seq` was shown, of what was known at `serial`.
    pub fn new(seq: Seq, serial: u64) -> Self {
        Self { seq, serial, doubt: None }
    }

    /// Of somebody who comes with a seq, and of whom it is not known what they were shown.
    pub fn anybodys(snapshot: &dyn Snapshot, seq: Seq) -> Self {
        let doubt = (seq > Seq::ZERO).then_some(Doubt { since: seq, shown: None });
        Self { seq, serial: snapshot.serial(), doubt }
    }
}

impl Default for Position {
    fn default() -> Self {
        Self::new(Seq::ZERO, 0)
    }
}

// === impl FeedRow ===

impl FeedRow {
    /// A change of which it is not known what its version is called.
    pub fn new(seq: Seq, id: Arc<str>, last_modified: Timestamp, deleted: bool, json: Bytes) -> Self {
        Self { seq, id, last_modified, revision: None, deleted, json }
    }

    /// The version that this is, as CouchDB's clients name versions.
    pub fn rev(&self) -> String {
        self.revision.map_or_else(|| format!("1-{}", self.last_modified), |revision| revision.to_string())
    }
}

// === impl Room ===

impl Room {
    /// What is made for one reader at a time.
    pub const PIECE: Self = Self { rows: 256, bytes: 16 * 1024, until: None, waits: false };

    /// What is made once for all readers.
    pub const SHARED: Self = Self { rows: 4096, bytes: 256 * 1024, until: None, waits: false };

    /// The last of these seqs that is wanted.
    pub fn last(self, newest: Seq) -> Seq {
        self.until.map_or(newest, |until| newest.min(until))
    }
}
