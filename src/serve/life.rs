//! How a process that serves comes to its end: told to stop, or because another one has taken over.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::handover::Offer;
use super::notify::ServiceManager;
use super::signals::told_to_stop;
use crate::phase::Phase;
use crate::server::Expected;
use crate::settings::InForce;
use crate::writes::Writes;

/// How long clients may use their connections for one more request, when another process has taken over.
const LAST_REQUEST: Duration = Duration::from_millis(1_500);
/// How long requests that have arrived may then take to come to the journal.
const LAST_WRITES: Duration = Duration::from_secs(5);
/// How long operators are answered that ask when the process is at its end.
const LAST_ANSWER: Duration = Duration::from_millis(500);

/// What has to be ended.
pub(super) struct Life {
    pub(super) phases: watch::Sender<Phase>,
    pub(super) in_force: InForce,
    pub(super) offer: Option<Offer>,
    pub(super) admin: Option<ServingAdmin>,
    pub(super) expected: Expected,
    pub(super) writes: Arc<Writes>,
    pub(super) manager: Arc<ServiceManager>,
}

/// The listener for operators, which answers for longer than that of clients.
pub(super) struct ServingAdmin {
    pub(super) phases: watch::Sender<Phase>,
    pub(super) task: JoinHandle<()>,
}

// === impl Life ===

impl Life {
    /// Waits for the end. Whether it is that another process has taken over.
    pub(super) async fn last(&mut self, stops: &mut [Signal; 2]) -> bool {
        let taken = async {
            match &mut self.offer {
                Some(offer) => offer.taken().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = taken => true,
            () = told_to_stop(stops) => false,
        }
    }

    /// Finishes what is under way.
    pub(super) async fn end(&mut self, is_taken: bool, served: JoinHandle<()>) {
        if is_taken {
            self.leave(served).await;
        } else {
            self.stop(served).await;
        }
        if let Some(ServingAdmin { phases, task }) = &mut self.admin {
            phases.send_replace(Phase::Stopping);
            let _ = timeout(LAST_ANSWER, task).await;
        }
    }

    /// Serves a while longer without being ready, and stops.
    async fn stop(&self, served: JoinHandle<()>) {
        self.manager.stopping();
        let drain_delay = self.in_force.now().limits.drain_delay;
        if !drain_delay.is_zero() {
            tracing::info!("told to stop: not ready any more, and stopping in {drain_delay:?}");
            self.phases.send_replace(Phase::Draining);
            tokio::time::sleep(drain_delay).await;
        }
        tracing::info!("stopping");
        if let Some(offer) = &self.offer {
            offer.withdraw();
        }
        self.phases.send_replace(Phase::Stopping);
        let _ = served.await;
    }

    /// Leaves everything to the process that accepts connections now.
    ///
    /// It may not have the journal before this one lets go of it, and waits for that however long it takes. So nothing here
    /// waits for ever.
    async fn leave(&mut self, served: JoinHandle<()>) {
        tracing::info!("another process has taken over");
        if let Some(offer) = &self.offer {
            offer.withdraw();
        }
        if let Some(admin) = &self.admin {
            admin.phases.send_replace(Phase::Leaving);
        }
        self.phases.send_replace(Phase::Leaving);
        // Who has a connection may not know yet, and their next request is on its way.
        let _ = timeout(LAST_REQUEST, self.expected.nobody()).await;
        self.phases.send_replace(Phase::Stopping);
        // Writes that have arrived need the journal.
        if timeout(LAST_WRITES, self.expected.nobody()).await.is_err() {
            tracing::warn!("not all that was asked is answered yet: writes that come late are refused");
        }
        self.writes.leave().await;
        if let Some(offer) = &mut self.offer {
            offer.leave();
        }
        let _ = served.await;
    }
}
