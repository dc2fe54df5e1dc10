//! Who keeps the history: the upstream, or the sidecar in its journal.

use std::sync::OnceLock;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::SetOnce;
use tokio::time::{Instant, sleep_until};

use crate::backoff::Backoff;
use crate::error::Error;
use crate::journal::{Journal, JournalError, Opening, Upgrade};
use crate::phase::Relieved;
use crate::settings::{HistoryMode, HistorySettings, JournalUrl, Settings};
use crate::upstream::Upstream;

/// How long a journal that cannot be opened is left alone.
const BETWEEN_OPENINGS: Duration = Duration::from_secs(1);

/// How long a journal is waited for that another process has, though the one before this has left it: that may have begun
/// to end only now.
const RELEASE: Duration = Duration::from_secs(10);

/// The longest pause between two questions to an upstream that does not say whose the history is.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How far the process that begins is with its journal.
#[derive(Debug)]
pub enum JournalAtStart {
    /// It is to be opened when it can be.
    Not,
    /// It was found, and has to be brought up to date.
    Found(Opening),
    /// It is open.
    Open(Journal),
}

/// Knows who keeps the history, and holds the journal where the sidecar does.
#[derive(Debug)]
pub struct Keeper {
    mode: HistoryMode,
    place: JournalUrl,
    rules: HistorySettings,
    explicit_permissions: bool,
    /// Once it was opened.
    journal: SetOnce<Journal>,
    /// Before it was opened for the first time.
    found: Mutex<Option<Opening>>,
    upgrade: Upgrade,
    relieved: Relieved,
    /// Why it could not be opened when that was last tried, but that the process before this one still has it.
    failure: Mutex<Option<JournalError>>,
    /// Whether the upstream keeps the history itself, once it said so.
    upstreams: OnceLock<bool>,
}

impl Keeper {
    /// Keeps history in the journal that has `begun` to be open, or, where none has and the settings want one, in the one that
    /// [`Self::open`] opens, once the process before this one has left it.
    pub fn new(settings: &Settings, begun: JournalAtStart, relieved: Relieved) -> Self {
        let (journal, found) = match begun {
            JournalAtStart::Not => (None, None),
            JournalAtStart::Found(opening) => (None, Some(opening)),
            JournalAtStart::Open(journal) => (Some(journal), None),
        };
        Self {
            mode: settings.history_mode,
            place: settings.journal.clone(),
            rules: settings.history.clone(),
            explicit_permissions: settings.kinto.explicit_permissions,
            journal: SetOnce::new_with(journal),
            found: Mutex::new(found),
            upgrade: Upgrade::default(),
            relieved,
            failure: Mutex::default(),
            upstreams: OnceLock::new(),
        }
    }

    /// Opens the journal where it is not open yet, as often as it takes; `None` where the settings want none.
    pub async fn open(&self) -> Option<Journal> {
        if !self.mode.wants_journal() {
            return None;
        }
        loop {
            if let Some(journal) = self.journal.get() {
                return Some(journal.clone());
            }
            match self.opening().await {
                Ok(journal) => _ = self.journal.set(journal),
                Err(JournalError::InUse(_)) if !self.is_released() => {}
                Err(error) => {
                    self.note(error);
                    tokio::time::sleep(BETWEEN_OPENINGS).await;
                }
            }
        }
    }

    async fn opening(&self) -> Result<Journal, JournalError> {
        let found = self.found.lock().take();
        let found = match found {
            Some(found) => found,
            None => Opening::begin(&self.place).await?,
        };
        found.finish(&self.rules, self.explicit_permissions, &self.upgrade).await
    }

    /// Takes note of why it is not open. The log is told once of each reason.
    fn note(&self, error: JournalError) {
        let mut failure = self.failure.lock();
        if failure.as_ref().is_none_or(|before| before.to_string() != error.to_string()) {
            tracing::error!(%error, "no history can be kept yet");
        }
        *failure = Some(error);
    }

    /// How many entries of how many are brought up to date before the journal is open, while that is under way.
    pub fn upgrading(&self) -> Option<(u64, u64)> {
        self.upgrade.progress()
    }

