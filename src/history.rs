//! The history that the sidecar keeps: every write that the upstream acknowledged is in the journal before its client
//! has the answer.
//!
//! ```text
//! History::begin ── the intents of a write are in the journal: who, what method, what URI
//!      │
//!   upstream
//!      │
//! Recording::answered ── what the answer says was written becomes entries, and the intents are closed
//! ```
//!
//! A write of which no answer says what became of it, because there is none, because it is a 5xx or because the process
//! died, is looked up in the upstream by [`examine`]. What passes elsewhere is found by [`watch`]. What others on the same
//! journal record is told to the timeline by [`follow`].

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::watch as state;

pub mod answer;
mod examine;
mod follow;
mod found;
mod implicit;
mod list;
mod lives;
mod recording;
mod sent;
mod turns;
mod visible;
mod watch;
mod write;

pub use recording::Recording;
pub use visible::Visible;
pub use watch::Watching;
pub use write::{LARGEST_SENT, Write};

use crate::access::Access;
use crate::error::Error;
use crate::journal::{Change, Journal, JournalError, Object};
use crate::kinto::Timestamp;
use crate::mirror::Mirrors;
use crate::observe::Observer;
use crate::settings::{HistoryMode, HistorySettings, JournalFailure, JournalUrl, KintoSettings, Settings};
use crate::timeline::Timeline;
use crate::upstream::kinto::Source;
use crate::upstream::{Upstream, UpstreamError};

/// How long a write waits for the writes that a former process left open to be looked up.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How long a journal that cannot be opened is left alone.
const BETWEEN_OPENINGS: Duration = Duration::from_secs(1);

/// Keeps the history, where it is the sidecar's to keep.
#[derive(Debug)]
pub struct History {
    mode: HistoryMode,
    place: JournalUrl,
    rules: HistorySettings,
    kinto: KintoSettings,
    on_failure: JournalFailure,
    /// Once it was opened.
    journal: OnceLock<Journal>,
    /// Whether the upstream keeps the history itself, once it said so.
    upstreams: OnceLock<bool>,
    /// Becomes `true` when what a former process left open was looked up.
    recovered: state::Sender<bool>,
    /// Groups that are being looked up, and by how many.
    examined: Mutex<HashMap<i64, usize>>,
    lingering: examine::Lingering,
    turns: turns::Turns,
    /// For each list the newest timestamp that a passing write brought.
    recorded: Mutex<HashMap<String, Timestamp>>,
    access: Arc<Access>,
    timeline: Arc<Timeline>,
    /// Asks as the service account.
    source: Source,
    upstream: Upstream,
}

#[derive(Deserialize)]
struct Root {
    capabilities: serde_json::Map<String, serde_json::Value>,
}

// === impl History ===

impl History {
    /// Keeps history in `journal`, or, where there is none yet and the settings want one, in the one that [`Self::run`] opens.
    /// Asks as the service account through `upstream`.
    pub fn new(
        settings: &Settings,
        journal: Option<Journal>,
        access: Arc<Access>,
        timeline: Arc<Timeline>,
        upstream: Upstream,
    ) -> Arc<Self> {
        Arc::new(Self {
            mode: settings.history_mode,
            place: settings.journal.clone(),
            rules: settings.history.clone(),
            kinto: settings.kinto.clone(),
            on_failure: settings.history.on_journal_failure,
            journal: journal.map_or_else(OnceLock::new, OnceLock::from),
            upstreams: OnceLock::new(),
            recovered: state::Sender::new(false),
            examined: Mutex::default(),
            lingering: examine::Lingering::default(),
            turns: turns::Turns::default(),
            recorded: Mutex::default(),
            access,
            timeline,
            source: Source::new(upstream.clone()),
            upstream,
        })
    }

    /// Opens the journal where it is not open yet, looks up what a former process left open, follows what others record,
    /// and watches for what passes elsewhere. Ends where the history turns out not to be the sidecar's.
    pub async fn run(self: Arc<Self>, observer: Arc<Observer>, mirrors: Arc<Mirrors>, settings: Watching) {
        if !self.mode.wants_journal() {
            return;
        }
        let journal = loop {
            if let Some(journal) = self.journal.get() {
                break journal.clone();
            }
            let opened = Journal::open(&self.place, &self.rules, self.kinto.explicit_permissions).await;
            match opened {
                Ok(journal) => _ = self.journal.set(journal),
                Err(error) => {
                    tracing::error!(%error, "no history can be kept yet");
                    tokio::time::sleep(BETWEEN_OPENINGS).await;
                }
            }
        };
        // What others record from here on is heard of, however long it takes to know whose the history is.
        let news = journal.subscribe();
        let left = self.left(&journal).await;
        if left.is_empty() {
            self.recovered.send_replace(true);
            // Whose history it is can wait until the first clients are served.
            tokio::time::sleep(settings.delay()).await;
        }
        if !self.is_kept_at_last().await {
            return;
        }
        tokio::spawn(follow::follow(news, observer));
        self.recover(&journal, left).await;
        self.recovered.send_replace(true);
        tokio::spawn(Arc::clone(&self).recover_others(journal.clone()));
        watch::Watcher::new(self, journal, mirrors, settings).run().await;
    }

