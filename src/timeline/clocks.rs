//! The clocks of collections: each is kept from the upstream's first acknowledgement of its collection until that goes.
//!
//! Whoever deals with a collection of which nothing is acknowledged (a write under way, a first read) has a clock, too,
//! the same as all others who do, for as long as one of them holds it. So what is asked for and refused leaves nothing.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::clock::Clock;
use super::epoch::Epoch;
use crate::kinto::{CollectionKey, Timestamp};

/// So many places of clocks that may be gone are left behind at least, before any is looked at.
const UNSWEPT: usize = 64;

/// All clocks.
#[derive(Debug, Default)]
pub struct Clocks {
    slots: RwLock<Slots>,
    epoch: Arc<Epoch>,
}

#[derive(Debug, Default)]
struct Slots {
    by_key: HashMap<CollectionKey, Slot>,
    /// How many were made since those of clocks that are gone were last taken out.
    made: usize,
}

#[derive(Debug)]
struct Slot {
    clock: Weak<Clock>,
    kept: Option<Arc<Clock>>,
}

impl Clocks {
    /// The clock of a collection, where there is one.
    pub fn get(&self, key: &CollectionKey) -> Option<Arc<Clock>> {
        self.read().by_key.get(key).and_then(Slot::clock)
    }

    /// The clock of a collection; a new one is gone with the last who holds it, unless it is kept by then.
    pub fn get_or_make(&self, key: &CollectionKey) -> Arc<Clock> {
        if let Some(clock) = self.get(key) {
            return clock;
        }
        let mut guard = self.write();
        let slots = &mut *guard;
        if let Some(clock) = slots.by_key.get(key).and_then(Slot::clock) {
            return clock;
        }
        let clock = Arc::new(Clock::new(key.clone(), Arc::clone(&self.epoch)));
        slots.by_key.insert(key.clone(), Slot { clock: Arc::downgrade(&clock), kept: None });
        slots.made += 1;
        if slots.made > UNSWEPT.max(slots.by_key.len() / 2) {
            slots.made = 0;
            slots.by_key.retain(|_, slot| slot.clock.strong_count() > 0);
            slots.by_key.shrink_to(2 * slots.by_key.len() + UNSWEPT);
        }
        clock
    }

    /// The upstream acknowledged the collection.
    pub fn keep(&self, key: &CollectionKey) {
        if self.is_kept(key) {
            return;
        }
        if let Some(slot) = self.write().by_key.get_mut(key) {
            slot.kept = slot.clock.upgrade();
        }
    }

    /// The collection is gone, unless it was heard of since its clock was told so.
    pub fn let_go(&self, key: &CollectionKey) {
        if let Some(slot) = self.write().by_key.get_mut(key) {
            slot.kept = slot.kept.take().filter(|clock| clock.timestamp() > Timestamp::ZERO);
        }
    }

    /// Whether the upstream acknowledged the collection.
    pub fn is_kept(&self, key: &CollectionKey) -> bool {
        self.read().by_key.get(key).is_some_and(|slot| slot.kept.is_some())
    }

    /// The clocks of all collections that the upstream acknowledged.
    pub fn kept(&self) -> Vec<Arc<Clock>> {
        self.read().by_key.values().filter_map(|slot| slot.kept.clone()).collect()
    }

    /// All clocks that anybody has.
    pub fn all(&self) -> Vec<Arc<Clock>> {
        self.read().by_key.values().filter_map(Slot::clock).collect()
    }

    /// How many places clocks take, of those that are gone, too.
    pub fn places(&self) -> usize {
        self.read().by_key.len()
    }

    /// Moves with the news of any clock.
    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    fn read(&self) -> RwLockReadGuard<'_, Slots> {
        self.slots.read()
    }

    fn write(&self) -> RwLockWriteGuard<'_, Slots> {
        self.slots.write()
    }
}

impl Slot {
    fn clock(&self) -> Option<Arc<Clock>> {
        self.kept.clone().or_else(|| self.clock.upgrade())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_nobody_acknowledged_is_gone_with_the_last_who_holds_it() {
        let clocks = Clocks::default();
        let key = CollectionKey::new("a", "b");
        let (one, other) = (clocks.get_or_make(&key), clocks.get_or_make(&key));
        assert!(Arc::ptr_eq(&one, &other));
        drop(one);
        assert!(clocks.get(&key).is_some(), "a write is still under way");
        drop(other);
        assert!(clocks.get(&key).is_none());
        drop(clocks.get_or_make(&key));
        assert!(clocks.kept().is_empty() && clocks.all().is_empty());
    }

    #[test]
    fn a_kept_clock_stays_until_its_collection_goes() {
        let clocks = Clocks::default();
        let key = CollectionKey::new("a", "b");
        let clock = clocks.get_or_make(&key);
        clocks.keep(&key);
        clock.begin_write().acknowledged(&[Timestamp(1)]);
        clocks.let_go(&key);
        assert!(clocks.is_kept(&key), "it was heard of since");
        clock.forget();
        clocks.let_go(&key);
        assert!(clocks.kept().is_empty());
        assert!(Arc::ptr_eq(&clock, &clocks.get_or_make(&key)), "who holds it goes on with the same one");
        drop(clock);
        assert!(clocks.get(&key).is_none());
    }

    #[test]
    fn names_in_requests_alone_take_no_memory() {
        let clocks = Clocks::default();
        for n in 0..10_000 {
            drop(clocks.get_or_make(&CollectionKey::new("a", &format!("c{n}"))));
        }
        assert!(clocks.places() <= 2 * UNSWEPT + 1, "{}", clocks.places());
    }
}
