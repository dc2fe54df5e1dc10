//! What one thread answers with, under the settings that are in force.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::app::Core;

/// A core, made anew when other settings are in force. Each request has one to its end.
#[derive(Debug)]
pub(super) struct LatestCore(ArcSwap<Core>);

impl LatestCore {
    pub(super) fn new(core: Core) -> Self {
        Self(ArcSwap::from_pointee(core))
    }

    pub(super) fn get(&self) -> Arc<Core> {
        let latest = self.0.load_full();
        let Some(renewed) = latest.renewed().map(Arc::new) else { return latest };
        self.0.store(Arc::clone(&renewed));
        renewed
    }
}
