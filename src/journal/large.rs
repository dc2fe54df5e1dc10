//! Entries that are larger than most: each is read alone, when there is room for it, and looked into aside.

use sqlx::{AnyConnection, Row};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::candidate::Candidate;
use super::entry;
use super::select::{Question, before};
use super::statement::Statement;
use crate::aside;
use crate::kinto::Timestamp;

/// SECURITY: how many KiB of large entries are read at once, whoever asks. One that has more is read alone.
const ROOM: u32 = 32 << 10;
static ROOM_LEFT: Semaphore = Semaphore::const_new(ROOM as usize);

/// Copies that there are of a text while it is read.
const COPIES: i64 = 3;

/// Waits until there is room for so many bytes while they are read.
pub(super) async fn room(bytes: i64) -> Option<SemaphorePermit<'static>> {
    let needed = u32::try_from((bytes / 1024).saturating_mul(COPIES)).unwrap_or(ROOM).min(ROOM);
    ROOM_LEFT.acquire_many(needed).await.ok()
}

impl Question<'_, '_> {
    /// A large entry that the filters select; `None` where they do not, where it repeats the one before and only changes are
    /// wanted, or where it is gone.
    pub(super) async fn large(
        &self,
        connection: &mut AnyConnection,
        id: String,
        last_modified: Timestamp,
    ) -> sqlx::Result<Option<Candidate>> {
        let of_this = |columns: String| {
            let select = Statement::new(&format!("SELECT {columns} FROM sidecar_entries WHERE history = "));
            select.bind(self.history).push(" AND last_modified = ").bind(last_modified)
        };
        let is_compared = self.query.changed;
        let before = |what: &str| if is_compared { before(what) } else { String::new() };
        let length = |text: &str| format!("CAST(octet_length({text}) AS BIGINT)");
        let lengths = of_this(length("json") + &before(&length("earlier.json")));
        let Some(lengths) = lengths.first(connection).await? else { return Ok(None) };
        let mut bytes: i64 = lengths.try_get(0)?;
        if is_compared {
            bytes += lengths.try_get::<Option<i64>, _>(1)?.unwrap_or_default();
        }
        let room = room(bytes).await;
        let text = of_this(format!("json{}", before("earlier.json"))).first(connection).await?;
        let Some(text) = text else { return Ok(None) };
        let json: String = text.try_get(0)?;
        let before: Option<String> = if is_compared { text.try_get(1)? } else { None };
        drop(text);
        let (query, shown) = (self.query.clone(), self.shown());
        let looked = aside::run(json.len(), move || {
            let json = shown(json);
            let is_repetition = before.is_some_and(|before| entry::is_repetition(&json, &before));
            if is_repetition {
                return (None, room);
            }
            let candidate = Candidate::large(id, last_modified, json, &query);
            (Some(candidate).filter(|candidate| query.matches(candidate)), room)
        });
        let (candidate, _room) = looked.await.map_err(|_| sqlx::Error::WorkerCrashed)?;
        Ok(candidate)
    }
}
