//! The settings in force, in the one place where they are.
//!
//! Whoever needs a setting beyond one request asks here each time. A request is answered by the settings that were in force
//! when it came ([`crate::app::App::now`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
    /// How many files the process may open.
    files: AtomicU64,
    /// How many the settings want, as they were read.
    wanted_files: AtomicU64,
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

    /// Has them fit into the number of files that the process may open.
    pub fn allow_files(&self, files: u64) {
        self.0.files.store(files, Ordering::Relaxed);
        let mut settings = Settings::clone(&self.now());
        settings.fit_into(files);
        self.0.settings.store(Arc::new(settings));
    }

    /// How many files the process may open, and how many the settings want, where that is more: there are fewer connections
    /// then.
    pub fn scarce_files(&self) -> Option<(u64, u64)> {
        let files = self.0.files.load(Ordering::Relaxed);
        let wanted = self.0.wanted_files.load(Ordering::Relaxed);
        (files < wanted).then_some((files, wanted))
    }

    /// Reads the settings again from where the process has them from. An error changes nothing.
    pub fn read_again(
        &self,
        arguments: &Arguments,
        environment: &Environment,
    ) -> Result<Reread, SettingsError> {
        let (mut settings, reread) = self.now().read_again(arguments, environment)?;
        self.0.wanted_files.store(settings.wanted_files(), Ordering::Relaxed);
        settings.fit_into(self.0.files.load(Ordering::Relaxed));
        self.0.settings.store(Arc::new(settings));
        self.0.replaced.send_replace(());
        Ok(reread)
    }
}

impl From<Settings> for InForce {
    fn from(settings: Settings) -> Self {
        Self(Arc::new(Place {
            wanted_files: AtomicU64::new(settings.wanted_files()),
            settings: ArcSwap::from_pointee(settings),
            replaced: watch::Sender::default(),
            files: AtomicU64::new(u64::MAX),
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
