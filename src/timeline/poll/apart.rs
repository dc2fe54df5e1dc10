//! The collections on which the upstream failed or hung, asked for apart from all others: one at a time, alone, and each later
//! after each failure. What that takes is paid here, with a rest before the next of them, and nobody else waits for it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Poller;
use super::ask::Asker;
use crate::timeline::budget::Budget;

/// How soon it is looked again for what is due.
const SOON: Duration = Duration::from_secs(1);

type Question = Pin<Box<dyn Future<Output = ()> + Send>>;

/// See the module.
#[derive(Default)]
pub(super) struct Apart {
    /// The question under way, and when it began.
    asking: Option<(Instant, Question)>,
    /// When everything is paid.
    free: Option<Instant>,
}

impl Apart {
    /// Asks for what is due, where nothing is under way and all before it is paid; else when to look again.
    pub(super) fn begin(&mut self, poller: &Arc<Poller>, asker: &Asker) -> Option<Instant> {
        if self.asking.is_some() {
            return None;
        }
        let now = Instant::now();
        if let Some(free) = self.free.filter(|free| *free > now) {
            return Some(free);
        }
        let (clock, later) = asker.next_apart(poller.ttl());
        let Some(clock) = clock else {
            // What fails meanwhile is seen soon, and what is never in trouble costs no looks.
            self.free = Some(later.map_or(now + SOON, |later| later.min(now + SOON)));
            return later.map(|_| now + SOON).into_iter().chain(later).min();
        };
        let (poller, timestamps) = (Arc::clone(poller), Arc::clone(&asker.timestamps));
        let question = async move {
            // Where there is nothing else, all that is known is as old as this.
            let is_all = poller.timeline.kept_clocks().len() <= 1;
            let _asking = is_all.then(|| poller.suspense.begin());
            if let Err(error) = timestamps.ask(&[clock]).await {
                tracing::debug!(%error, "could not ask the upstream for a timestamp");
                poller.note(&error);
            }
        };
        self.asking = Some((now, Box::pin(question)));
        None
    }

    /// Waits for the end of the question under way.
    pub(super) async fn ended(&mut self, budget: &Budget) {
        let Some((began, question)) = &mut self.asking else { return std::future::pending().await };
        question.await;
        self.free = Some(Instant::now() + budget.rest(began.elapsed()));
        self.asking = None;
    }
}
