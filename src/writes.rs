//! One life of a write: what the sidecar knows of it before the upstream does, and what it learns from the answer.
//!
//! ```text
//! Write::new ── decoded and classified: by whom, what method, what it may change
//!      │
//! Writes::begin ── the intents are in the journal, and the clocks know of a write under way
//!      │
//!   upstream
//!      │
//! Answer::read ── status, objects, timestamps
//!      │
//! Passing::answered ── what the answer says was written becomes entries; then timeline and permissions know of it
//! ```
//!
//! A write of which no answer says what became of it, because there is none, because it is a 5xx or because the process
//! died, is looked up in the upstream by [`lookup`]. What passes elsewhere is found by [`elsewhere`]. What other sidecars on
//! the same journal record is told to the timeline by [`other_sidecars`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch as state;

pub mod answer;
mod authors;
mod changes;
mod coming;
mod default_bucket;
mod effects;
mod elsewhere;
mod found;
mod lives;
mod lookup;
mod order;
mod other_sidecars;
mod passing;
mod pending;
mod question;
mod recording;
mod recovery;
mod sent;
mod versions;
mod write;

pub use elsewhere::Watching;
pub use passing::Passing;
pub use write::{LARGEST_SENT, Write};

use crate::access::{Access, Credentials, Requester};
use crate::error::Error;
use crate::history::keeper::Keeper;
use crate::journal::{Change, Journal, Object};
use crate::kinto::Timestamp;
use crate::mirror::Mirrors;
use crate::settings::{InForce, JournalFailure};
use crate::timeline::Timeline;
use crate::upstream::kinto::Source;
use effects::Effects;
use recording::Recording;

/// How long a write waits for the writes that a former process left open to be looked up.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How long the upstream may take to answer writes when another process is to have the journal.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

/// Writes down what passes, where the history is the sidecar's to keep.
#[derive(Debug)]
pub struct Writes {
    keeper: Arc<Keeper>,
    settings: InForce,
    /// Becomes `true` when what a former process left open was looked up.
    recovered: state::Sender<bool>,
    /// Groups that are being looked up, and by how many.
    examined: Mutex<HashMap<i64, usize>>,
    coming: coming::Coming,
    lingering: lookup::Lingering,
    turns: order::Turns,
    /// For each list of records the newest timestamp that a passing write brought.
    recorded: Mutex<HashMap<String, Timestamp>>,
    effects: Arc<Effects>,
    /// Asks as the service account.
    source: Source,
}

impl Writes {
    /// Writes to the journal that `keeper` holds.
    pub fn new(settings: InForce, keeper: Arc<Keeper>, access: Access, timeline: Arc<Timeline>) -> Arc<Self> {
        Arc::new(Self {
            keeper,
            settings,
            recovered: state::Sender::new(false),
            examined: Mutex::default(),
            coming: coming::Coming::default(),
            lingering: lookup::Lingering::default(),
            turns: order::Turns::default(),
            recorded: Mutex::default(),
            source: access.source(),
            effects: Arc::new(Effects::new(timeline, access)),
        })
    }

    /// Whether writes go on while the journal cannot be written.
    fn forwards(&self) -> bool {
        self.settings.now().history.on_journal_failure == JournalFailure::Forward
    }

    /// Opens the journal where it is not open yet, looks up what a former process left open, follows what others record,
    /// and watches for what passes elsewhere. Ends where the history turns out not to be the sidecar's.
    pub async fn run(self: Arc<Self>, mirrors: Arc<Mirrors>, settings: Watching) {
        let Some(journal) = self.keeper.open().await else { return };
        // Before a reader is told of a collection that was made again: what went with it is never told later.
        mirrors.remember_deletions(&journal);
        // What others record from here on is heard of, however long it takes to know whose the history is.
        let news = journal.subscribe();
        let left = self.left(&journal).await;
        if left.is_empty() {
            self.recovered.send_replace(true);
            // Whose history it is can wait until the first clients are served.
            tokio::time::sleep(settings.delay()).await;
        }
        if !self.keeper.is_own_at_last(self.effects.access.upstream()).await {
            return;
        }
        tokio::spawn(other_sidecars::follow(news, Arc::clone(&self.effects)));
        self.recover(&journal, left).await;
        self.recovered.send_replace(true);
        tokio::spawn(Arc::clone(&self).recover_others(journal.clone()));
        elsewhere::Watcher::new(self, journal, mirrors, settings).run().await;
    }

