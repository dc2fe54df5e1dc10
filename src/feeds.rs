//! Feeds: `CouchDB`'s `_changes` over collections, buckets, the list of monitored collections and histories.
//!
//! # A change on its way to its readers
//!
//! ```text
//! write, poll ─► clock, ledger, journal ─► source ─► channel: the newest moment, written once ─► corner of each thread ─► readers
//! ```
//!
//! - A [`source`] is followed by one task while somebody listens. It makes a [`moment`] of each new state: rows in the
//!   order of their seqs, of which pages can be read from any [`moment::Position`].
//! - A [`channel`] holds the newest moment, and the last changes as bytes. [`reader`]s are bodies of answers: they are woken
//!   by thread ([`corner`]), write what everybody is given, and read pages of their own only where they are behind, filter
//!   or have a limit.
//! - What is not kept in memory has normal feeds only: its pages are read from the upstream ([`source::unkept`]).
//! - A seq is a timestamp of Kinto's, and does not say what its reader has seen. [`table`] knows which rows may have been
//!   hidden from whoever comes with one, and [`shown`] remembers what this sidecar showed to whom.
//!
//! Queues for each reader were not chosen: they grow with the slowest. A position costs nothing, and what it leads to is
//! the newest version of everything missed, which is what `CouchDB` promises.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use moka::sync::Cache;
use tokio::runtime::Handle;
use tokio::sync::watch;

pub mod answer;
pub mod channel;
pub mod corner;
pub mod database;
pub mod document;
pub mod filter;
pub mod framing;
pub mod grants;
mod judge;
pub mod moment;
pub mod params;
pub mod permission;
pub mod reader;
pub mod request;
pub mod seats;
pub mod shape;
pub mod shown;
pub mod source;
pub mod table;
pub mod tally;
pub mod told;

use crate::access::{Access, Credentials};
use crate::kinto::{CollectionKey, segment};
use crate::settings::Settings;
use crate::upstream::Upstream;
use channel::Channel;
use grants::Grants;
use moment::Position;
use permission::Questions;
use seats::Seats;
use shown::Shown;
use source::Sources;
use told::Told;

/// The memory for compressed answers, in bytes.
const COMPRESSED: u64 = 16 << 20;

/// What a feed is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// The records of a collection.
    Collection(CollectionKey),
    /// The collections of a bucket.
    Bucket(Arc<str>),
    /// The monitored collections.
    Monitor,
    /// The entries of a bucket's history,
    History(Arc<str>, View),
}

/// How much of a history is seen.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum View {
    /// All of it.
    Everything,
    /// What somebody sees who may not read the whole bucket.
    Of(Credentials),
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Collection(key) => key.fmt(formatter),
            Self::Bucket(bucket) => write!(formatter, "/buckets/{}", segment(bucket)),
            Self::Monitor => formatter.write_str("the monitored collections"),
            Self::History(bucket, _) => write!(formatter, "/buckets/{}/history", segment(bucket)),
        }
    }
}

/// All feeds of one process.
#[derive(Debug)]
pub struct Feeds {
    /// What moments are made of.
    pub sources: Sources,
    /// How many may read live.
    pub seats: Arc<Seats>,
    /// What live readers are permitted.
    pub grants: Arc<Grants>,
    /// Compressed normal answers by what they are made of, and how far their readers have come.
    pub compressed: Cache<String, (Bytes, Position)>,
    /// What was shown to whom.
    pub shown: Shown,
    /// What the log was told.
    pub told: Told,
    channels: Mutex<HashMap<Subject, Arc<Channel>>>,
    background: Handle,
    stopping: watch::Receiver<bool>,
}

impl Feeds {
    /// No feeds yet; permissions are asked for on the runtime of `background`.
    pub fn start(
        settings: &Settings,
        sources: Sources,
        access: Arc<Access>,
        background: Handle,
        upstream: Upstream,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        let grants = Arc::new(Grants::default());
        background.spawn(Arc::clone(&grants).keep(
            Questions {
                access,
                upstream,
                history: Arc::clone(&sources.history),
                principals: settings.changes.principals.clone(),
            },
            settings.permission_ttl,
            settings.poll_budget,
        ));
        let weigh = |name: &String, (body, _): &(Bytes, Position)| {
            u32::try_from(name.len() + body.len()).unwrap_or(u32::MAX)
        };
        Self {
            sources,
            seats: Arc::new(Seats::new(&settings.feeds, &settings.limits)),
            grants,
            compressed: Cache::builder().max_capacity(COMPRESSED).weigher(weigh).build(),
            shown: Shown::default(),
            told: Told::default(),
            channels: Mutex::default(),
            background,
            stopping,
        }
    }

    /// The channel of a source, followed from now on.
    pub fn channel(self: &Arc<Self>, subject: &Subject) -> Arc<Channel> {
        let mut channels = self.channels();
        if let Some(channel) = channels.get(subject) {
            return Arc::clone(channel);
        }
        let channel = Arc::new(Channel::new(self.stopping.clone()));
        channels.insert(subject.clone(), Arc::clone(&channel));
        let following = source::follow(Arc::clone(self), subject.clone(), Arc::clone(&channel));
        self.background.spawn(following);
        channel
    }

    /// Ends a channel: its source is no more.
    fn close(&self, subject: &Subject, channel: &Arc<Channel>) {
        let mut channels = self.channels();
        if channels.get(subject).is_some_and(|known| Arc::ptr_eq(known, channel)) {
            channels.remove(subject);
        }
        drop(channels);
        channel.end();
    }

    /// Drops a channel, unless somebody came meanwhile.
    fn close_if_unused(&self, subject: &Subject, channel: &Arc<Channel>) -> bool {
        let mut channels = self.channels();
        let is_unused = Self::is_unused(channel);
        if is_unused {
            channels.remove(subject);
        }
        is_unused
    }

    /// Whether only the map of channels and the task that follows the source know a channel.
    fn is_unused(channel: &Arc<Channel>) -> bool {
        Arc::strong_count(channel) <= 2
    }

    fn channels(&self) -> MutexGuard<'_, HashMap<Subject, Arc<Channel>>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
