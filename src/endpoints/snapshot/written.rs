//! The text of a snapshot, newest record first: what did not change since the moment from memory or from the upstream, what
//! did from the journal.
//!
//! What is little is made whole. Else it is written while it is read, as fast as its reader takes it, and no more of it is in
//! memory than some pieces.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::app::Core;
use crate::current;
use crate::endpoints::parts::{Part, pass_row};
use crate::error::Error;
use crate::journal::{Journal, PastVersion};
use crate::kinto::{CollectionKey, Timestamp};
use crate::mirror::State;
use crate::upstream::UpstreamError;
use crate::upstream::kinto::{KintoError, Pages, Source};
use crate::wire::body::{Body, Closed, Sender};
use crate::wire::buffers::Hold;

/// Entries of so many bytes, together, are read at once. What is larger is read alone.
const AT_ONCE: usize = 128 << 10;
/// Small rows are joined up to here.
const PIECE: usize = 64 << 10;
/// What is under way of an answer that is written while it is read.
const UNDER_WAY: usize = 768 << 10;
/// An answer of no more bytes is made whole.
const LITTLE: usize = 256 << 10;

/// What a snapshot is made of.
pub(super) struct Snapshot {
    pub(super) key: CollectionKey,
    pub(super) moment: Timestamp,
    pub(super) unchanged: Unchanged,
    pub(super) versions: Versions,
}

/// The records that did not change since the moment, and more.
pub(super) enum Unchanged {
    None,
    Kept(Arc<State>),
    Listed(Box<Listed>),
}

/// The list of a collection, while it is read.
pub(super) struct Listed {
    source: Source,
    pages: Pages,
    timestamp: Timestamp,
    part: Option<Part>,
    /// Room for a page.
    room: Hold,
}

/// Records that changed since the moment as they were then, newest first.
pub(super) struct Versions {
    journal: Journal,
    bucket: String,
    rest: VecDeque<PastVersion>,
    /// What was read of them.
    read: VecDeque<Bytes>,
    /// Room for what is too large to be read with others.
    room: Hold,
}

/// What is written of an answer.
struct Writing {
    /// Who writes while its reader reads; else it is made whole.
    sender: Option<Sender>,
    whole: Vec<Bytes>,
    joined: BytesMut,
    has_rows: bool,
}

/// Why nothing more is written.
enum Halt {
    /// Its reader went away.
    Gone,
    Failed(Error),
}

// === impl Snapshot ===

impl Snapshot {
    /// Its text. What is held for it is in `hold`.
    pub(super) async fn written(self, core: &Core, mut hold: Hold) -> Result<Body, Error> {
        let of_versions: usize = self.versions.rest.iter().map(|version| version.length).sum();
        let of_unchanged = match &self.unchanged {
            Unchanged::None => 0,
            Unchanged::Kept(state) => state.content.weight(),
            Unchanged::Listed(_) => usize::MAX,
        };
        let all = of_versions.saturating_add(of_unchanged);
        if all <= LITTLE {
            let mut writing = Writing::new(None);
            hold.grow(2 * all)?;
            return match self.write(&mut writing).await {
                Ok(()) => Ok(Body::chunks(writing.whole).held(hold)),
                Err(Halt::Failed(error)) => Err(error),
                Err(Halt::Gone) => Ok(Body::empty()),
            };
        }
        hold.grow(UNDER_WAY)?;
        let (sender, body) = Body::channel();
        core.app.background.spawn(current::carried(async move {
            let key = self.key.clone();
            let mut writing = Writing::new(Some(sender.clone()));
            if let Err(Halt::Failed(error)) = self.write(&mut writing).await {
                tracing::warn!(collection = %key, %error, "broke off a snapshot of {key}");
                sender.abort(error.to_string().into()).await;
            }
        }));
        Ok(body.held(hold))
    }

    async fn write(mut self, writing: &mut Writing) -> Result<(), Halt> {
        writing.add(Bytes::from_static(b"{\"data\":[")).await?;
        match self.unchanged {
            Unchanged::None => {}
            Unchanged::Kept(state) => {
                let rows = state.content.rows().iter();
                for row in rows.filter(|row| row.last_modified <= self.moment && !row.deleted) {
                    self.versions.write(writing, row.last_modified).await?;
                    writing.row(state.content.json(row)).await?;
                }
            }
            Unchanged::Listed(listed) => listed.write(&self.key, writing, &mut self.versions).await?,
        }
        self.versions.write(writing, Timestamp::ZERO).await?;
        writing.add(Bytes::from_static(b"]}")).await?;
        writing.flush().await
    }
}

// === impl Listed ===

impl Listed {
    /// Begins to read what a collection has that is not newer than a moment, for as long as its list has this timestamp.
    pub(super) async fn begin(
        core: &Core,
        source: &Source,
        key: &CollectionKey,
        moment: Timestamp,
        timestamp: Timestamp,
    ) -> Result<Self, KintoError> {
        let uri = key.records_uri();
        // Where nothing is newer, tombstones need not be listed.
        let until = if moment < timestamp { format!("&max_last_modified={moment}") } else { String::new() };
        let mut pages = source.pages(format!("{uri}?_sort=-last_modified{until}"));
        let part = Part::next(&mut pages).await?;
        // One page at a time is in memory. All readers of such collections count as one client.
        let room = core.app.buffers.hold(None);
        let mut listed = Self { source: source.clone(), pages, timestamp, part, room };
        listed.check()?;
        Ok(listed)
    }

