//! What this sidecar has shown to whom, so that those who come back are given nothing twice.
//!
//! A seq does not say what its reader has seen: a row with a lower one may have become visible after they read, here or at
//! another sidecar. So whoever comes with a seq is given again what may have been hidden from them, unless this sidecar
//! remembers that it showed them everything up to there. They are known by their address, credentials and program.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::USER_AGENT;
use http::{HeaderMap, HeaderValue};
use moka::sync::Cache;

use super::moment::{Doubt, Moment, Position};
use crate::access::Credentials;
use crate::kinto::Timestamp;

/// How many readers of how many sources are remembered.
const READERS: u64 = 100_000;

/// For how long after they were last seen.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// How many stretches are remembered of one reader.
const STRETCHES: usize = 8;

/// Who has seen what.
#[derive(Debug)]
pub struct Shown(Cache<(u64, ReaderId), Arc<Mutex<Vec<Stretch>>>>);

/// Tells readers apart, as far as that is possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReaderId(u64);

/// Everything that was known at `serial` from one seq to another was shown, and what came later in its turn. Answers that
/// are of use only as a whole were read as such; of others it is not known how far.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    from: Timestamp,
    to: Timestamp,
    serial: u64,
    /// What was known when [`Self::to`] was reached.
    last: u64,
}

impl ReaderId {
    /// The reader whose request this is.
    pub fn of(client: Option<IpAddr>, credentials: &Credentials, headers: &HeaderMap) -> Self {
        let mut hasher = DefaultHasher::new();
        (client, credentials, headers.get(USER_AGENT).map(HeaderValue::as_bytes)).hash(&mut hasher);
        Self(hasher.finish())
    }
}

impl Default for Shown {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(READERS).time_to_idle(REMEMBERED).build())
    }
}

impl Shown {
    /// The position of a reader who comes with `seq`.
    pub fn resume(&self, moment: &dyn Moment, reader: ReaderId, seq: Timestamp) -> Position {
        if seq == Timestamp::ZERO {
            return Position::new(seq, moment.serial());
        }
        let stretches = self.0.get(&(moment.lineage(), reader));
        let serial = stretches.and_then(|stretches| {
            let stretches = stretches.lock().unwrap_or_else(PoisonError::into_inner);
            let known = stretches.iter().filter(|stretch| stretch.from <= seq && seq <= stretch.to);
            known.map(|stretch| if stretch.to == seq { stretch.last } else { stretch.serial }).min()
        });
        if let Some(serial) = serial {
            return Position::new(seq, serial);
        }
        let doubt = Some(Doubt { since: seq, shown: None });
        Position { seq, serial: moment.serial(), doubt }
    }

    /// A reader who began at one position was shown everything up to another.
    pub fn note(&self, lineage: u64, reader: ReaderId, from: &Position, to: &Position) {
        // Who was not shown everything that was in doubt is not known to have seen anything.
        if to.doubt.is_some() {
            return;
        }
        let new = Stretch { from: from.seq, to: to.seq, serial: from.serial, last: to.serial };
        let stretches = self.0.get_with((lineage, reader), Arc::default);
        let mut stretches = stretches.lock().unwrap_or_else(PoisonError::into_inner);
        let before = stretches.iter_mut().find(|stretch| {
            stretch.from <= new.from && new.from <= stretch.to && stretch.serial <= new.serial
        });
        if let Some(before) = before {
            if new.to >= before.to {
                (before.to, before.last) = (new.to, new.last);
            }
            return;
        }
        if stretches.len() >= STRETCHES {
            stretches.remove(0);
        }
        stretches.push(new);
    }
}
