//! What this sidecar has shown to whom, so that those who come back are given nothing twice.
//!
//! A seq does not say what its reader has seen: a row with a lower one may have become visible after they read, here or at
//! another sidecar. So whoever comes with a seq is given again what may have been hidden from them, unless this sidecar
//! remembers that it showed them everything up to there. They are known by their address, credentials and program.
//!
//! Several may look like one: behind one address, or as threads of one program. As soon as a name is seen to be that of
//! several, because two read at once or one comes back with less than was given last, nothing of it is believed any more.
//!
//! A seq with a fraction of this sidecar's own is given to nobody but those who were shown everything that was known then,
//! whoever they are: so it is remembered, too, what that was.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::USER_AGENT;
use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::access::Credentials;
use crate::cache::Cache;
use crate::feeds::snapshot::{Position, Snapshot};
use crate::kinto::seq::Seq;

/// SECURITY: how many readers of how many sources are remembered, each of which takes less than a KiB.
const READERS: u64 = 25_000;

/// For how long after they were last seen.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// How many stretches are remembered of one reader.
const STRETCHES: usize = 8;

/// For how long a reader who comes back may still seem to be there.
const LEAVING: Duration = Duration::from_millis(100);

/// SECURITY: how many seqs are remembered, each of which takes less than 300 bytes.
const SEQS: u64 = 25_000;

/// Who has seen what.
#[derive(Debug)]
pub struct SeenBefore {
    seen: Cache<(u64, ReaderId), Arc<Seen>>,
    given: Given,
}

/// What was known when a source gave a seq: the serial of those who were shown least.
type Given = Cache<(u64, Seq), u64>;

/// What is remembered of a name.
#[derive(Debug, Default)]
struct Seen {
    /// How many read under it now.
    reading: watch::Sender<usize>,
    past: Mutex<Past>,
}

#[derive(Debug, Default)]
struct Past {
    /// Whether several go by this name.
    is_shared: bool,
    stretches: Vec<Stretch>,
    /// No single reader comes back with less than this.
    least: Seq,
}

/// Somebody who reads now.
#[derive(Debug)]
pub struct Presence {
    seen: Arc<Seen>,
    lineage: u64,
    given: Given,
}

/// Tells readers apart, as far as that is possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReaderId(u64);

/// Everything that was known at `serial` from one seq to another was shown, and what came later in its turn. Answers that
/// are of use only as a whole were read as such; of others it is not known how far.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    from: Seq,
    to: Seq,
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

impl Default for SeenBefore {
    fn default() -> Self {
        Self {
            seen: Cache::builder(READERS).time_to_idle(REMEMBERED).build(),
            given: Cache::builder(SEQS).time_to_idle(REMEMBERED).build(),
        }
    }
}

impl SeenBefore {
    /// Somebody reads a source in the place of many: what they are given depends on nothing but the seq that they come with.
    pub fn enter_for_many(&self, lineage: u64) -> Presence {
        Presence { seen: Arc::default(), lineage, given: self.given.clone() }
    }

    /// Somebody begins to read a source.
    pub async fn enter(&self, lineage: u64, reader: ReaderId) -> Presence {
        let seen = self.seen.get_with(&(lineage, reader), Arc::default);
        if !seen.past.lock().is_shared {
            let mut reading = seen.reading.subscribe();
            let alone = reading.wait_for(|reading| *reading == 0);
            // Whoever is still there is somebody else, as the count says below.
            _ = tokio::time::timeout(LEAVING, alone).await;
        }
        let mut is_alone = false;
        seen.reading.send_modify(|reading| {
            is_alone = *reading == 0;
            *reading += 1;
        });
        if !is_alone {
            seen.past.lock().share();
        }
        Presence { seen, lineage, given: self.given.clone() }
    }
}

impl Presence {
    /// The position of a reader who comes with `seq`.
    pub fn resume(&self, snapshot: &dyn Snapshot, seq: Seq) -> Position {
        if seq == Seq::ZERO {
            return Position::new(seq, snapshot.serial());
        }
        let mut past = self.seen.past.lock();
        if seq < past.least {
            past.share();
        }
        let known = past.stretches.iter().filter(|stretch| stretch.from <= seq && seq <= stretch.to);
        let serial = known.map(|stretch| if stretch.to == seq { stretch.last } else { stretch.serial }).min();
        drop(past);
        if let Some(serial) = serial.or_else(|| self.given.get(&(self.lineage, seq))) {
            return Position::new(seq, serial);
        }
        Position::anybodys(snapshot, seq)
    }

    /// A reader who began at one position was shown everything up to another; all of it, where they read it as a whole.
    pub fn note(&self, from: &Position, to: &Position, is_whole: bool) {
        if is_whole && to.doubt.is_none() && to.seq > from.seq && to.seq.is_own() {
            let least = |known: Option<u64>| known.map_or(to.serial, |known| known.min(to.serial));
            self.given.upsert((self.lineage, to.seq), least);
        }
        let mut past = self.seen.past.lock();
        past.least = if is_whole { to.seq } else { from.seq };
        // Who was not shown everything that was in doubt is not known to have seen anything.
        if to.doubt.is_some() || past.is_shared {
            return;
        }
        let new = Stretch { from: from.seq, to: to.seq, serial: from.serial, last: to.serial };
        let stretches = &mut past.stretches;
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

impl Drop for Presence {
    fn drop(&mut self) {
        self.seen.reading.send_modify(|reading| *reading = reading.saturating_sub(1));
    }
}

impl Past {
    /// Several go by this name.
    fn share(&mut self) {
        *self = Self { is_shared: true, ..Self::default() };
    }
}
