//! What a feed is to be like, and what its reader holds.

use std::net::IpAddr;
use std::sync::Arc;

use crate::feeds::channel::Spot;
use crate::feeds::filter::FeedFilter;
use crate::feeds::framing::Layout;
use crate::feeds::params::{End, Patience};
use crate::feeds::permission_watch::Grant;
use crate::feeds::previous::Previous;
use crate::feeds::reader_limit::Seat;
use crate::feeds::seen_before::Presence;
use crate::feeds::snapshot::Snapshot;
use crate::kinto::seq::Seq;
use crate::wire::buffers::Buffers;

/// What a feed is to be like.
#[derive(Debug, Clone)]
pub struct ReaderOptions {
    /// How it is written.
    pub layout: Layout,
    /// When it ends.
    pub end: End,
    /// What happens meanwhile.
    pub patience: Patience,
    /// Whether the newest row comes first.
    pub is_descending: bool,
    /// The most rows.
    pub limit: Option<usize>,
    /// Which rows.
    pub filter: Option<Arc<FeedFilter>>,
    /// Who reads it.
    pub client: Option<IpAddr>,
    /// The last seq that is wanted.
    pub until: Option<Seq>,
    /// Where versions before deletions are found, if they are wanted.
    pub previous: Option<Arc<Previous>>,
    /// Of a poll that many share, its cursor: its answer is made as a whole, and has the next one.
    pub cursor: Option<u64>,
    /// Whether a sign of life says how far the feed is, also where that is no empty line any more.
    pub heartbeat_seq: bool,
    /// Where what the reader has been given, and not taken yet, is counted.
    pub buffers: Arc<Buffers>,
}

/// Where rows come from.
#[derive(Debug)]
pub enum Supply {
    /// One snapshot.
    Fixed(Arc<dyn Snapshot>),
    /// A channel's newest.
    Live(Spot),
}

/// What a live reader holds while it reads.
#[derive(Debug)]
pub struct Admission {
    /// Its seat among all readers.
    pub seat: Seat,
    /// Its permission.
    pub grant: Arc<Grant>,
}

/// Where it is noted what a reader was shown.
#[derive(Debug, Clone)]
pub struct Memory {
    /// The newest seq that the source had when it was first known.
    pub began: Seq,
    /// Who reads it.
    pub presence: Arc<Presence>,
}
