//! The settings in force, in the one place where they are.
//!
//! Whoever needs a setting beyond one request asks here each time. A request is answered by the settings that were in force
//! when it came ([`crate::app::App::now`]).

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;

use super::error::{SettingsError, Warning};
use super::key::Setting;
use super::names::Environment;
use super::places::Arguments;
use super::table::Settings;

/// The settings in force. Clones are the same place.
#[derive(Clone, Debug)]
pub struct InForce(Arc<Place>);

#[derive(Debug)]
struct Place {
    settings: ArcSwap<Settings>,
    replaced: watch::Sender<()>,
}

/// What became of settings that were read again.
#[derive(Debug)]
pub struct Reread {
    /// Each setting that is in force now and was not before.
    pub changed: Vec<Setting>,
    /// Each setting that was in force and that nobody speaks of any more.
    pub gone: Vec<Setting>,
    /// Each setting that was written anew and only a new process can obey.
    pub left: Vec<Setting>,
    /// What is odd about how they are written.
    pub warnings: Vec<Warning>,
}

// === impl InForce ===

impl InForce {
    /// The settings at this moment. Not to be kept: see [`Self::all`].
    pub fn now(&self) -> Guard<Arc<Settings>> {
        self.0.settings.load()
    }

    /// The settings at this moment, to be kept.
    pub fn all(&self) -> Arc<Settings> {
        self.0.settings.load_full()
    }

    /// Told when others are in force.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.0.replaced.subscribe()
    }

    /// Reads the settings again from where the process has them from. An error changes nothing.
    pub fn read_again(
        &self,
        arguments: &Arguments,
        environment: &Environment,
    ) -> Result<Reread, SettingsError> {
        let (settings, reread) = self.now().read_again(arguments, environment)?;
        self.0.settings.store(Arc::new(settings));
        self.0.replaced.send_replace(());
        Ok(reread)
    }
}

impl From<Settings> for InForce {
    fn from(settings: Settings) -> Self {
        Self(Arc::new(Place {
            settings: ArcSwap::from_pointee(settings),
            replaced: watch::Sender::default(),
        }))
    }
}

#[cfg(test)]
impl InForce {
    /// The defaults, but for this.
    pub(crate) fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::default();
        change(&mut settings);
        settings.into()
    }
}
