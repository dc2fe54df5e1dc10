//! What the page shows, as it is now.

use serde_json::{Value, json};

use crate::app::App;
use crate::condition::Condition;
use crate::feeds::Subject;
use crate::kinto::CollectionKey;
use crate::upstream::Upstream;
use crate::{metrics, troubles};

/// SECURITY: how many collections are told of. They are made by whoever may write.
const COLLECTIONS: usize = 10_000;

/// All of it.
pub(super) async fn of(app: &App, upstream: &Upstream) -> Value {
    let (condition, journal) = tokio::join!(Condition::of(app, upstream), app.history.size());
    let entries = app.timeline.entries();
    let (answers, microseconds) = metrics::upstream_answers();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "upstream": {
            "url": app.settings.upstream.to_string(),
            "answers": answers,
            "microseconds": microseconds,
            "error": upstream.outage().error(),
        },
        "condition": condition,
        "timestamp": entries.timestamp.0,
        "behind": app.poller.is_behind().then(|| app.poller.behind_for()),
        "cache": metrics::cache_outcomes(),
        "mirrors": {"bytes": app.mirrors.bytes(), "limit": app.settings.cache_size},
        "connections": {"open": metrics::connections(), "limit": app.settings.limits.connections},
        "state": app.warm.kept().map(|(bytes, age)| json!({"bytes": bytes, "age": age.as_secs()})),
        "journal": journal.map(|size| json!({
            "place": format!("{:?}", app.settings.journal),
            "entries": size.entries,
            "bytes": size.bytes,
            "open_intents": size.open_intents,
        })),
        "collections": collections(app),
        "troubles": troubles::last().iter().map(|trouble| json!({
            "time": trouble.time, "is_error": trouble.is_error, "words": trouble.words,
        })).collect::<Vec<_>>(),
        "settings": app.settings.in_force.iter().map(|setting| json!({
            "name": setting.name,
            "section": setting.section,
            "value": setting.shown(),
            "origin": setting.origin.to_string(),
        })).collect::<Vec<_>>(),
    })
}

/// Each collection that is monitored or kept, in the order of their names: bucket, collection, timestamp, seconds since the
/// upstream was asked, bytes of its mirror, readers of its feeds.
fn collections(app: &App) -> Vec<Value> {
    let mut keys: Vec<CollectionKey> = app.timeline.monitored().keys();
    keys.extend(app.mirrors.all().iter().map(|mirror| mirror.clock().key().clone()));
    keys.sort_unstable();
    keys.dedup();
    keys.truncate(COLLECTIONS);
    let row = |key: CollectionKey| {
        let clock = app.timeline.known_clock(&key);
        let timestamp = clock.as_ref().map_or(0, |clock| clock.timestamp().0);
        let age = clock.and_then(|clock| clock.age()).map(|age| age.as_secs());
        let bytes = app.mirrors.known(&key).and_then(|mirror| mirror.state().map(|_| mirror.bytes()));
        let readers = app.feeds.readers(&Subject::Collection(key.clone()));
        json!([&*key.bucket, &*key.collection, timestamp, age, bytes.unwrap_or(0), readers])
    };
    keys.into_iter().map(row).collect()
}
