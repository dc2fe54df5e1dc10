//! Feeds: `CouchDB`'s `_changes` over collections, buckets, the list of monitored collections and histories.
//!
//! # A change on its way to its readers
//!
//! ```text
//! write, poll ─► clock, list, journal ─► source ─► channel: the newest snapshot, written once ─► wakers of each thread ─► readers
//! ```
//!
//! - A source is followed by one task ([`follow`]) while somebody listens. It makes a [`snapshot`] of each new state: rows in the
//!   order of their seqs, of which pages can be read from any [`snapshot::Position`].
//! - A [`channel`] holds the newest snapshot, and the last changes as bytes. [`reader`]s are bodies of answers: they are woken
//!   by thread ([`wakers`]), write what everybody is given, and read pages of their own only where they are behind, filter
//!   or have a limit.
//! - What is not kept in memory has normal feeds only: its pages are read from the upstream ([`sources::unkept`]).
//! - A seq is a timestamp of Kinto's, and does not say what its reader has seen. [`table`] knows which rows may have been
//!   hidden from whoever comes with one, and [`seen_before`] remembers what this sidecar showed to whom.
//!
//! Queues for each reader were not chosen: they grow with the slowest. A position costs nothing, and what it leads to is
//! the newest version of everything missed, which is what `CouchDB` promises.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;

pub mod channel;
mod cursor;
pub mod document;
pub mod filter;
mod follow;
pub mod framing;
mod judge;
pub mod log_once;
pub mod params;
pub mod permission_watch;
pub mod previous;
pub mod questions;
pub mod reader;
pub mod reader_limit;
pub mod reader_options;
pub mod revised;
pub mod seen_before;
pub mod snapshot;
pub mod sources;
pub mod subject;
pub mod table;
pub mod tables;
pub mod tally;
mod wakers;

use crate::access::Access;
use crate::phase::Phase;
use crate::settings::InForce;
use crate::wire::variants::Variants;
use channel::Channel;
use log_once::LogOnce;
use permission_watch::PermissionWatch;
use questions::Questions;
use reader_limit::ReaderLimit;
use seen_before::SeenBefore;
use snapshot::Position;
use sources::Sources;
pub use subject::{Subject, View};

/// How many answers are compressed at once.
const COMPRESSED_AT_ONCE: usize = 2;

/// How many know a channel that nobody reads: the map of channels, and the task that follows the source.
const UNREAD: usize = 2;

/// All feeds of one process.
#[derive(Debug)]
pub struct Feeds {
    /// What moments are made of.
    pub sources: Sources,
    /// How many may read live.
    pub reader_limit: Arc<ReaderLimit>,
    /// What live readers are permitted.
    pub permission_watch: Arc<PermissionWatch>,
    /// Compressed normal answers by a digest of what they are made of, and how far their readers have come.
    pub compressed: Variants<[u8; 32], Position>,
    /// What was shown to whom.
    pub seen_before: SeenBefore,
    /// What the log was told.
    pub log_once: LogOnce,
    channels: Mutex<HashMap<Subject, Arc<Channel>>>,
    background: Handle,
    phase: watch::Receiver<Phase>,
}

impl Feeds {
    /// No feeds yet; permissions are asked for on the runtime of `background`.
    pub fn start(
        settings: &InForce,
        sources: Sources,
        access: Access,
        background: Handle,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        let permission_watch = Arc::new(PermissionWatch::default());
        let questions = Questions { history: Arc::clone(&sources.history), settings: settings.clone() };
        background.spawn(Arc::clone(&permission_watch).keep(access, questions));
        Self {
            sources,
            reader_limit: Arc::new(ReaderLimit::new(settings.clone())),
            permission_watch,
            compressed: Variants::new(COMPRESSED_AT_ONCE),
            seen_before: SeenBefore::default(),
            log_once: LogOnce::default(),
            channels: Mutex::default(),
            background,
            phase,
        }
    }

    /// The channel of a source, followed from now on.
    pub fn channel(self: &Arc<Self>, subject: &Subject) -> Arc<Channel> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(subject) {
            return Arc::clone(channel);
        }
        let channel = Arc::new(Channel::new(self.phase.clone()));
        channels.insert(subject.clone(), Arc::clone(&channel));
        let following = follow::follow(Arc::clone(self), subject.clone(), Arc::clone(&channel));
        self.background.spawn(following);
        channel
    }

    /// How many read a source live, more or less.
    pub fn readers(&self, subject: &Subject) -> usize {
        self.channels
            .lock()
            .get(subject)
            .map_or(0, |channel| Arc::strong_count(channel).saturating_sub(UNREAD))
    }

    /// Ends a channel: its source is no more.
    fn close(&self, subject: &Subject, channel: &Arc<Channel>) {
        let mut channels = self.channels.lock();
        if channels.get(subject).is_some_and(|known| Arc::ptr_eq(known, channel)) {
            channels.remove(subject);
        }
        drop(channels);
        channel.end();
    }

    /// Drops a channel, unless somebody came meanwhile.
    fn close_if_unused(&self, subject: &Subject, channel: &Arc<Channel>) -> bool {
        let mut channels = self.channels.lock();
        let is_unused = Self::is_unused(channel);
        if is_unused {
            channels.remove(subject);
        }
        is_unused
    }

    /// Whether only the map of channels and the task that follows the source know a channel.
    fn is_unused(channel: &Arc<Channel>) -> bool {
        Arc::strong_count(channel) <= UNREAD
    }
}
