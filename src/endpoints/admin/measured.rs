//! What is measured when it is asked for.

use crate::app::App;
use crate::feeds::Subject;
use crate::metrics::process;
use crate::metrics::text::Exposition;

/// SECURITY: of how many monitored collections each has numbers of its own. They are made by whoever may write.
const COLLECTIONS: usize = 200;

/// Numbers about the process and what it keeps, as Prometheus reads them. Those of single collections have names.
pub(super) fn render(app: &App, tells_names: bool) -> String {
    let mut out = Exposition::default();
    let name = "kinto_sidecar_build_info";
    out.begin(name, "gauge", "What runs: always 1.");
    out.add(name, &[("version", env!("CARGO_PKG_VERSION"))], 1);
    process::render(&mut out);
    let name = "kinto_sidecar_connections_limit";
    let most = app.settings.limits.connections;
    out.one(name, "gauge", "How many client connections there may be.", most);
    if let Some((bytes, age)) = app.warm.kept() {
        let name = "kinto_sidecar_state_bytes";
        out.one(name, "gauge", "Bytes on disk of what a restart begins with.", bytes);
        let name = "kinto_sidecar_state_age_seconds";
        out.one(name, "gauge", "How long ago that was written.", age.as_secs_f64());
    }
    collections(&mut out, app, tells_names);
    out.into_text()
}

/// Each monitored collection, up to so many, in the order of their names.
fn collections(out: &mut Exposition, app: &App, tells_names: bool) {
    let entries = app.timeline.entries();
    let mut keys: Vec<_> = entries.rows.iter().map(|entry| &entry.key).collect();
    let name = "kinto_sidecar_monitored_collections";
    out.one(name, "gauge", "Monitored collections that are known.", keys.len());
    let name = "kinto_sidecar_failing";
    let help = "Collections on which the upstream failed, or hung, when it was last asked.";
    out.one(name, "gauge", help, app.poller.failing());
    if !tells_names {
        return;
    }
    keys.sort_unstable_by_key(|key| (&key.bucket, &key.collection));
    keys.truncate(COLLECTIONS);
    let named: Vec<_> = keys.iter().map(|key| (*key, key.to_string())).collect();

    let name = "kinto_sidecar_collection_timestamp_age_seconds";
    out.begin(name, "gauge", "How long ago the upstream was asked for a monitored collection's timestamp.");
    for (key, label) in &named {
        if let Some(age) = app.timeline.known_clock(key).and_then(|clock| clock.age()) {
            out.add(name, &[("collection", label)], age.as_secs_f64());
        }
    }
    let name = "kinto_sidecar_collection_mirror_bytes";
    out.begin(name, "gauge", "Memory of a monitored collection's mirror.");
    for (key, label) in &named {
        let bytes = app.mirrors.known(key).map_or(0, |mirror| mirror.bytes());
        out.add(name, &[("collection", label)], bytes);
    }
    let name = "kinto_sidecar_collection_feed_readers";
    out.begin(name, "gauge", "Readers of a monitored collection's live feeds.");
    for (key, label) in &named {
        let readers = app.feeds.readers(&Subject::Collection((*key).clone()));
        out.add(name, &[("collection", label)], readers);
    }
}
