//! What all threads share.

use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::settings::Settings;

/// What all threads share.
#[derive(Debug)]
pub struct App {
    /// Every setting, as it was at start.
    pub settings: Settings,
    /// Where work runs that no client's connection waits on: mirrors, polling, purges.
    pub background: Handle,
    /// Becomes `true` when the process begins to stop.
    pub stopping: watch::Receiver<bool>,
}

impl App {
    /// Puts together what all threads share.
    pub fn new(settings: Settings, background: Handle, stopping: watch::Receiver<bool>) -> Self {
        Self { settings, background, stopping }
    }
}