    /// These writes are about to be sent. Where the sidecar keeps the history, the journal has their intents when this
    /// returns; where it cannot, the writes have to be refused, unless the operator wants them to go on.
    pub async fn begin(self: &Arc<Self>, writes: impl Into<Arc<[Write]>>) -> Result<Passing, Error> {
        let writes = writes.into();
        // For as long as it takes to open the journal, others have the places.
        let journal = self.journal_for(&writes).await?;
        // What has begun waits for nobody.
        let turn = self.effects.access.upstream().turn().await?;
        let recording = match journal {
            Some(journal) => self.record(journal, &writes).await?,
            None => None,
        };
        Ok(Passing::new(Arc::clone(self), writes, recording, turn))
    }

    /// The journal that these writes are to be in, once it takes some; `None` where they need not be in one.
    async fn journal_for(&self, writes: &[Write]) -> Result<Option<&Journal>, Error> {
        let are_reads = are_reads(writes);
        // Until the upstream says that the history is its own, it is the sidecar's.
        if !self.keeper.is_own() || are_reads && writes.iter().all(|write| write.default().is_none()) {
            return Ok(None);
        }
        let Some(journal) = self.keeper.awaited().await else {
            let forgives = are_reads || self.forwards();
            return if forgives { Ok(None) } else { Err(Error::Unavailable { retry_after: None }) };
        };
        if !are_reads {
            if !self.forwards() {
                writes.iter().try_for_each(|write| write.check_kept(journal))?;
            }
            self.recovery().await?;
        }
        Ok(Some(journal))
    }

    async fn record(
        self: &Arc<Self>,
        journal: &Journal,
        writes: &Arc<[Write]>,
    ) -> Result<Option<Recording>, Error> {
        if are_reads(writes) {
            return Ok(Recording::begin(self, journal, writes, true).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "what the default bucket makes is not in the journal yet");
                None
            }));
        }
        if let Err(error) = self.make_before(journal, writes).await {
            tracing::debug!(%error, "the default bucket makes what a write is about while it is written");
        }
        Recording::begin(self, journal, writes, self.forwards()).await
    }

    /// Whether what a former process left open was looked up. Nothing can be written before.
    pub fn is_recovered(&self) -> bool {
        *self.recovered.borrow()
    }

    /// Leaves the journal to the process that takes over, once what has begun is recorded. Bodies that are still coming are not
    /// waited for, and not passed on.
    pub async fn leave(&self) {
        self.coming.end();
        if let Some(journal) = self.keeper.opened() {
            journal.leave(LAST_ANSWERS).await;
        }
    }

    /// Waits until everything that was given to the journal is in it.
    pub async fn flush(&self) {
        if let Some(journal) = self.keeper.opened() {
            journal.flush().await;
        }
    }

    /// Whoever sent a write, asked about for as long as it takes.
    fn requester(&self, credentials: &Credentials) -> Requester {
        self.effects.access.requester(credentials.clone())
    }

    /// Waits until what a former process left open was looked up, so that nobody else's write is taken for it.
    async fn recovery(&self) -> Result<(), Error> {
        let mut recovered = self.recovered.subscribe();
        let done = recovered.wait_for(|recovered| *recovered);
        match tokio::time::timeout(LONGEST_WAIT, done).await {
            Ok(Ok(_)) => Ok(()),
            _ if self.forwards() => Ok(()),
            _ => Err(Error::Unavailable { retry_after: None }),
        }
    }

    /// What a former process left open.
    async fn left(&self, journal: &Journal) -> Vec<recovery::OpenGroup> {
        loop {
            match journal.abandoned().await {
                Ok(left) => return left,
                Err(error) => tracing::warn!(%error, "could not ask for the writes of a former process"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Passing writes made these changes.
    fn recorded(&self, changes: &[Change]) {
        let mut recorded = self.recorded.lock();
        for change in changes.iter().filter(|change| matches!(change.object, Object::Record(..))) {
            let newest = recorded.entry(change.object.list()).or_default();
            *newest = change.modified.max(*newest);
        }
    }

    /// Whether a passing write brought a list of records to this timestamp.
    fn is_recorded(&self, list: &str, timestamp: Timestamp) -> bool {
        let recorded = self.recorded.lock();
        recorded.get(list).is_some_and(|newest| *newest >= timestamp)
    }
}

/// Whoever only reads goes on without the journal, too.
fn are_reads(writes: &[Write]) -> bool {
    !writes.iter().any(Write::has_history)
}
