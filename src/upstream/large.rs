//! Whose turn it is to have a large answer to a question of the sidecar's own read.
//!
//! SECURITY: one is read at once. Two, and what one client may have held meanwhile, would come to more than 150 MiB. Clients have
//! their turns one after the other, however many questions each of them is the reason for: whoever asks for much waits for
//! themselves.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock, Weak};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::current;
use crate::wire::peer::client_of;

/// What is remembered of so many clients, though nothing of theirs is read any more.
const FEW: usize = 64;

/// All turns.
static TURNS: LazyLock<Turns> = LazyLock::new(Turns::default);

/// Turns, by client; the sidecar itself counts as one.
#[derive(Debug)]
struct Turns {
    of_all: Arc<Semaphore>,
    of_clients: Mutex<HashMap<Option<IpAddr>, Weak<Semaphore>>>,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(super) struct LargeTurn {
    _among_all: Option<OwnedSemaphorePermit>,
    _own: Option<OwnedSemaphorePermit>,
}

/// Waits for a turn for what this task is about.
pub(super) async fn turn() -> LargeTurn {
    TURNS.next(current::this().and_then(|current| current.client)).await
}

// === impl Turns ===

impl Default for Turns {
    fn default() -> Self {
        Self { of_all: Arc::new(Semaphore::new(1)), of_clients: Mutex::default() }
    }
}

impl Turns {
    async fn next(&self, client: Option<IpAddr>) -> LargeTurn {
        let own = self.of(client.map(client_of)).acquire_owned().await.ok();
        // One of each client waits here.
        let among_all = Arc::clone(&self.of_all).acquire_owned().await.ok();
        LargeTurn { _among_all: among_all, _own: own }
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
    async fn whoever_asks_for_much_keeps_others_waiting_for_one_answer_at_most() {
        let turns = Turns::default();
        let [stranger, other] = [1, 2].map(|last| Some(IpAddr::from([1, 1, 1, last])));
        let first = turns.next(stranger).await;
        let mut many: Vec<_> = (0..50).map(|_| Box::pin(turns.next(stranger))).collect();
        assert!(many.iter_mut().all(|next| next.now_or_never().is_none()));
        let mut others = Box::pin(turns.next(other));
        assert!((&mut others).now_or_never().is_none(), "one is read at once");
        drop(first);
        let second = many.iter_mut().find_map(FutureExt::now_or_never);
        assert!(second.is_none(), "the other client is next");
        let turn = others.now_or_never().expect("after one answer of the stranger's");
        drop(turn);
        for next in many {
            drop(next.await);
        }
        assert!(turns.of_clients.lock().values().all(|own| own.strong_count() == 0));
        for last in 0..=255 {
            drop(turns.next(Some(IpAddr::from([2, 2, 2, last]))).await);
        }
        assert!(turns.of_clients.lock().len() <= FEW);
    }
}