    /// The journal, where the sidecar keeps the history. Where that depends on the upstream and it has not said yet, it is
    /// asked.
    pub async fn journal(&self, upstream: &Upstream) -> Result<Option<&Journal>, Error> {
        if !self.mode.wants_journal() || self.is_upstreams(upstream).await? {
            return Ok(None);
        }
        self.journal.get().map(Some).ok_or(Error::Unavailable { retry_after: None })
    }

    /// Whether the history is the sidecar's as far as it is known.
    pub fn is_kept(&self) -> bool {
        self.mode.wants_journal() && self.upstreams.get() != Some(&true)
    }

    /// Writes down what is about to be written. The journal has it when this returns; where it cannot, the write has to
    /// be refused, unless the operator wants it to go on.
    pub async fn begin(self: &Arc<Self>, writes: Vec<Write>) -> Result<Recording, Error> {
        // Until the upstream says that the history is its own, it is the sidecar's.
        if !self.is_kept() {
            return Ok(Recording::nothing());
        }
        if writes.iter().all(|write| write.target.is_none()) {
            return Ok(self.begin_reads(writes).await);
        }
        let Some(journal) = self.journal.get() else {
            return match self.on_failure {
                JournalFailure::Forward => Ok(Recording::nothing()),
                JournalFailure::Refuse => Err(Error::Unavailable { retry_after: None }),
            };
        };
        self.recovery().await?;
        Recording::begin(Arc::clone(self), journal.clone(), writes).await
    }

    /// Writes down what reads in the default bucket are about to make. They go on without the journal, too.
    async fn begin_reads(self: &Arc<Self>, reads: Vec<Write>) -> Recording {
        let Some(journal) = self.journal.get().filter(|_| reads.iter().any(|read| read.is_default)) else {
            return Recording::nothing();
        };
        Recording::begin(Arc::clone(self), journal.clone(), reads).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "what the default bucket makes is not in the journal yet");
            Recording::nothing()
        })
    }

    /// Waits until everything that was given to the journal is in it.
    pub async fn flush(&self) {
        if let Some(journal) = self.journal.get() {
            journal.flush().await;
        }
    }

    /// Waits until what a former process left open was looked up, so that nobody else's write is taken for it.
    async fn recovery(&self) -> Result<(), Error> {
        let mut recovered = self.recovered.subscribe();
        let done = recovered.wait_for(|recovered| *recovered);
        match tokio::time::timeout(LONGEST_WAIT, done).await {
            Ok(Ok(_)) => Ok(()),
            _ if self.on_failure == JournalFailure::Forward => Ok(()),
            _ => Err(Error::Unavailable { retry_after: None }),
        }
    }

    /// What a former process left open.
    async fn left(&self, journal: &Journal) -> Vec<examine::Left> {
        loop {
            match journal.abandoned().await {
                Ok(left) => return left,
                Err(error) => tracing::warn!(%error, "could not ask for the writes of a former process"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Whether the history is the sidecar's, once the upstream says it.
    async fn is_kept_at_last(&self) -> bool {
        let mut pause = Duration::from_millis(100);
        loop {
            if let Ok(journal) = self.journal(&self.upstream).await {
                return journal.is_some();
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_WAIT);
        }
    }

    async fn is_upstreams(&self, upstream: &Upstream) -> Result<bool, Error> {
        match self.mode {
            HistoryMode::Journal => return Ok(false),
            HistoryMode::Upstream | HistoryMode::Off => return Ok(true),
            HistoryMode::Auto => {}
        }
        if let Some(known) = self.upstreams.get() {
            return Ok(*known);
        }
        let answer = upstream.ask(Method::GET, "/", HeaderMap::new(), Bytes::new()).await?;
        if answer.status() != StatusCode::OK {
            return Err(Error::Unavailable { retry_after: None });
        }
        let root: Root = serde_json::from_slice(answer.body())
            .map_err(|error| UpstreamError::Unexpected(format!("the root view: {error}").into()))?;
        Ok(*self.upstreams.get_or_init(|| root.capabilities.contains_key("history")))
    }

    /// Passing writes made these changes.
    fn recorded(&self, changes: &[Change]) {
        let mut recorded = self.recorded.lock();
        for change in changes {
            let newest = recorded.entry(change.object.list()).or_default();
            *newest = change.modified.max(*newest);
        }
    }

    /// Whether a passing write brought a list to this timestamp.
    fn is_recorded(&self, list: &str, timestamp: Timestamp) -> bool {
        let recorded = self.recorded.lock();
        recorded.get(list).is_some_and(|newest| *newest >= timestamp)
    }
}

impl From<JournalError> for Error {
    fn from(error: JournalError) -> Self {
        tracing::error!(%error, "the journal failed");
        Self::Unavailable { retry_after: None }
    }
}

/// A change of an object to this version, as an answer told of it.
fn changed(version: answer::Version, object: Object, user_id: Option<String>) -> Change {
    Change {
        object,
        action: if version.deleted { Some(crate::journal::Action::Delete) } else { None },
        modified: version.modified,
        data: Some(version.data),
        permissions: version.permissions,
        user_id,
        date: None,
        is_found: false,
    }
}
