//! Writes of which the bodies are still coming: nobody waits for them.

use std::collections::{BTreeSet, HashMap};

use parking_lot::Mutex;

use crate::wire::arrival::Arrival;

/// Groups of intents whose bodies are still coming.
#[derive(Debug, Default)]
pub(super) struct Coming(Mutex<Groups>);

#[derive(Debug, Default)]
struct Groups {
    arrivals: HashMap<i64, Arrival>,
    is_over: bool,
}

impl Coming {
    /// The body of this group has begun to come.
    pub(super) fn add(&self, group: i64, arrival: &Arrival) {
        let mut groups = self.0.lock();
        if groups.is_over {
            arrival.give_up();
        }
        groups.arrivals.insert(group, arrival.clone());
    }

    /// Leaves those groups out for which nobody waits.
    pub(super) fn leave_out(&self, groups: &mut BTreeSet<i64>) {
        let arrivals = &mut self.0.lock().arrivals;
        arrivals.retain(|_, arrival| !arrival.is_complete() && arrival.is_shared());
        groups.retain(|group| !arrivals.contains_key(group));
    }

    /// What has not come by now does not come any more.
    pub(super) fn end(&self) {
        let mut groups = self.0.lock();
        groups.is_over = true;
        groups.arrivals.values().for_each(Arrival::give_up);
    }
}
