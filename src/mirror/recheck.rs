//! Looks after the mirrors that are in use: reads each once more when its collection has come to rest, since a write
//! transaction can commit behind what was read, and compares it with a listing then and now and again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::bring::Need;
use super::refresh::Depth;
use super::{Mirror, Mirrors};
use crate::backoff::Backoff;
use crate::kinto::CollectionKey;
use crate::settings::InForce;
use crate::timeline::budget::Budget;
use crate::upstream::UpstreamError;

/// Mirrors that nobody asked for during this time are left as they are until somebody does.
const IN_USE: Duration = Duration::from_secs(3600);

/// How long one of which nothing is heard keeps the others waiting.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long one that could not be read is left alone.
const PAUSES: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(300));
/// When that is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// Keeps `mirrors` true until the process ends.
pub async fn keep(mirrors: Arc<Mirrors>, settings: InForce, budget: Arc<Budget>) {
    // What could not be read, and until when it is left alone.
    let mut later: HashMap<CollectionKey, (Instant, Backoff)> = HashMap::new();
    loop {
        let now = settings.all();
        let (overlap, verify_every) = (now.overlap, now.verify_every);
        let tick = (overlap.min(verify_every) / 8).clamp(Duration::from_millis(50), Duration::from_secs(1));
        tokio::time::sleep(tick).await;
        later.retain(|_, (until, _)| until.elapsed() < FORGOTTEN);
        for mirror in mirrors.all().iter().filter(|mirror| is_due(mirror, overlap, verify_every)) {
            let key = mirror.clock.key();
            if later.get(key).is_some_and(|(until, _)| Instant::now() < *until) {
                continue;
            }
            let mut turn = Arc::clone(&budget).turn_aside().await;
            let began = Instant::now();
            let need = Need {
                news: mirror.clock.news(),
                newest: None,
                after: Some(began),
                arrived: began,
                depth: Depth::Compare,
            };
            // It is read to its end whoever waits for that.
            let read = tokio::select! {
                read = mirrors.bring(Arc::clone(mirror), need) => read.map(drop),
                () = Box::pin(mirror.suspense.outlasts(PATIENCE)) => {
                    turn.was_in_vain();
                    Err(UpstreamError::HeadTimeout.into())
                }
            };
            match read {
                Ok(()) => _ = later.remove(key),
                Err(error) => {
                    tracing::debug!(collection = %key, %error, "could not compare {key}");
                    let (until, pauses) = later.entry(key.clone()).or_insert((began, PAUSES));
                    *until = Instant::now() + pauses.pause();
                    pauses.lengthen();
                }
            }
        }
    }
}

fn is_due(mirror: &Mirror, overlap: Duration, verify_every: Duration) -> bool {
    let Some(state) = mirror.state() else { return false };
    if mirror.clock.unused().is_none_or(|unused| unused > IN_USE) {
        return false;
    }
    let Some(compared) = mirror.past.lock().compared else { return true };
    // No transaction that was open when the collection last moved is open now.
    let at_rest =
        mirror.clock.moved().max(Some(state.changed)).map_or(state.changed, |moved| moved) + overlap;
    let unsettled = Instant::now() >= at_rest && compared < at_rest;
    let clock = &mirror.clock;
    // The upstream counts other records than were read at the same timestamp: a hint, as a late creation and a late
    // deletion cancel out.
    let miscounted = clock.timestamp() == state.content.timestamp
        && clock.total().is_some_and(|total| !state.content.may_count(total))
        && compared.elapsed() >= overlap;
    unsettled || miscounted || compared.elapsed() >= verify_every
}
