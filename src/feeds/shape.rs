//! What a feed is to be like, and what its reader holds.

use std::sync::Arc;
use std::time::Duration;

use super::corner::Spot;
use super::filter::Filter;
use super::framing::Layout;
use super::grants::Grant;
use super::moment::Moment;
use super::seats::Seat;
use super::shown::Presence;
use crate::kinto::seq::Seq;

/// When a feed ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// When there is no more at present.
    Now,
    /// With the first changes.
    Changes,
    /// Never.
    Never,
}

/// What is done when nothing was written for some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// The feed ends.
    Timeout(Duration),
    /// The reader is shown that it is alive.
    Heartbeat(Duration),
}

/// What a feed is to be like.
#[derive(Debug, Clone)]
pub struct Shape {
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
    pub filter: Option<Arc<Filter>>,
}

/// Where rows come from.
#[derive(Debug)]
pub enum Supply {
    /// One moment.
    Fixed(Arc<dyn Moment>),
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
