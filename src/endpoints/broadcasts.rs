//! `GET /v1/__broadcasts__`: the timestamp that a push service hands on to browsers.
//!
//! It is the newest timestamp outside preview buckets and collections. All browsers hear of it, so it does not move with
//! each change of a burst: once it has changed it stays for a while, and then becomes the newest of that moment. So the
//! last change of a burst is told, too, and it never goes back.
//!
//! Where nothing is monitored there is nothing to broadcast, and the map is empty.

use std::time::{Duration, SystemTime};

use serde_json::json;
use tokio::time::Instant;

use super::list;
use super::recent::Standing;
use crate::app::Core;
use crate::error::Error;
use crate::settings::Settings;
use crate::timeline::broadcast::Broadcasts;
use crate::timeline::entries::Entries;
use crate::wire::body::{Body, Response};
use crate::wire::cache_control::{self, Served};

/// Answers a `GET` or `HEAD`; the answer may be kept for so long.
pub async fn answer(core: &Core, lifetime: Option<Duration>) -> Result<Response, Error> {
    let app = &core.app;
    let (entries, is_stale) = app.poller.entries(None).await?;
    let (mut response, until) = respond(&app.broadcasts, &entries, &app.settings, Instant::now());
    if let Some(lifetime) = lifetime {
        cache_control::allow_for(response.headers_mut(), lifetime, SystemTime::now());
    }
    if is_stale {
        Served::Behind(app.poller.behind_for()).insert(response.headers_mut());
    } else {
        let standing = Standing::on_entries(&entries, |core| core.app.poller.at_once());
        response.extensions_mut().insert(standing);
        Standing::narrow(&mut response, move |_| until.is_none_or(|until| Instant::now() < until));
    }
    Ok(response)
}

/// The answer, and until when these entries lead to it.
fn respond(
    broadcasts: &Broadcasts,
    entries: &Entries,
    settings: &Settings,
    now: Instant,
) -> (Response, Option<Instant>) {
    let interval = Duration::from_secs(settings.kinto.push_broadcast_min_debounce_interval_seconds);
    let (timestamp, until) = broadcasts.next(entries, interval, now);
    let broadcasts = match timestamp {
        Some(timestamp) => json!({"remote-settings/monitor_changes": format!("\"{timestamp}\"")}),
        None => json!({}),
    };
    let mut response = list::json(Body::full(json!({"broadcasts": broadcasts, "code": 200}).to_string()));
    cache_control::forbid(response.headers_mut());
    (response, until)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::monitor_changes::tests::{entries, text};
    use crate::kinto::CollectionKey;

    fn ask(broadcasts: &Broadcasts, entries: &Entries, now: Instant) -> String {
        text(respond(broadcasts, entries, &Settings::default(), now).0)
    }

    fn body(timestamp: u64) -> String {
        format!(
            "{{\"broadcasts\":{{\"remote-settings/monitor_changes\":\"\\\"{timestamp}\\\"\"}},\"code\":200}}"
        )
    }

    #[test]
    fn an_answer_holds_for_its_entries_until_a_change_that_waits_may_be_told() {
        let (mut entries, start) = (entries(None), Instant::now());
        let settings = Settings::default();
        let interval = Duration::from_secs(settings.kinto.push_broadcast_min_debounce_interval_seconds);
        let broadcasts = Broadcasts::default();
        let until = |entries: &Entries, now: Instant| respond(&broadcasts, entries, &settings, now).1;
        assert_eq!(until(&entries, start), None);
        entries.rows[0].last_modified.0 += 1;
        assert_eq!(until(&entries, start + Duration::from_secs(1)), Some(start + interval));
        assert_eq!(until(&entries, start + interval), None);
    }

    #[test]
    fn the_newest_timestamp_outside_previews_is_broadcast() {
        let mut entries = entries(None);
        assert_eq!(ask(&Broadcasts::default(), &entries, Instant::now()), body(1_795_245_794_920));
        entries.rows[0].key = CollectionKey::new("main-preview", "one");
        entries.rows[1].key = CollectionKey::new("main", "three-preview");
        assert_eq!(ask(&Broadcasts::default(), &entries, Instant::now()), body(1_795_245_794_711));
        assert_eq!(
            ask(&Broadcasts::default(), &Entries::default(), Instant::now()),
            "{\"broadcasts\":{},\"code\":200}"
        );
    }
}
