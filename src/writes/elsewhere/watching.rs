//! What the watcher has to know of the settings.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::kinto::CollectionKey;
use crate::settings::{Backfill, HistoryMode, Settings};
use crate::timeline::budget::Budget;
use crate::timeline::resources::Resources;

/// What the watcher has to know of the settings.
#[derive(Debug)]
pub struct Watching {
    pub(super) resources: Option<Resources>,
    pub(super) backfill: Backfill,
    pub(super) overlap: Duration,
    pub(super) ttl: Duration,
    pub(super) verify_every: Duration,
    pub(super) budget: Arc<Budget>,
    pub(super) exclusive: bool,
    is_certain: bool,
    /// Told when a clock moved.
    pub moved: Arc<Notify>,
}

impl Watching {
    /// What the settings say.
    pub fn new(settings: &Settings, budget: Arc<Budget>) -> Self {
        let named = &settings.history.resources;
        Self {
            resources: (!named.is_empty()).then(|| Resources::new(named, &[])),
            backfill: settings.history.backfill,
            overlap: settings.overlap,
            ttl: settings.timestamps_ttl,
            verify_every: settings.verify_every,
            budget,
            exclusive: settings.exclusive,
            is_certain: settings.history_mode == HistoryMode::Journal,
            moved: Arc::default(),
        }
    }

    /// How long the start of watching can be put off.
    pub fn delay(&self) -> Duration {
        if self.is_certain { Duration::ZERO } else { Duration::from_millis(250) }
    }

    pub(super) fn includes(&self, key: &CollectionKey) -> bool {
        self.resources.as_ref().is_none_or(|resources| resources.include(key))
    }
}
