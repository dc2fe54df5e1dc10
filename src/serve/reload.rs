//! Settings and certificates that are read again while the process serves.

use std::sync::Arc;

use tokio::signal::unix::Signal;

use super::notify::ServiceManager;
use crate::app::App;
use crate::server::Certificates;
use crate::settings::{Arguments, Environment};
use crate::telemetry;

/// What is read again, and from where.
pub(super) struct Reload {
    pub(super) app: Arc<App>,
    pub(super) arguments: Arguments,
    pub(super) environment: Environment,
    pub(super) certificates: Option<Arc<Certificates>>,
}

impl Reload {
    /// Reads everything again at each `SIGHUP`.
    pub(super) async fn at(self, mut hangups: Signal, manager: Arc<ServiceManager>, status: String) {
        let this = Arc::new(self);
        while hangups.recv().await.is_some() {
            manager.reloading();
            let reload = Arc::clone(&this);
            // Files are read. A look that panics changes nothing.
            let _ = tokio::task::spawn_blocking(move || reload.look()).await;
            manager.ready(&status);
        }
    }

    fn look(&self) {
        if let Some(certificates) = &self.certificates {
            certificates.look();
        }
        self.app.in_force().allow_files(super::raise_descriptors());
        let reread = match self.app.reload(&self.arguments, &self.environment) {
            Ok(reread) => reread,
            Err(error) => {
                tracing::error!("settings are what they were, as they cannot be read again: {error}");
                return;
            }
        };
        let settings = self.app.in_force().all();
        telemetry::change(&settings);
        super::tell_of_files(self.app.in_force());
        for warning in &reread.warnings {
            tracing::warn!("{warning}");
        }
        for setting in &reread.changed {
            tracing::info!("{setting:?} is in force now");
        }
        for setting in &reread.gone {
            tracing::info!("{setting:?} is in force no more");
        }
        for setting in &reread.left {
            tracing::warn!("{setting:?} needs a restart: it cannot change while the process runs");
        }
        if reread.changed.is_empty() && reread.gone.is_empty() && reread.left.is_empty() {
            tracing::info!("settings were read again, and are what they were");
        }
    }
}