    /// Whether what was read is of the list that is meant, and there is room for it.
    fn check(&mut self) -> Result<(), KintoError> {
        let Some(part) = &self.part else { return Ok(()) };
        if part.timestamp() != self.timestamp {
            return Err(KintoError::Unsettled);
        }
        self.room.set(part.bytes()).map_err(|_| UpstreamError::Unavailable.into())
    }

    async fn write(
        mut self: Box<Self>,
        key: &CollectionKey,
        writing: &mut Writing,
        versions: &mut Versions,
    ) -> Result<(), Halt> {
        while let Some(part) = self.part.take() {
            match part {
                Part::Page(mut page) => {
                    let uri = key.records_uri();
                    self.source.tell_alive(&uri, page.timestamp, &mut page.rows, |_| false).await?;
                    for row in page.rows.into_iter().filter(|row| !row.deleted) {
                        versions.write(writing, row.last_modified).await?;
                        writing.row(row.json).await?;
                    }
                }
                Part::Row(page, answer) => {
                    let modified = page.rows.first().map_or(Timestamp::LAST, |row| row.last_modified);
                    versions.write(writing, modified).await?;
                    let sender = writing.row_begins().await?;
                    if !pass_row(answer, &sender).await? {
                        return Err(Halt::Gone);
                    }
                }
            }
            self.part = Part::next(&mut self.pages).await?;
            self.check()?;
        }
        Ok(())
    }
}

// === impl Versions ===

impl Versions {
    /// Those of a bucket's records; of what is larger than most, room is made in `room`.
    pub(super) fn new(journal: &Journal, bucket: &str, mut versions: Vec<PastVersion>, room: Hold) -> Self {
        versions.retain(|version| !version.is_deletion);
        versions.sort_by_key(|version| std::cmp::Reverse(version.modified));
        Self {
            journal: journal.clone(),
            bucket: bucket.to_owned(),
            rest: versions.into(),
            read: VecDeque::new(),
            room,
        }
    }

    /// Writes those that are newer.
    async fn write(&mut self, writing: &mut Writing, than: Timestamp) -> Result<(), Halt> {
        while self.rest.front().is_some_and(|version| version.modified > than) {
            if self.read.is_empty() {
                self.read_on(writing).await?;
            }
            self.rest.pop_front();
            if let Some(json) = self.read.pop_front() {
                writing.row(json).await?;
            }
        }
        Ok(())
    }

    /// Reads some of them.
    async fn read_on(&mut self, writing: &Writing) -> Result<(), Halt> {
        let mut bytes = 0;
        let fit = |version: &&PastVersion| {
            bytes += version.length;
            bytes <= AT_ONCE
        };
        let number = self.rest.iter().take_while(fit).count().max(1);
        let entries: Vec<Timestamp> = self.rest.iter().take(number).map(|version| version.entry).collect();
        let large = self.rest.front().map(|version| version.length).filter(|length| *length > AT_ONCE);
        let mut room = self.room.another();
        if let Some(length) = large {
            tokio::select! {
                () = room.wait_for(length) => {}
                () = writing.gone() => return Err(Halt::Gone),
            }
        }
        let mut data = self.journal.data_at(&self.bucket, &entries).await.map_err(Error::from)?;
        // What was deleted from the history meanwhile would be missing.
        let data: Option<Vec<Vec<u8>>> = entries.iter().map(|entry| data.remove(entry)).collect();
        let data = data.ok_or(Error::Unavailable { retry_after: None })?;
        if large.is_some() {
            self.read.extend(data.into_iter().next().map(|json| room.filled(json)));
        } else {
            self.read.extend(data.into_iter().map(Bytes::from));
        }
        Ok(())
    }
}

// === impl Writing ===

impl Writing {
    fn new(sender: Option<Sender>) -> Self {
        Self { sender, whole: Vec::new(), joined: BytesMut::new(), has_rows: false }
    }

    /// Writes a row.
    async fn row(&mut self, json: Bytes) -> Result<(), Halt> {
        if std::mem::replace(&mut self.has_rows, true) {
            self.add(Bytes::from_static(b",")).await?;
        }
        self.add(json).await
    }

    /// A row follows that is sent as it comes.
    async fn row_begins(&mut self) -> Result<Sender, Halt> {
        self.row(Bytes::new()).await?;
        self.flush().await?;
        self.sender.clone().ok_or(Halt::Gone)
    }

    async fn add(&mut self, bytes: Bytes) -> Result<(), Halt> {
        if self.joined.len() + bytes.len() > PIECE {
            self.flush().await?;
        }
        if bytes.len() > PIECE / 4 {
            self.flush().await?;
            return self.send(bytes).await;
        }
        self.joined.extend_from_slice(&bytes);
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Halt> {
        let joined = self.joined.split().freeze();
        if joined.is_empty() { Ok(()) } else { self.send(joined).await }
    }

    async fn send(&mut self, bytes: Bytes) -> Result<(), Halt> {
        if let Some(sender) = &self.sender {
            return sender.send(bytes).await.map_err(|Closed| Halt::Gone);
        }
        self.whole.push(bytes);
        Ok(())
    }

    /// Waits until its reader goes away.
    async fn gone(&self) {
        match &self.sender {
            Some(sender) => sender.closed().await,
            None => std::future::pending().await,
        }
    }
}

impl<E: Into<Error>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}
