//! `GET /v1/__broadcasts__`: the timestamp that a push service hands on to browsers.
//!
//! It is the newest timestamp outside preview buckets and collections, held back so that all browsers of the world are
//! not told of each change of a burst: once it has changed it stays for a while, and then becomes the newest of
//! that moment. So the last change of a burst is told, too, and it never goes back.
//!
//! Where nothing is monitored there is nothing to broadcast, and the map is empty.

use std::time::Duration;

use http::Method;
use http::request::Parts;
use serde_json::json;
use tokio::time::Instant;

use super::list;
use super::monitor_changes::METHODS;
use crate::error::Error;
use crate::settings::Settings;
use crate::timeline::broadcast::Broadcasts;
use crate::timeline::entries::Entries;
use crate::wire::body::{Body, Response};
use crate::wire::cache_control;
use crate::wire::cors::{self, Exposed};

/// Answers a request, whatever its method. CORS headers are left to [`cors::finish`].
pub fn respond(
    broadcasts: &Broadcasts,
    entries: &Entries,
    settings: &Settings,
    request: &Parts,
    now: Instant,
) -> Result<Response, Error> {
    if request.method == Method::OPTIONS {
        let origins = &settings.kinto.cors_origins;
        return Ok(cors::preflight(&request.headers, METHODS, Exposed::Plain, origins)?);
    }
    list::check_method(&request.method)?;
    let interval = Duration::from_secs(settings.kinto.push_broadcast_min_debounce_interval_seconds);
    let broadcasts = match broadcasts.next(entries, interval, now) {
        Some(timestamp) => json!({"remote-settings/monitor_changes": format!("\"{timestamp}\"")}),
        None => json!({}),
    };
    let mut response = list::json(Body::full(json!({"broadcasts": broadcasts, "code": 200}).to_string()));
    cache_control::forbid(response.headers_mut());
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::monitor_changes::tests::{entries, request, text};
    use crate::kinto::CollectionKey;

    fn ask(broadcasts: &Broadcasts, entries: &Entries, now: Instant) -> String {
        let request = request("GET", "/v1/__broadcasts__", &[]);
        text(respond(broadcasts, entries, &Settings::default(), &request, now).unwrap())
    }

    fn body(timestamp: u64) -> String {
        format!(
            "{{\"broadcasts\":{{\"remote-settings/monitor_changes\":\"\\\"{timestamp}\\\"\"}},\"code\":200}}"
        )
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

    #[test]
    fn other_methods_are_refused() {
        let request = request("POST", "/v1/__broadcasts__", &[]);
        let answer = respond(
            &Broadcasts::default(),
            &Entries::default(),
            &Settings::default(),
            &request,
            Instant::now(),
        );
        assert_eq!(answer.unwrap_err().status(), 405);
    }
}
