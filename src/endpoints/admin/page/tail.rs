//! A collection's changes as they come, as events: which record, when, and whether it was deleted; nothing of what is in it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde_json::json;

use crate::app::App;
use crate::endpoints::admin::respond;
use crate::kinto::CollectionKey;
use crate::kinto::seq::Seq;
use crate::mirror::State;
use crate::mirror::content::Row;
use crate::wire::body::{Body, Response, Sender};

/// How many changes that were there already are told at first.
const EARLIER: usize = 10;

/// How many changes are told at once.
const MOST: usize = 100;

/// How often the connection shows that it is there.
const BEAT: Duration = Duration::from_secs(10);

/// The pause after a collection could not be read.
const BREATHER: Duration = Duration::from_secs(1);

/// Tells of a collection's changes until its reader goes away.
pub(super) fn answer(app: &Arc<App>, key: CollectionKey) -> Response {
    let (sender, body) = Body::channel();
    tokio::spawn(tell(Arc::clone(app), key, sender));
    respond(StatusCode::OK, "text/event-stream", "").map(|_| body)
}

async fn tell(app: Arc<App>, key: CollectionKey, sender: Sender) {
    let mirror = app.mirrors.hold(&key);
    let _listening = mirror.clock().listen();
    let mut told: Option<Seq> = None;
    let mut failed = String::new();
    loop {
        let news = mirror.clock().news();
        mirror.clock().used();
        let event = match app.mirrors.current(&mirror, None).await {
            Ok((state, _)) => {
                failed.clear();
                let event = changes(&state, told);
                told = Some(told.unwrap_or_default().max(state.content.high));
                event
            }
            Err(error) => {
                let words = error.to_string();
                let is_known = std::mem::replace(&mut failed, words.clone()) == words;
                if is_known { String::new() } else { format!("event: trouble\ndata: {}\n\n", json!(words)) }
            }
        };
        if !event.is_empty() && sender.send(Bytes::from(event)).await.is_err() {
            return;
        }
        let known = if mirror.settled().is_some() { mirror.clock().news() } else { news };
        let pause = if failed.is_empty() { BEAT } else { BREATHER };
        tokio::select! {
            () = sender.closed() => return,
            () = mirror.clock().news_beyond(known), if failed.is_empty() => {}
            () = tokio::time::sleep(pause) => {
                if sender.send(Bytes::from_static(b":\n\n")).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The rows after a place, oldest first; of many, the newest.
fn changes(state: &State, told: Option<Seq>) -> String {
    let content = &state.content;
    let most = if told.is_some() { MOST } else { EARLIER };
    let rows = content.by_seq().iter().rev().filter_map(|index| content.rows().get(*index));
    let mut rows: Vec<_> = rows.take_while(|row| told.is_none_or(|told| row.seq > told)).take(most).collect();
    rows.reverse();
    let event = |row: &Row| {
        let change = json!({"id": &*row.id, "last_modified": row.last_modified.0, "deleted": row.deleted});
        format!("data: {change}\n\n")
    };
    rows.into_iter().map(event).collect()
}