    /// The journal, where the sidecar keeps the history. Where that depends on the upstream and it has not said yet, it is
    /// asked.
    pub async fn journal(&self, upstream: &Upstream) -> Result<Option<&Journal>, Error> {
        if !self.mode.wants_journal() || self.is_upstreams(upstream).await? {
            return Ok(None);
        }
        self.awaited().await.map(Some).ok_or(Error::Unavailable { retry_after: None })
    }

    /// The journal, once it is open, whoever keeps the history. For as long as the process before this one lives and has
    /// it, it is waited for.
    pub async fn awaited(&self) -> Option<&Journal> {
        let is_pending =
            self.journal.get().is_none() && self.mode.wants_journal() && self.failure.lock().is_none();
        if is_pending {
            tokio::select! {
                biased;
                _ = self.journal.wait() => {}
                () = self.released() => {}
            }
        }
        self.journal.get()
    }

    /// Waits until the process before this one has surely let go of the journal.
    async fn released(&self) {
        let mut relieved = self.relieved.clone();
        // Where nobody is left to say so, this process is at its end.
        let since = relieved.wait_for(Option::is_some).await.ok().and_then(|since| *since);
        sleep_until(since.unwrap_or_else(Instant::now) + RELEASE).await;
    }

    fn is_released(&self) -> bool {
        self.relieved.borrow().is_some_and(|since| since.elapsed() >= RELEASE)
    }

    /// Why the journal is not open.
    pub fn unopened(&self) -> String {
        match &*self.failure.lock() {
            Some(error) => error.to_string(),
            None => "the journal is not open yet".to_owned(),
        }
    }

    /// The journal, where it is open, whoever keeps the history.
    pub fn opened(&self) -> Option<&Journal> {
        self.journal.get()
    }

    /// Whether the history is the sidecar's as far as it is known.
    pub fn is_own(&self) -> bool {
        self.mode.wants_journal() && self.upstreams.get() != Some(&true)
    }

    /// Whether the history is the sidecar's, once the upstream says it.
    pub async fn is_own_at_last(&self, upstream: &Upstream) -> bool {
        let mut backoff = Backoff::new(Duration::from_millis(100), LONGEST_PAUSE);
        loop {
            if let Ok(journal) = self.journal(upstream).await {
                return journal.is_some();
            }
            backoff.wait().await;
        }
    }

    async fn is_upstreams(&self, upstream: &Upstream) -> Result<bool, Error> {
        match self.mode {
            HistoryMode::Journal => return Ok(false),
            HistoryMode::Upstream | HistoryMode::Off => return Ok(true),
            HistoryMode::Auto => {}
        }
        if let Some(known) = self.upstreams.get() {
            return Ok(*known);
        }
        let description = upstream.described().await?;
        Ok(*self.upstreams.get_or_init(|| description.has("history")))
    }
}

impl From<JournalError> for Error {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::NoRoom(error) => Self::from(error),
            JournalError::Invalid(error) => Self::from(error),
            JournalError::Refused(_) => {
                tracing::debug!(%error, "the journal cannot keep what was asked for");
                Self::BadRequest("The history has nothing of this name, which it could not keep.")
            }
            _ => {
                tracing::error!(%error, "the journal failed");
                Self::Unavailable { retry_after: None }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;
    use tokio::sync::watch;

    use super::*;
    use crate::settings::{Arguments, Environment};

    #[tokio::test]
    async fn a_journal_is_waited_for_while_the_process_before_lives() {
        let folder = tempfile::tempdir().unwrap();
        let place = format!("sidecar.journal=sqlite:{}", folder.path().join("journal.db").display());
        let assignments = vec!["sidecar.history=journal".to_owned(), place];
        let arguments = Arguments { assignments, ..Arguments::default() };
        let (settings, _) = Settings::load(&arguments, &Environment::new()).unwrap();
        let former = Journal::open(&settings.journal, &settings.history, true).await.unwrap();

        let (relieve, relieved) = watch::channel(None);
        let keeper = Keeper::new(&settings, JournalAtStart::Not, relieved);
        assert!(!keeper.is_released());
        let mut awaited = pin!(keeper.awaited());
        assert!((&mut awaited).now_or_never().is_none());
        // It let go long ago: somebody else has it now.
        relieve.send_replace(Instant::now().checked_sub(2 * RELEASE));
        assert!(keeper.is_released());
        assert!(awaited.await.is_none());

        drop(former);
        assert!(keeper.open().await.is_some());
        assert!(keeper.awaited().await.is_some());
    }
}
