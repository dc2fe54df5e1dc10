//! Brings a mirror up to date: one read of the upstream at a time, carried to its end whoever waits for it.

use std::sync::Arc;

use tokio::time::Instant;

use super::refresh::Depth;
use super::state::State;
use super::{Mirror, Mirrors};
use crate::current;
use crate::kinto::Timestamp;
use crate::upstream::kinto::KintoError;

/// How new a content has to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Need {
    pub(super) news: u64,
    pub(super) newest: Option<Timestamp>,
    /// What was read before this moment does not count.
    pub(super) after: Option<Instant>,
    pub(super) arrived: Instant,
    pub(super) depth: Depth,
}

impl Mirrors {
    /// Refreshes a mirror unless it already is as new as needed; carried to its end whoever waits.
    pub(super) async fn bring(
        self: &Arc<Self>,
        mirror: Arc<Mirror>,
        need: Need,
    ) -> Result<Arc<State>, KintoError> {
        let this = Arc::clone(self);
        let _waiting = current::wait();
        // SECURITY: who holds the gate has a place, and keeps those who wait for it waiting for the upstream alone.
        let bringing = current::carried(async move {
            let _place = this.reader.source.turn().await?;
            this.bring_in_turn(&mirror, need).await
        });
        let task = self.background.spawn(bringing);
        task.await.unwrap_or_else(|error| Err(KintoError::Unreadable(error.to_string())))
    }

    async fn bring_in_turn(&self, mirror: &Arc<Mirror>, need: Need) -> Result<Arc<State>, KintoError> {
        let _turn = mirror.gate.lock().await;
        if let Some(state) = mirror.state().filter(|state| need.is_met_by(state)) {
            return Ok(state);
        }
        if let Some(error) = mirror.failure_since(need.arrived) {
            return Err(error);
        }
        if let Some(pause) = mirror.pause(&need) {
            tokio::time::sleep(pause).await;
        }
        let began = Instant::now();
        let news = mirror.clock.news();
        let ghost = mirror.past.lock().ghost.clone();
        let before = match (mirror.state(), ghost) {
            (Some(state), _) => Some(state),
            (None, Some(ghost)) => {
                mirror.clock.set_void();
                Some(ghost)
            }
            (None, None) => {
                // A clock that went back before anything was read voids nothing.
                mirror.clock.take_void();
                None
            }
        };
        // A delta does not show that the upstream is still the one which was read.
        let is_revived = before.as_ref().is_some_and(|state| state.is_revived);
        let depth = if is_revived { Depth::Compare } else { need.depth };
        let content = before.as_ref().map(|state| &state.content);
        let asking = mirror.suspense.begin();
        let reader = self.reader.telling(&mirror.suspense);
        let result = reader.refresh(&mirror.clock, content, depth).await;
        drop(asking);
        metrics::counter!("kinto_sidecar_mirror_refreshes_total", "outcome" => if result.is_ok() { "ok" } else { "failed" })
            .increment(1);
        mirror.past.lock().asked = Some((Instant::now(), began.elapsed()));
        match result {
            Ok(content) => {
                let news = mirror.clock.accounted(news, content.timestamp);
                let state = State::new(content, news, began);
                state.open(self.settings.now().compat, mirror.clock.key()).await;
                Ok(self.keep(mirror, before.as_deref(), state, depth))
            }
            Err(error) => {
                if matches!(error, KintoError::Absent) {
                    let state = mirror.set_state(None);
                    mirror.forget_good();
                    let mut past = mirror.past.lock();
                    past.ghost = state.or_else(|| past.ghost.take());
                    drop(past);
                    if mirror.clock.timestamp() > Timestamp::ZERO {
                        self.timeline.removed(mirror.clock.key());
                    }
                }
                // Others ask for themselves where it is this client who may not.
                if !matches!(&error, KintoError::Upstream(error) if error.is_of_asker()) {
                    mirror.past.lock().failure = Some((began, error.clone()));
                }
                Err(error)
            }
        }
    }

    fn keep(
        &self,
        mirror: &Arc<Mirror>,
        before: Option<&State>,
        mut state: State,
        depth: Depth,
    ) -> Arc<State> {
        let (timestamp, began) = (state.content.timestamp, state.began);
        if let Some(same) = before.filter(|before| before.content.digest() == state.content.digest()) {
            state.inherit(same);
        }
        let state = Arc::new(state);
        if let Some(replaced) = mirror.set_state(Some(state.clone())) {
            // Readers of feeds may hold all of it.
            replaced.stock.retire();
        }
        mirror.moved.send_replace(state.content.serial);
        let mut past = mirror.past.lock();
        past.failure = None;
        past.ghost = None;
        if depth == Depth::Compare || past.compared.is_none() {
            past.compared = Some(began);
        }
        drop(past);
        // Inserting it has it weighed again.
        self.kept.load().insert(mirror.clock.key().clone(), Arc::clone(mirror));
        self.timeline.read(&mirror.clock, timestamp, began);
        state
    }
}

impl Need {
    fn is_met_by(&self, state: &State) -> bool {
        state.news >= self.news
            && self.after.is_none_or(|after| state.began >= after)
            // What the upstream does not have it cannot be asked for again and again.
            && self.newest.is_none_or(|newest| state.content.timestamp >= newest || state.began >= self.arrived)
            && (self.depth == Depth::Ordinary || state.began >= self.arrived)
    }
}
