//! Which of those who have a place keep it waiting.
//!
//! SECURITY: while there are enough places, that is the client's own affair. Where they are scarce, and more than a part of them
//! is taken so, who was waited for longest is given up: else a few who send a byte now and again would have all places.

use std::collections::HashMap;
use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// The part of the places that slow clients may have where places are scarce.
const PART: usize = 4;
/// So many may be remembered though they are over.
const FEW: usize = 64;

/// Something that has a place, and whose client may be waited for.
pub(in crate::upstream) trait Guest: Debug + Send + Sync {
    /// Whose it is.
    fn client(&self) -> Option<IpAddr>;

    /// For how long its client was waited for, where it has a place and that is long.
    fn slowness(&self) -> Option<Duration>;

    /// Lets others have its place.
    fn give_up(&self);
}

/// All that are under way.
#[derive(Debug, Default)]
pub(super) struct Guests {
    all: Vec<Weak<dyn Guest>>,
    /// How many there are when those among them are left out that are over.
    too_many: usize,
}

// === impl Guests ===

impl Guests {
    pub(super) fn add(&mut self, guest: &Arc<dyn Guest>) {
        if self.all.len() >= self.too_many {
            self.all.retain(|guest| guest.strong_count() > 0);
            self.too_many = FEW.max(2 * self.all.len());
        }
        self.all.push(Arc::downgrade(guest));
    }

    /// The slowest, of the client that has most of them; `None` where slow ones have no more than their part of all places.
    pub(super) fn slowest(&self, places: usize) -> Option<Arc<dyn Guest>> {
        let guests = self.all.iter().filter_map(Weak::upgrade);
        let slow: Vec<_> = guests.filter_map(|guest| Some((guest.slowness()?, guest))).collect();
        if slow.len() * PART <= places {
            return None;
        }
        let mut by_client: HashMap<Option<IpAddr>, usize> = HashMap::new();
        for (_, guest) in &slow {
            *by_client.entry(guest.client()).or_default() += 1;
        }
        let rank =
            |(waited, guest): &(Duration, Arc<dyn Guest>)| (by_client.get(&guest.client()).copied(), *waited);
        slow.into_iter().max_by_key(rank).map(|(_, guest)| guest)
    }
}
