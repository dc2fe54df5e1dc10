//! `GET /v1/__broadcasts__`: the timestamp that a push service hands on to browsers.
//!
//! It is the newest timestamp outside preview buckets and collections, held back so that all browsers of the world are
//! not told of each change of a burst: once it has changed it stays for a while, and then becomes the newest of
//! that moment. So the last change of a burst is told, too, and it never goes back.
//!
//! Where nothing is monitored there is nothing to broadcast, and the map is empty.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::Method;
use http::request::Parts;
use serde_json::json;
use tokio::time::Instant;

use super::list;
use super::monitor_changes::METHODS;
use crate::body::Body;
use crate::cache_control;
use crate::cors::{self, Exposed};
use crate::error::{Error, Response};
use crate::kinto::Timestamp;
use crate::settings::Settings;
use crate::timeline::entries::Entries;

/// What was broadcast last.
#[derive(Debug, Default)]
pub struct Broadcasts {
    last: Mutex<Option<Broadcast>>,
}

/// A timestamp, and when it began to be broadcast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broadcast {
    timestamp: Timestamp,
    since: Instant,
}

impl Broadcasts {
    /// Answers a request, whatever its method. CORS headers are left to [`cors::finish`].
    pub fn respond(
        &self,
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
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = debounce(*last, newest(entries), interval, now);
        let broadcasts = match *last {
            Some(broadcast) => {
                json!({"remote-settings/monitor_changes": format!("\"{}\"", broadcast.timestamp)})
            }
            None => json!({}),
        };
        drop(last);
        let mut response = list::json(Body::full(json!({"broadcasts": broadcasts, "code": 200}).to_string()));
        cache_control::forbid(response.headers_mut());
        Ok(response)
    }
}

/// The newest timestamp that is not of a preview.
fn newest(entries: &Entries) -> Option<Timestamp> {
    let is_preview = |id: &str| id.contains("-preview");
    let public = entries
        .rows
        .iter()
        .filter(|entry| !is_preview(&entry.key.bucket) && !is_preview(&entry.key.collection));
    public.map(|entry| entry.last_modified).max()
}

/// What to broadcast, given what was broadcast last and what is newest.
pub fn debounce(
    last: Option<Broadcast>,
    newest: Option<Timestamp>,
    interval: Duration,
    now: Instant,
) -> Option<Broadcast> {
    let next = newest.map(|timestamp| Broadcast { timestamp, since: now });
    match (last, next) {
        (None, next) => next,
        (Some(last), Some(next))
            if next.timestamp > last.timestamp && now.saturating_duration_since(last.since) >= interval =>
        {
            Some(next)
        }
        (last, _) => last,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::monitor_changes::tests::{entries, request, text};
    use crate::kinto::CollectionKey;

    fn ask(broadcasts: &Broadcasts, entries: &Entries, now: Instant) -> String {
        let request = request("GET", "/v1/__broadcasts__", &[]);
        text(broadcasts.respond(entries, &Settings::default(), &request, now).unwrap())
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
    fn the_last_change_of_a_burst_is_broadcast_when_the_interval_is_over() {
        let (start, interval) = (Instant::now(), Duration::from_secs(300));
        let mut last = None;
        let mut at = |newest: u64, seconds: u64| {
            let now = start + Duration::from_secs(seconds);
            last = debounce(last, Some(Timestamp(newest)), interval, now);
            last.map(|last| last.timestamp.0)
        };
        assert_eq!(at(1, 0), Some(1));
        assert_eq!(at(2, 10), Some(1));
        assert_eq!(at(3, 299), Some(1));
        assert_eq!(at(3, 300), Some(3), "the burst is over, and its last change is told");
        assert_eq!(at(4, 301), Some(3));
        assert_eq!(at(5, 600), Some(5));
        assert_eq!(at(2, 10_000), Some(5), "it never goes back");
        assert_eq!(at(6, 10_001), Some(6), "after a quiet time a change is told at once");
    }

    #[test]
    fn other_methods_are_refused() {
        let request = request("POST", "/v1/__broadcasts__", &[]);
        let answer = Broadcasts::default().respond(
            &Entries::default(),
            &Settings::default(),
            &request,
            Instant::now(),
        );
        assert_eq!(answer.unwrap_err().status(), 405);
    }
}
