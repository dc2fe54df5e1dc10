//! Entries that are larger than most: each is read alone, when there is room for it, and looked into aside. No connection is
//! held while it waits.

use std::sync::LazyLock;

use sqlx::Row;

use super::candidate::Candidate;
use super::entry;
use super::reading::Reading;
use super::select::{Question, before};
use super::statement::Statement;
use crate::aside;
use crate::kinto::Timestamp;
use crate::wire::turns::{ClientTurn, Turns};

/// SECURITY: how many KiB of large entries are read at once, one of each client. One that has more is read alone.
const ROOM: u32 = 32 << 10;
static ROOMS: LazyLock<Turns> = LazyLock::new(|| Turns::at(ROOM));

/// Copies that there are of a text while it is read.
const COPIES: i64 = 3;

/// The text of a large entry, and of the one before about the same object where that is wanted.
pub(super) struct LargeText {
    pub(super) json: String,
    before: Option<String>,
    /// In which there is room for it.
    pub(super) room: ClientTurn,
}

/// Waits until there is room for so many bytes while they are read.
pub(super) async fn room(bytes: i64) -> ClientTurn {
    let needed = u32::try_from((bytes / 1024).saturating_mul(COPIES)).unwrap_or(ROOM).min(ROOM);
    ROOMS.next(needed).await
}

/// Reads one entry of a history once there is room for it, and has given the connection back; `None` where it is gone.
pub(super) async fn text(
    reading: &mut Reading<'_>,
    history: i64,
    last_modified: Timestamp,
    is_compared: bool,
) -> sqlx::Result<Option<LargeText>> {
    let of_this = |columns: String| {
        let select = Statement::new(&format!("SELECT {columns} FROM sidecar_entries WHERE history = "));
        select.bind(history).push(" AND last_modified = ").bind(last_modified)
    };
    let before = |what: &str| if is_compared { before(what) } else { String::new() };
    let length = |text: &str| format!("CAST(octet_length({text}) AS BIGINT)");
    let lengths = of_this(length("json") + &before(&length("earlier.json")));
    let Some(lengths) = lengths.first(reading.connection().await?).await? else { return Ok(None) };
    let mut bytes: i64 = lengths.try_get(0)?;
    if is_compared {
        bytes += lengths.try_get::<Option<i64>, _>(1)?.unwrap_or_default();
    }
    reading.give_back();
    let room = room(bytes).await;
    let text = of_this(format!("json{}", before("earlier.json")));
    let Some(text) = text.first(reading.connection().await?).await? else { return Ok(None) };
    reading.give_back();
    let before = if is_compared { text.try_get(1)? } else { None };
    Ok(Some(LargeText { json: text.try_get(0)?, before, room }))
}

impl Question<'_, '_> {
    /// A large entry that the filters select; `None` where they do not, where it repeats the one before and only changes are
    /// wanted, or where it is gone.
    pub(super) async fn large(
        &self,
        reading: &mut Reading<'_>,
        id: String,
        last_modified: Timestamp,
    ) -> sqlx::Result<Option<Candidate>> {
        let text = text(reading, self.history, last_modified, self.query.changed).await?;
        let Some(LargeText { json, before, room }) = text else { return Ok(None) };
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
