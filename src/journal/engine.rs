//! The two engines: where the journal is, connections to it, and what their errors mean.

use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyConnection, AnyPool, ConnectOptions, Connection, Database, Executor, Postgres};
use tokio::sync::Semaphore;
use tokio::time::timeout;

mod faults;
mod primary;

use super::JournalError;
use super::file::{check, create, encoded, lock};
use crate::settings::JournalUrl;
use faults::unusable;
pub(super) use faults::{failed, is_damaged, is_ended, is_lacking, is_of_a_row, opening};
pub(super) use primary::{Leads, Primary, SERVER, standby};

/// How long anything may take that a writer waits for.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);
/// How long PostgreSQL takes for a statement at most, and for its answer to arrive.
const LONGEST: Duration = Duration::from_secs(35);
/// How long a reader waits for a connection.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// How long a connection to PostgreSQL is used for reading: its name may lead elsewhere by then.
const LIFE: Duration = Duration::from_secs(300);
/// How long a connection is kept that nobody reads with.
const IDLE: Duration = Duration::from_secs(300);
/// Connections that read at once.
pub(super) const READERS: u32 = 8;
/// SECURITY: of them, how many whatever may take long has: what writes have to ask does not wait for those who read histories.
pub(super) const LONG_READERS: usize = 6;
/// What a connection to PostgreSQL is told: nothing waits for ever, neither for a lock nor for a statement. A process that
/// hangs in a transaction does not keep the others from writing for longer than they wait for a lock, and one whose host is
/// gone is soon known to be dead.
const POSTGRES: &str = "SET lock_timeout = 4000; SET statement_timeout = 30000; SET synchronous_commit = on; \
                        SET idle_in_transaction_session_timeout = 3000; SET tcp_keepalives_idle = 10; \
                        SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3";
/// What a connection to SQLite is told: what is committed is on the disk, whatever happens to the power.
const SQLITE: &str = "PRAGMA synchronous = FULL; PRAGMA busy_timeout = 3000; \
                      PRAGMA journal_size_limit = 16777216; \
                      PRAGMA cache_size = -16384";
/// The same where much is written at once: each page is written into the file once and not with each transaction, and what
/// undoes a statement is in memory.
const SQLITE_AT_ONCE: &str =
    "PRAGMA cache_size = -65536; PRAGMA wal_autocheckpoint = 32768; PRAGMA temp_store = MEMORY";
/// What a connection to PostgreSQL is told where indexes are made, however long it takes.
const POSTGRES_INDEXES: &str =
    "SET lock_timeout = 0; SET statement_timeout = 0; SET maintenance_work_mem = '128MB'";
/// The same on SQLite where indexes are made: each is made of the whole table, and sorted in a file where it is large.
const SQLITE_INDEXES: &str = "PRAGMA cache_size = -262144; PRAGMA wal_autocheckpoint = 32768";

/// Which engine it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file, or memory.
    Sqlite,
    /// A server, which other processes may use, too.
    Postgres,
}

/// A journal's place and the connections that read it.
pub(super) struct Engine {
    pub(super) kind: Kind,
    /// PostgreSQL: what it listens at for news.
    pub(super) address: Option<String>,
    /// PostgreSQL: where its connections have to lead; `None` where a standby is as good.
    pub(super) primary: Option<Arc<Primary>>,
    /// SQLite: where it is, but for one in memory.
    pub(super) file: Option<PathBuf>,
    options: AnyConnectOptions,
    pub(super) pool: AnyPool,
    pub(super) long_readers: Semaphore,
    in_memory: bool,
    is_damaged: AtomicBool,
    lacks_tables: AtomicBool,
    /// Locked for as long as this process uses the file.
    lock: Option<File>,
}

/// A connection that writes.
#[derive(Debug)]
pub(super) enum Writing {
    /// One of its own.
    Own(AnyConnection),
    /// A database in memory has but one connection.
    Shared(PoolConnection<Any>),
}

// === impl Kind ===

impl Kind {
    /// The engine that a connection leads to.
    pub(super) fn of(connection: &AnyConnection) -> Self {
        match connection.backend_name() {
            Postgres::NAME => Self::Postgres,
            _ => Self::Sqlite,
        }
    }

    /// Waits for what may take long. A file is always there; PostgreSQL may not be, and what it takes longer for than it is
    /// told to never comes.
    pub(super) async fn at_last<T>(self, work: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
        match self {
            Self::Sqlite => work.await,
            Self::Postgres => bounded(LONGEST, work).await,
        }
    }

