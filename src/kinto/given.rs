//! The places between two timestamps that a sidecar has given to readers.
//!
//! Their numbers alone do not say who gave them: two sidecars in eight go by the same one. Whoever took another's for its
//! own would not tell its reader what that one could not know.

use std::collections::BTreeSet;

use parking_lot::Mutex;

use super::seq::Seq;

/// SECURITY: how many are remembered, the newest ones. Who comes with another is told again.
const REMEMBERED: usize = 1024;

/// The places that were given of one source, for as long as its serials count on.
#[derive(Debug, Default)]
pub struct Given(Mutex<BTreeSet<Seq>>);

impl Given {
    /// Somebody is given this place who was told of everything up to it.
    pub fn add(&self, seq: Seq) {
        if seq == Seq::of(seq.at) {
            return;
        }
        let mut given = self.0.lock();
        given.insert(seq);
        if given.len() > REMEMBERED {
            given.pop_first();
        }
    }

    /// Whether somebody was given this place here.
    pub fn has(&self, seq: Seq) -> bool {
        self.0.lock().contains(&seq)
    }

    /// Somebody comes with this place. Where another sidecar gave it that goes by the same number, this one goes by another
    /// from then on.
    pub fn heed(&self, seq: Seq) {
        if !self.has(seq) {
            seq.disown();
        }
    }
}
