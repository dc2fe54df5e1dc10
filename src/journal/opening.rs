//! A journal on its way to be open: found, then brought up to date, then in use.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{broadcast, mpsc};

use super::engine::{self, DEADLINE, Engine, failed};
use super::fits::LeftOut;
use super::late::Late;
use super::leave::Leaving;
use super::owner::Owner;
use super::place::Place;
use super::readers::ReaderSets;
use super::upgrade::Upgrade;
use super::writer::{Portions, Writer};
use super::{Journal, JournalError, file, much, notify, queue, schema, trim};
use crate::settings::{HistorySettings, JournalUrl};

/// News kept for a subscriber that is slow.
const NEWS_KEPT: usize = 1024;

/// A journal that was found. Everything of the old process is known to be dead (SQLite: the file is locked for this process)
/// or left to the process that it belongs to (PostgreSQL).
#[derive(Debug)]
pub struct Opening {
    url: JournalUrl,
    engine: Arc<Engine>,
}

// === impl Opening ===

impl Opening {
    /// Finds the journal, and makes its file where there is none.
    pub async fn begin(url: &JournalUrl) -> Result<Self, JournalError> {
        Ok(Self { url: url.clone(), engine: Arc::new(Engine::at(url).await?) })
    }

    /// Whether bringing it up to date takes long; changes nothing.
    pub async fn takes_long(&self) -> Result<bool, JournalError> {
        match self.url {
            JournalUrl::SqliteInMemory => Ok(false),
            _ => schema::takes_long(&self.engine, &self.url).await,
        }
    }

    /// Brings it up to date, which `upgrade` says how far it is, and begins to use it.
    pub async fn finish(
        self,
        settings: &HistorySettings,
        explicit_permissions: bool,
        upgrade: &Upgrade,
    ) -> Result<Journal, JournalError> {
        let Self { url, engine } = self;
        let url = &url;
        schema::prepare(&engine, url, upgrade).await?;
        file::keep_private(url);
        let place = match url {
            JournalUrl::Sqlite(path) => {
                Some(Place::of(path, &engine).await.map_err(|error| engine::opening(url, &error))?)
            }
            _ => None,
        };
        let owner = Arc::new(Owner::new(Arc::clone(&engine)));
        owner.hold().await.map_err(|error| failed(&error))?;
        let told = "an import left indexes of the journal out: they are made first";
        much::make(&engine, Some(told)).await.map_err(|error| engine::opening(url, &error))?;
        let (news, _) = broadcast::channel(NEWS_KEPT);
        let (queue, waiting) = mpsc::channel(queue::WAITING);
        let channel = match &engine.address {
            None => None,
            Some(address) => {
                let channel =
                    engine.ask(DEADLINE, async |connection| notify::channel(connection).await).await?;
                let news = news.downgrade();
                let of = Arc::downgrade(&engine);
                tokio::spawn(notify::listen(of, address.clone(), channel.clone(), owner.number, news));
                Some(channel)
            }
        };
        let left_out = Arc::new(LeftOut::default());
        #[cfg(test)]
        let tallies = super::tally::Tallies::default();
        let writer = Writer {
            engine: Arc::clone(&engine),
            rules: settings.clone(),
            explicit_permissions,
            owner: owner.number,
            news: news.clone(),
            channel,
            held: None,
            reader_sets: ReaderSets::default(),
            stray: Vec::new(),
            late: Late::default(),
            portions: Portions::default(),
            left_out: Arc::clone(&left_out),
            place,
            open: HashMap::new(),
            leaving: Leaving::default(),
            #[cfg(test)]
            tallies: Arc::clone(&tallies),
        };
        tokio::spawn(writer.run(waiting));
        tokio::spawn(trim::run(queue.downgrade(), news.subscribe(), settings.clone()));
        tokio::spawn(Owner::keep_holding(Arc::downgrade(&owner)));
        Ok(Journal {
            engine,
            owner,
            queue,
            news,
            left_out,
            #[cfg(test)]
            tallies,
        })
    }
}

// === impl Journal ===

impl Journal {
    /// Opens the journal, makes it or brings its schema up to date.
    pub async fn open(
        url: &JournalUrl,
        settings: &HistorySettings,
        explicit_permissions: bool,
    ) -> Result<Self, JournalError> {
        let opening = Opening::begin(url).await?;
        opening.finish(settings, explicit_permissions, &Upgrade::default()).await
    }

    /// Whether a journal that is not there could be made, as far as can be seen without making it.
    pub fn can_be_made(url: &JournalUrl) -> Result<(), JournalError> {
        match url {
            JournalUrl::Sqlite(path) => file::has_directory(path),
            JournalUrl::SqliteInMemory | JournalUrl::Postgres(_) => Ok(()),
        }
    }

    /// Whether the journal could be opened, as far as can be seen while another process uses it. Nothing is changed.
    pub async fn examine(url: &JournalUrl) -> Result<(), JournalError> {
        if *url == JournalUrl::SqliteInMemory {
            return Ok(());
        }
        match Engine::beside(url)? {
            Some(engine) => schema::examine(&engine, url).await.map(drop),
            None => Self::can_be_made(url),
        }
    }
}
