//! News among processes that share a journal: PostgreSQL's `NOTIFY`, in the transaction that records.

use std::sync::Weak;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgListener, PgNotification};
use sqlx::{AnyConnection, Row};
use tokio::sync::broadcast;
use tokio::time::{sleep, timeout};

use super::engine::{DEADLINE, Engine, Leads, SERVER, bounded};
use super::statement::Statement;
use super::{News, Object};
use crate::kinto::Timestamp;

/// PostgreSQL refuses more.
const MOST_BYTES: usize = 7000;
/// How long it waits before it connects again.
const PAUSE: Duration = Duration::from_secs(1);
/// After how long a silence it is asked whether the connection still leads to anybody.
const SILENCE: Duration = Duration::from_secs(10);

#[derive(Serialize, Deserialize)]
struct Notice {
    by: i64,
    objects: Vec<(String, u64)>,
}

/// Tells the other processes, once the transaction is committed.
pub(super) async fn tell(
    connection: &mut AnyConnection,
    channel: &str,
    by: i64,
    objects: &[(Object, Timestamp)],
) -> sqlx::Result<()> {
    let mut notices: Vec<Vec<(String, u64)>> = Vec::new();
    let mut bytes = MOST_BYTES;
    for (object, modified) in objects {
        let uri = object.to_string();
        bytes += uri.len() + 30;
        if bytes > MOST_BYTES {
            notices.push(Vec::new());
            bytes = uri.len() + 30;
        }
        if let Some(notice) = notices.last_mut().filter(|_| uri.len() < MOST_BYTES) {
            notice.push((uri, modified.0));
        }
    }
    for objects in notices {
        let notice = serde_json::to_string(&Notice { by, objects }).unwrap_or_default();
        let tell = Statement::new("SELECT pg_notify(").bind(channel).push(", ").bind(notice).push(")");
        tell.execute(connection).await?;
    }
    Ok(())
}

/// The channel of the journal that a connection uses: there may be one in each schema of a database.
pub(super) async fn channel(connection: &mut AnyConnection) -> sqlx::Result<String> {
    let channel =
        Statement::new("SELECT 'sidecar_journal_' || md5(current_schema())").first(connection).await?;
    channel.ok_or(sqlx::Error::RowNotFound)?.try_get(0)
}

/// Passes on what other processes tell, until nobody can be told any more.
pub(super) async fn listen(
    engine: Weak<Engine>,
    address: String,
    channel: String,
    by: i64,
    news: broadcast::WeakSender<News>,
) {
    let mut listener = None;
    loop {
        let heard = hear(&mut listener, &engine, &address, &channel).await;
        let Some(news) = news.upgrade() else { return };
        let objects = match heard {
            Ok(Some(notice)) => match read(&notice, by) {
                Some(objects) => objects,
                None => continue,
            },
            // It was not listening for a while: nobody knows what it missed.
            Ok(None) => Vec::new(),
            Err(_) => {
                listener = None;
                drop(news);
                sleep(PAUSE).await;
                continue;
            }
        };
        // Nobody may be listening here.
        let _ = news.send(News { objects, is_foreign: true });
    }
}

async fn hear(
    listener: &mut Option<PgListener>,
    engine: &Weak<Engine>,
    address: &str,
    channel: &str,
) -> sqlx::Result<Option<PgNotification>> {
    if let Some(listener) = listener {
        loop {
            if let Ok(heard) = timeout(SILENCE, listener.try_recv()).await {
                return heard;
            }
            let server = sqlx::query_scalar(SERVER).fetch_one(&mut *listener);
            let server = bounded(DEADLINE, server).await?;
            let primary = engine.upgrade().and_then(|engine| engine.primary.clone());
            if primary.is_some_and(|primary| primary.leads(server) != Leads::There) {
                return Err(sqlx::Error::PoolClosed);
            }
        }
    }
    let mut new = bounded(DEADLINE, PgListener::connect(address)).await?;
    bounded(DEADLINE, new.listen(channel)).await?;
    *listener = Some(new);
    Ok(None)
}

/// The objects of a notice of another process.
fn read(notice: &PgNotification, by: i64) -> Option<Vec<(Object, Timestamp)>> {
    let notice: Notice =
        serde_json::from_str(notice.payload()).ok().filter(|notice: &Notice| notice.by != by)?;
    let objects = notice.objects.into_iter();
    Some(objects.filter_map(|(uri, modified)| Some((Object::of_uri(&uri)?, Timestamp(modified)))).collect())
}