    /// What each connection is told first.
    fn told(self) -> &'static str {
        match self {
            Self::Sqlite => SQLITE,
            Self::Postgres => POSTGRES,
        }
    }

    /// The type of a key that the engine counts up.
    pub(super) fn counted_key(self) -> &'static str {
        match self {
            Self::Sqlite => "INTEGER PRIMARY KEY AUTOINCREMENT",
            Self::Postgres => "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
        }
    }

    /// How a table is kept in the order of its key.
    pub(super) fn rowless(self) -> &'static str {
        match self {
            Self::Sqlite => " WITHOUT ROWID",
            Self::Postgres => "",
        }
    }

    /// Makes a comment of what only an engine needs that several processes use.
    pub(super) fn shared(self) -> &'static str {
        match self {
            Self::Sqlite => "-- ",
            Self::Postgres => "",
        }
    }

    /// What makes texts compare byte by byte; SQLite's do.
    pub(super) fn bytewise(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::Postgres => " COLLATE \"C\"",
        }
    }

    /// How a transaction begins that only reads, and sees one moment all the time.
    pub(super) fn begin_reading(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN",
            // All of a journal may take long, and nobody waits for it.
            Self::Postgres => {
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = 0; \
                 SET LOCAL idle_in_transaction_session_timeout = 0"
            }
        }
    }

    /// How a transaction that writes begins.
    pub(super) fn begin(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN IMMEDIATE",
            Self::Postgres => "BEGIN",
        }
    }
}

impl fmt::Debug for Engine {
    /// SECURITY: the address may have a password.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Engine").field(&self.kind).finish()
    }
}

// === impl Writing ===

impl Writing {
    /// Makes ready for much that is written at once.
    pub(super) async fn expect_much(&mut self, kind: Kind) -> sqlx::Result<()> {
        if kind == Kind::Sqlite {
            self.connection().execute(SQLITE_AT_ONCE).await?;
        }
        Ok(())
    }

    /// Makes ready for indexes that are made of what is there, which nobody writes to meanwhile.
    pub(super) async fn expect_indexes(&mut self, kind: Kind) -> sqlx::Result<()> {
        let told = match kind {
            Kind::Sqlite => SQLITE_INDEXES,
            Kind::Postgres => POSTGRES_INDEXES,
        };
        self.connection().execute(told).await.map(drop)
    }

    /// The connection itself.
    pub(super) fn connection(&mut self) -> &mut AnyConnection {
        match self {
            Self::Own(connection) => connection,
            Self::Shared(connection) => connection,
        }
    }
}

// === impl Engine ===

impl Engine {
    /// Finds the place, and makes the file where there is none; connects to nothing yet.
    pub(super) async fn at(url: &JournalUrl) -> Result<Self, JournalError> {
        let lock = match url {
            JournalUrl::Sqlite(path) => {
                let lock = lock(path).await?;
                check(path)?;
                create(path)?;
                Some(lock)
            }
            JournalUrl::SqliteInMemory | JournalUrl::Postgres(_) => None,
        };
        let primary = matches!(url, JournalUrl::Postgres(_)).then(Arc::default);
        Self::found(url, lock, primary)
    }

    /// Finds the place of a journal that another process may use meanwhile; `None` where there is no file. What is only
    /// looked at may be looked at on a standby.
    pub(super) fn beside(url: &JournalUrl) -> Result<Option<Self>, JournalError> {
        match url {
            JournalUrl::Sqlite(path) if !path.try_exists().unwrap_or(true) => return Ok(None),
            JournalUrl::Sqlite(path) => check(path)?,
            JournalUrl::SqliteInMemory => {
                let text = "a journal in memory is seen by nobody but the process that has it";
                return Err(JournalError::Unusable(text.into()));
            }
            JournalUrl::Postgres(_) => {}
        }
        Self::found(url, None, None).map(Some)
    }

