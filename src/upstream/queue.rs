//! How many of clients' requests have something under way with the upstream, and who waits for one of them to be done.
//!
//! Each exchange takes a connection, here and there, and one client can ask for many things at once. So each request takes a
//! place while it asks, for as long as that lasts: one, however much it asks for. A write has it from before its intent is
//! recorded to when it is answered, so that nothing of what has begun waits for others. What the sidecar asks for itself
//! waits for nobody.
//!
//! Whose requests have the first half of the places is not looked at, which costs nothing while the upstream keeps up. Of the
//! second half one client gets a half, and each other one half of what is left. Who finds no place waits, first come first served,
//! but for those who have their share. Where places are scarce, whoever keeps one waiting for them may lose it ([`slow`]).

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

pub(super) mod slow;

use super::UpstreamError;
use crate::current::{self, Current};
use crate::settings::InForce;
use crate::wire::peer::client_of;
use slow::{Guest, Guests};

/// So many may be in the queue though they went away.
const FEW: usize = 64;
/// Places are scarce where no more than this part of them is left.
const SCARCE: usize = 4;
/// Who waits looks so often whether somebody is to be given up.
const LOOK: Duration = Duration::from_millis(100);

/// All places. One for all threads.
#[derive(Debug)]
pub(super) struct Queue {
    settings: InForce,
    taken: Mutex<Taken>,
    guests: Mutex<Guests>,
}

#[derive(Debug, Default)]
struct Taken {
    places: usize,
    /// Places past the first half, by who has them.
    counted: HashMap<Option<IpAddr>, usize>,
    waiting: VecDeque<Waiting>,
    /// How many wait when those among them are left out who went away.
    too_many: usize,
}

#[derive(Debug)]
struct Waiting {
    asker: Arc<Current>,
    turn: oneshot::Sender<Turn>,
}

/// A place that is taken, until this and all others of its request are dropped. None is needed for what the sidecar asks for
/// itself.
#[derive(Debug, Default)]
#[must_use]
pub struct Turn(Option<(Arc<Queue>, Arc<Current>)>);

// === impl Queue ===

impl Queue {
    pub(super) fn new(settings: InForce) -> Arc<Self> {
        Arc::new(Self { settings, taken: Mutex::default(), guests: Mutex::default() })
    }

    /// A place for what this task is about; the request that has to wait for one where there is none.
    pub(super) fn take(self: &Arc<Self>) -> Result<Turn, Arc<Current>> {
        let Some(asker) = current::this() else { return Ok(Turn::default()) };
        if asker.shares_turn() {
            return Ok(Turn(Some((Arc::clone(self), asker))));
        }
        let most = self.most();
        let (is_counted, is_scarce) = {
            let mut taken = self.taken.lock();
            (taken.take(&asker, most), most - taken.places.min(most) <= most / SCARCE)
        };
        if is_scarce {
            self.reclaim();
        }
        is_counted.map(|is_counted| self.turn(Arc::clone(&asker), is_counted)).ok_or(asker)
    }

    /// Waits for a place, as long as for an answer.
    pub(super) async fn wait(self: &Arc<Self>, asker: Arc<Current>) -> Result<Turn, UpstreamError> {
        let patience = self.settings.now().limits.upstream_timeout;
        timeout(patience, self.waited(asker)).await.unwrap_or(Err(UpstreamError::Crowded))
    }

    async fn waited(self: &Arc<Self>, asker: Arc<Current>) -> Result<Turn, UpstreamError> {
        let (turn, mut is_mine) = oneshot::channel();
        self.taken.lock().add(Waiting { asker: Arc::clone(&asker), turn });
        // One may have been left before it was known who waits.
        self.call();
        loop {
            // What else the request asks may get its place.
            let has_turn = asker.has_turn();
            if asker.shares_turn() {
                return Ok(Turn(Some((Arc::clone(self), Arc::clone(&asker)))));
            }
            tokio::select! {
                turn = &mut is_mine => return turn.map_err(|_| UpstreamError::Crowded),
                () = has_turn => {}
                () = sleep(LOOK) => self.reclaim(),
            }
        }
    }

    /// Somebody's body is under way with a place.
    pub(super) fn remember(&self, guest: &Arc<dyn Guest>) {
        self.guests.lock().add(guest);
    }

    /// Takes the place of whoever keeps it waiting for longest, where many do.
    fn reclaim(&self) {
        let slowest = self.guests.lock().slowest(self.most());
        if let Some(slowest) = slowest {
            slowest.give_up();
        }
    }

    fn most(&self) -> usize {
        self.settings.now().limits.upstream_requests
    }

    /// The place that was taken for a request.
    fn turn(self: &Arc<Self>, asker: Arc<Current>, is_counted: bool) -> Turn {
        if !asker.take_turn(is_counted) {
            self.taken.lock().leave(&asker, is_counted);
            self.call();
        }
        Turn(Some((Arc::clone(self), asker)))
    }

    /// Gives places to those who wait, as far as there are any.
    fn call(self: &Arc<Self>) {
        loop {
            let most = self.most();
            let Some((next, is_counted)) = self.taken.lock().next(most) else { return };
            // Who went away meanwhile leaves it again.
            let _ = next.turn.send(self.turn(next.asker, is_counted));
        }
    }
}

impl Taken {
    /// Takes a place; whether it is counted. `None` where there is none for this client.
    fn take(&mut self, asker: &Current, most: usize) -> Option<bool> {
        let is_counted = self.places >= most.div_ceil(2);
        if is_counted {
            if self.places >= most {
                return None;
            }
            let own = self.counted.entry(asker.client.map(client_of)).or_default();
            // No more than are left to others.
            if *own >= most - self.places {
                return None;
            }
            *own += 1;
        }
        self.places += 1;
        Some(is_counted)
    }

