//! PostgreSQL: which server a connection leads to.
//!
//! A name may lead to another server than it did, and a connection to the former one lives on: to a standby that the name led
//! to for a moment, or to a primary that is none any more. What is read there is old, and nothing says so. So each
//! connection is asked, in place of a ping, whether it leads where the one led that was made last.

use std::sync::atomic::{AtomicI64, Ordering};

use sqlx::{AnyConnection, Row};

/// When the server began to run, which no two have in common to the microsecond; of a standby, [`STANDBY`].
pub(in crate::journal) const SERVER: &str = "SELECT CASE WHEN pg_is_in_recovery() THEN 0 ELSE \
     CAST(EXTRACT(EPOCH FROM pg_postmaster_start_time()) * 1000000 AS BIGINT) END";
/// A server that cannot be written, and may be behind.
const STANDBY: i64 = 0;

/// Where the connection led that was made last. That to a standby does not count.
#[derive(Debug, Default)]
pub(in crate::journal) struct Primary(AtomicI64);

/// Where a connection leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::journal) enum Leads {
    /// Where the one led that was made last.
    There,
    /// To another server.
    Elsewhere,
    /// To a standby.
    ToStandby,
}

// === impl Primary ===

impl Primary {
    /// A connection was made.
    pub(super) async fn meet(&self, connection: &mut AnyConnection) -> sqlx::Result<Leads> {
        let server = server(connection).await?;
        if server == STANDBY {
            return Ok(Leads::ToStandby);
        }
        self.0.store(server, Ordering::Relaxed);
        Ok(Leads::There)
    }

    /// Where a connection leads that was made earlier.
    pub(in crate::journal) async fn look(&self, connection: &mut AnyConnection) -> sqlx::Result<Leads> {
        server(connection).await.map(|server| self.leads(server))
    }

    /// Where a connection leads whose server says [`SERVER`] of itself.
    pub(in crate::journal) fn leads(&self, server: i64) -> Leads {
        if server == STANDBY {
            Leads::ToStandby
        } else if server == self.0.load(Ordering::Relaxed) {
            Leads::There
        } else {
            Leads::Elsewhere
        }
    }
}

async fn server(connection: &mut AnyConnection) -> sqlx::Result<i64> {
    sqlx::query(SERVER).fetch_one(connection).await?.try_get(0)
}

/// What those are told whose connection leads to a standby.
pub(in crate::journal) fn standby() -> sqlx::Error {
    sqlx::Error::Protocol("its PostgreSQL is a standby, which cannot be written".to_owned())
}