    fn found(
        url: &JournalUrl,
        lock: Option<File>,
        primary: Option<Arc<Primary>>,
    ) -> Result<Self, JournalError> {
        static DRIVERS: Once = Once::new();
        DRIVERS.call_once(sqlx::any::install_default_drivers);
        let (kind, address) = match url {
            JournalUrl::SqliteInMemory => (Kind::Sqlite, "sqlite::memory:".to_owned()),
            // What is not there any more is not made anew by whoever reads next.
            JournalUrl::Sqlite(path) => (Kind::Sqlite, format!("sqlite:{}?mode=rw", encoded(path)?)),
            JournalUrl::Postgres(address) => (Kind::Postgres, address.clone()),
        };
        let options = AnyConnectOptions::from_str(&address).map_err(|error| unusable(url, &error))?;
        let options = options.disable_statement_logging();
        let in_memory = matches!(url, JournalUrl::SqliteInMemory);
        let pool = AnyPoolOptions::new()
            .max_connections(if in_memory { 1 } else { READERS })
            .min_connections(u32::from(in_memory))
            .idle_timeout((!in_memory).then_some(IDLE))
            .max_lifetime((kind == Kind::Postgres).then_some(LIFE))
            .acquire_timeout(PATIENCE)
            // Which is asked by the question where it leads.
            .test_before_acquire(kind == Kind::Postgres && primary.is_none())
            .after_connect({
                let primary = primary.clone();
                move |connection, _| {
                    let primary = primary.clone();
                    Box::pin(async move {
                        connection.execute(kind.told()).await?;
                        if let Some(primary) = primary {
                            // Whoever takes it is told where it leads.
                            _ = primary.meet(connection).await;
                        }
                        Ok(())
                    })
                }
            })
            .connect_lazy_with(options.clone());
        let address = (kind == Kind::Postgres).then_some(address);
        let file = match url {
            JournalUrl::Sqlite(path) => Some(path.clone()),
            JournalUrl::SqliteInMemory | JournalUrl::Postgres(_) => None,
        };
        let long_readers = Semaphore::new(LONG_READERS);
        Ok(Self {
            kind,
            address,
            primary,
            file,
            options,
            pool,
            long_readers,
            in_memory,
            is_damaged: AtomicBool::new(false),
            lacks_tables: AtomicBool::new(false),
            lock,
        })
    }

    /// Somebody was told that. Where it says that the file is damaged, nothing is written into it any more; where a table is
    /// not there, nothing until all are there again.
    pub(super) fn note(&self, error: &sqlx::Error) {
        if is_lacking(error) && !self.lacks_tables.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "the journal lacks a table, and nothing is written into it until that is there");
        }
        if is_damaged(error) && !self.is_damaged.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "the journal is damaged, and nothing is written into it any more");
        }
    }

    /// Whether a table was not there, and nobody found all of them since.
    pub(super) fn lacks_tables(&self) -> bool {
        self.lacks_tables.load(Ordering::Relaxed)
    }

    /// All tables are there.
    pub(super) fn note_tables(&self) {
        self.lacks_tables.store(false, Ordering::Relaxed);
    }

    /// What is wrong with the file, as far as anybody was told.
    pub(super) fn damage(&self) -> Option<String> {
        let file = self.file.as_ref().filter(|_| self.is_damaged.load(Ordering::Relaxed))?;
        let shown = file.display();
        Some(format!(
            "the journal {shown} is damaged, or was written over, and nothing is written into it: stop the sidecar, put a \
             backup in its place, and start it again (kinto-sidecar history verify says what is wrong)"
        ))
    }

    /// Whether the file is this process's alone. Of a database in memory it goes without saying.
    pub(super) fn is_locked(&self) -> bool {
        self.lock.is_some()
    }

    /// Lets others use the file.
    pub(super) fn unlock(&self) {
        if let Some(Err(error)) = self.lock.as_ref().map(File::unlock) {
            tracing::error!(%error, "the journal cannot be let go of before this process ends");
        }
    }

    /// Whether a connection that was kept can be used to write, and leads where it has to.
    pub(super) async fn is_good(&self, connection: &mut AnyConnection) -> bool {
        match &self.primary {
            None => connection.ping().await.is_ok(),
            Some(primary) => matches!(primary.look(connection).await, Ok(Leads::There)),
        }
    }

    /// A connection that writes.
    pub(super) async fn writing(&self) -> sqlx::Result<Writing> {
        if self.in_memory {
            return self.pool.acquire().await.map(Writing::Shared);
        }
        bounded(DEADLINE, async {
            let mut connection = AnyConnection::connect_with(&self.options).await?;
            connection.execute(self.kind.told()).await?;
            if let Some(primary) = &self.primary
                && primary.meet(&mut connection).await? == Leads::ToStandby
            {
                return Err(standby());
            }
            Ok(Writing::Own(connection))
        })
        .await
    }
}

/// Waits for an answer, but not for ever.
pub(super) async fn bounded<T>(
    patience: Duration,
    answer: impl Future<Output = sqlx::Result<T>>,
) -> sqlx::Result<T> {
    timeout(patience, answer).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}