    fn leave(&mut self, asker: &Current, is_counted: bool) {
        self.places -= 1;
        if is_counted && let Entry::Occupied(mut own) = self.counted.entry(asker.client.map(client_of)) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }

    /// SECURITY: who comes and goes away again and again must not fill the queue.
    fn add(&mut self, waiting: Waiting) {
        if self.waiting.len() >= self.too_many {
            self.waiting.retain(|waiting| !waiting.turn.is_closed());
            self.too_many = FEW.max(2 * self.waiting.len());
        }
        self.waiting.push_back(waiting);
    }

    /// The first of those who wait for whom there is a place, which is taken.
    fn next(&mut self, most: usize) -> Option<(Waiting, bool)> {
        let mut index = 0;
        // Many of one client may wait, and none of them can go where the first cannot.
        let mut passed = None;
        while self.places < most {
            let waiting = self.waiting.get(index)?;
            if waiting.turn.is_closed() {
                self.waiting.remove(index);
                continue;
            }
            let asker = Arc::clone(&waiting.asker);
            if passed != Some(asker.client) {
                if let Some(is_counted) = self.take(&asker, most) {
                    return Some((self.waiting.remove(index)?, is_counted));
                }
                passed = Some(asker.client);
            }
            index += 1;
        }
        None
    }
}

impl Turn {
    /// Whose place it is, and among which.
    pub(super) fn of(&self) -> Option<(&Arc<Queue>, &Arc<Current>)> {
        self.0.as_ref().map(|(queue, asker)| (queue, asker))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some((queue, asker)) = self.0.take() else { return };
        let Some(is_counted) = asker.leave_turn() else { return };
        let has_waiting = {
            let mut taken = queue.taken.lock();
            taken.leave(&asker, is_counted);
            !taken.waiting.is_empty()
        };
        if has_waiting {
            queue.call();
        }
    }
}

#[cfg(test)]
mod random;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use http::{HeaderValue, Uri};

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(50);

    fn queue(most: usize) -> Arc<Queue> {
        queue_for(most, PATIENCE)
    }

    pub(super) fn queue_for(most: usize, patience: Duration) -> Arc<Queue> {
        Queue::new(InForce::with(|settings| {
            settings.limits.upstream_requests = most;
            settings.limits.upstream_timeout = patience;
        }))
    }

    pub(super) fn request(last: u8) -> Arc<Current> {
        let client = Some(IpAddr::from([1, 1, 1, last]));
        Arc::new(Current::new(Uri::default(), HeaderValue::from_static("id"), client, false))
    }

    /// What a request of this client gets at once.
    async fn take(queue: &Arc<Queue>, last: u8) -> Result<Turn, Arc<Current>> {
        current::about(request(last), async { queue.take() }).await
    }

    #[tokio::test]
    async fn one_client_has_three_quarters_and_others_the_rest() {
        let queue = queue(8);
        let mut turns = Vec::new();
        for _ in 0..6 {
            turns.push(take(&queue, 1).await.unwrap());
        }
        let first = take(&queue, 1).await.unwrap_err();
        let mut waits = Box::pin(queue.wait(first));
        assert!((&mut waits).now_or_never().is_none());
        // Who waits for their own share is in nobody's way.
        let others = [take(&queue, 2).await.unwrap(), take(&queue, 3).await.unwrap()];
        let all = take(&queue, 4).await.unwrap_err();
        let mut other_waits = Box::pin(queue.wait(all));
        assert!((&mut other_waits).now_or_never().is_none());
        drop(others);
        let other = other_waits.now_or_never().unwrap().unwrap();
        assert!((&mut waits).now_or_never().is_none());
        turns.pop();
        assert!(waits.now_or_never().unwrap().is_ok());
        drop((turns, other));
        let taken = queue.taken.lock();
        assert!(taken.places == 0 && taken.counted.is_empty() && taken.waiting.is_empty());
    }

    #[tokio::test]
    async fn who_waits_is_refused_after_a_while_or_goes_away() {
        let queue = queue(1);
        let turn = take(&queue, 1).await.unwrap();
        let refused = queue.wait(take(&queue, 2).await.unwrap_err()).await;
        assert!(matches!(refused, Err(UpstreamError::Crowded)));
        let mut gone = Box::pin(queue.wait(take(&queue, 2).await.unwrap_err()));
        assert!((&mut gone).now_or_never().is_none());
        drop(gone);
        for _ in 0..3 * FEW {
            let mut gone = Box::pin(queue.wait(take(&queue, 2).await.unwrap_err()));
            assert!((&mut gone).now_or_never().is_none());
        }
        assert!(queue.taken.lock().waiting.len() <= FEW);
        drop(turn);
        assert!(take(&queue, 3).await.is_ok());
        assert!(queue.taken.lock().waiting.is_empty());
    }

    #[tokio::test]
    async fn a_request_has_one_place_and_the_sidecar_needs_none() {
        let queue = queue(1);
        let asked = async {
            let one = queue.take().unwrap();
            let other = current::spawn({
                let queue = Arc::clone(&queue);
                async move { queue.take().unwrap() }
            });
            let other = other.await.unwrap();
            drop(one);
            other
        };
        let turn = current::about(request(1), asked).await;
        assert!(queue.take().is_ok());
        assert!(take(&queue, 2).await.is_err());
        drop(turn);
        assert!(take(&queue, 2).await.is_ok());
    }
}
