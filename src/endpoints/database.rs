//! `GET …/collections/{collection}/`, with the slash: a collection as CouchDB describes a database.
//!
//! `PouchDB` takes `update_seq` from here for its `since: "now"`; on Kinto's redirect it would silently begin at 0.

use http::Method;
use http::request::Parts;
use serde_json::{Map, Value, json};

use crate::app::Core;
use crate::endpoints::feed::admission::admitted;
use crate::endpoints::feed::tell_of_unreadable;
use crate::endpoints::list;
use crate::error::Error;
use crate::feeds::Subject;
use crate::feeds::snapshot::Snapshot;
use crate::kinto::CollectionKey;
use crate::mirror::Freshness;
use crate::upstream::kinto::{KintoError, Source};
use crate::wire::body::{Body, Response};
use crate::wire::cache_control::{self, Served};

/// Answers a `GET` or `HEAD`.
pub async fn answer(core: &Core, key: CollectionKey, request: &Parts) -> Result<Response, Error> {
    let app = &core.app;
    let requester = core.requester(&request.headers);
    let (Subject::Collection(key), is_stale) = admitted(core, Subject::Collection(key), &requester).await?
    else {
        return Err(Error::NotFound);
    };
    let sources = &app.feeds.sources;
    let (counted, freshness) = match sources.content(&key).await {
        Ok((records, freshness)) => {
            let content = &records.state.content;
            let bytes: usize = content.rows().iter().map(|row| content.json(row).len()).sum();
            let counted = json!({
                "update_seq": content.high.json(),
                "doc_count": content.live(),
                "doc_del_count": content.rows().len() - content.live(),
                "sizes": { "external": bytes, "active": bytes, "file": bytes },
            });
            (counted, freshness)
        }
        // What is not kept in memory is not counted in bytes: CouchDB's clients do without.
        Err(error @ (KintoError::Oversize | KintoError::Refused(_))) => {
            let source = if matches!(error, KintoError::Oversize) {
                Source::new(core.upstream.clone())
            } else {
                tell_of_unreadable(core, &Subject::Collection(key.clone()));
                requester.source()
            };
            let records = sources.unkept(&key, source).await?;
            let counted = json!({ "update_seq": records.newest_seq().json(), "doc_count": records.live() });
            (counted, Freshness::Refreshed)
        }
        Err(error) => return Err(error.into()),
    };
    // Who copied it by other numbers has to begin anew.
    let revisions = sources.revisions(&key).await?;
    let began = revisions.as_ref().map_or("0", |revisions| revisions.began());
    let constant = json!({
        "db_name": &*key.collection,
        "purge_seq": 0,
        "props": {},
        "compact_running": false,
        "disk_format_version": 8,
        "instance_start_time": began,
    });
    let members = [counted, constant].into_iter().filter_map(|part| match part {
        Value::Object(members) => Some(members),
        _ => None,
    });
    let document: Map<String, Value> = members.flatten().collect();
    let document = Value::Object(document);
    let body = if request.method == Method::HEAD { Body::empty() } else { Body::full(document.to_string()) };
    let mut response = list::json(body);
    cache_control::forbid(response.headers_mut());
    let is_stale = is_stale || freshness == Freshness::Stale;
    Served::from_memory(is_stale.then(|| app.poller.behind_for())).insert(response.headers_mut());
    if !requester.is_anonymous() {
        cache_control::keep_private(response.headers_mut());
    }
    Ok(response)
}
