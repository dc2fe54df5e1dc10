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

    async fn next_of(&self, client: Option<IpAddr>, part: u32) -> ClientTurn {
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
    use futures_util::FutureExt;

    use super::*;

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
}
