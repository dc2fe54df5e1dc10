//! Turns of clients at what there is little of: each has theirs one after the other, however much each of them asks for.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::peer::client_of;
use crate::current;

/// What is remembered of so many clients, though nothing of theirs is under way any more.
const FEW: usize = 64;

/// What there is to share, by client; the sidecar itself counts as one.
#[derive(Debug)]
pub(crate) struct Turns {
    of_all: Arc<Semaphore>,
    of_clients: Mutex<HashMap<Option<IpAddr>, Weak<Semaphore>>>,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct ClientTurn {
    _among_all: Option<OwnedSemaphorePermit>,
    _own: Option<OwnedSemaphorePermit>,
}

impl Turns {
    /// There is so much of it.
    pub(crate) fn at(all: u32) -> Self {
        let all = usize::try_from(all).unwrap_or(Semaphore::MAX_PERMITS);
        Self { of_all: Arc::new(Semaphore::new(all)), of_clients: Mutex::default() }
    }

    /// Waits for a turn at so much of it for whom this task is about.
    pub(crate) async fn next(&self, part: u32) -> ClientTurn {
        self.next_of(current::this().and_then(|current| current.client), part).await
    }

    /// Waits for a turn at so much of it for a client.
    pub(crate) async fn next_of(&self, client: Option<IpAddr>, part: u32) -> ClientTurn {
        let own = self.of(client.map(client_of)).acquire_owned().await.ok();
        // One of each client waits here.
        let among_all = Arc::clone(&self.of_all).acquire_many_owned(part).await.ok();
        ClientTurn { _among_all: among_all, _own: own }
    }

    fn of(&self, client: Option<IpAddr>) -> Arc<Semaphore> {
        let mut clients = self.of_clients.lock();
        if let Some(own) = clients.get(&client).and_then(Weak::upgrade) {
            return own;
        }
        if clients.len() >= FEW {
            clients.retain(|_, own| own.strong_count() > 0);
        }
        let own = Arc::new(Semaphore::new(1));
        clients.insert(client, Arc::downgrade(&own));
        own
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::pin::Pin;

    use futures_util::FutureExt;

    use super::*;

    type Next<'t> = Pin<Box<dyn Future<Output = ClientTurn> + 't>>;

    /// Numbers that follow from a seed.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(self.0 >> 33).unwrap() % bound
        }
    }

    #[tokio::test]
    async fn whoever_asks_for_much_keeps_others_waiting_for_one_turn_at_most() {
        let turns = Turns::at(3);
        let [stranger, other] = [1, 2].map(|last| Some(IpAddr::from([1, 1, 1, last])));
        let first = turns.next_of(stranger, 3).await;
        let mut many: Vec<_> = (0..50).map(|_| Box::pin(turns.next_of(stranger, 3))).collect();
        assert!(many.iter_mut().all(|next| next.now_or_never().is_none()));
        let mut others = Box::pin(turns.next_of(other, 1));
        assert!((&mut others).now_or_never().is_none(), "all is taken");
        drop(first);
        let second = many.iter_mut().find_map(FutureExt::now_or_never);
        assert!(second.is_none(), "the other client is next");
        let turn = others.now_or_never().expect("after one turn of the stranger's");
        drop(turn);
        for next in many {
            drop(next.await);
        }
        assert!(turns.of_clients.lock().values().all(|own| own.strong_count() == 0));
        for last in 0..=255 {
            drop(turns.next_of(Some(IpAddr::from([2, 2, 2, last])), 1).await);
        }
        assert!(turns.of_clients.lock().len() <= FEW);
    }

    /// Jobs that come, wait, give up and end in an order that follows from a seed.
    #[test]
    fn nobody_waits_for_more_than_one_job_of_each_other_client() {
        for seed in 0..500 {
            let mut random = Random(seed);
            let (all, clients) = (1 + random.below(3), 2 + random.below(4));
            let turns = Turns::at(u32::try_from(all).unwrap());
            let mut waiting: Vec<(usize, Next<'_>)> = Vec::new();
            let mut running: Vec<(usize, ClientTurn)> = Vec::new();
            // For each client who waits and has nothing under way: how often each other has had a turn since.
            let mut passed: BTreeMap<usize, BTreeMap<usize, usize>> = BTreeMap::new();
            for _ in 0..200 {
                match random.below(5) {
                    // One of them asks for much more than the others.
                    0..3 => {
                        let client = random.below(2) * random.below(clients);
                        let address = IpAddr::from([1, 1, 1, u8::try_from(client).unwrap()]);
                        waiting.push((client, Box::pin(turns.next_of(Some(address), 1))));
                    }
                    3 if !waiting.is_empty() && random.below(8) == 0 => {
                        let (client, next) = waiting.swap_remove(random.below(waiting.len()));
                        drop(next);
                        passed.remove(&client);
                    }
                    _ if !running.is_empty() => drop(running.swap_remove(random.below(running.len()))),
                    _ => {}
                }
                // Until nobody gets a turn any more: a turn is handed on when whoever is next is looked at.
                let mut is_new = true;
                while std::mem::take(&mut is_new) {
                    let mut still = Vec::new();
                    for (client, mut next) in waiting {
                        let Some(turn) = (&mut next).now_or_never() else {
                            still.push((client, next));
                            continue;
                        };
                        is_new = true;
                        assert!(
                            running.iter().all(|(other, _)| *other != client),
                            "seed {seed}: two at once"
                        );
                        running.push((client, turn));
                        passed.remove(&client);
                        for (waits, passed) in &mut passed {
                            let times = passed.entry(client).or_default();
                            *times += 1;
                            assert!(*times < 2, "seed {seed}: {waits} waits for {client} again");
                        }
                    }
                    waiting = still;
                }
                assert!(
                    running.len() == all
                        || waiting
                            .iter()
                            .all(|(client, _)| { running.iter().any(|(other, _)| other == client) }),
                    "seed {seed}: a turn is left, and somebody waits"
                );
                for (client, _) in &waiting {
                    if running.iter().all(|(other, _)| other != client) {
                        passed.entry(*client).or_default();
                    }
                }
            }
        }
    }
}
