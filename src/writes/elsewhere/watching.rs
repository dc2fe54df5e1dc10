//! What the watcher has to know of the settings.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::Guard;
use tokio::sync::{Notify, watch};

use crate::kinto::CollectionKey;
use crate::settings::{HistoryMode, InForce, Settings};
use crate::timeline::budget::Budget;
use crate::timeline::resources::Resources;

/// What the watcher has to know of the settings.
#[derive(Debug)]
pub struct Watching {
    settings: InForce,
    /// As of the last round.
    named: Vec<String>,
    pub(super) resources: Option<Resources>,
    pub(super) budget: Arc<Budget>,
    /// Told when a clock moved.
    pub moved: Arc<Notify>,
}

impl Watching {
    /// What the settings say.
    pub fn new(settings: InForce, budget: Arc<Budget>) -> Self {
        Self { settings, named: Vec::new(), resources: None, budget, moved: Arc::default() }
    }

    /// What is named at the beginning of a round.
    pub(super) fn look(&mut self) {
        let settings = self.settings.now();
        let named = &settings.history.resources;
        if self.named != *named {
            self.named.clone_from(named);
            self.resources = (!named.is_empty()).then(|| Resources::new(named, &[]));
        }
    }

    /// The settings at this moment.
    pub(super) fn now(&self) -> Guard<Arc<Settings>> {
        self.settings.now()
    }

    /// Told when other settings are in force.
    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.settings.subscribe()
    }

    /// How long the start of watching can be put off.
    pub fn delay(&self) -> Duration {
        if self.now().history_mode == HistoryMode::Journal {
            Duration::ZERO
        } else {
            Duration::from_millis(250)
        }
    }

    pub(super) fn includes(&self, key: &CollectionKey) -> bool {
        self.resources.as_ref().is_none_or(|resources| resources.include(key))
    }
}
