//! What the upstream says beside its answers: what time it is, that it wants to be asked less, that it has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::header::{AGE, DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Method, Response, StatusCode};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::time::Instant;

use super::UpstreamError;
use super::ended::{ALERT, Ended};
use crate::kinto::Timestamp;

const BACKOFF: HeaderName = HeaderName::from_static("backoff");

/// Kinto refuses a `_since` a day ahead of its clock. The rest of the day is for several Kintos behind one address, whose
/// clocks differ.
const AHEAD: Duration = Duration::from_secs(23 * 3600);

/// Kinto's `errno` of a service that has come to its end.
const SERVICE_DEPRECATED: u16 = 202;

/// What the upstream said last.
#[derive(Debug, Default)]
pub(super) struct Words {
    date: Mutex<Option<Date>>,
    advice: ArcSwapOption<Advice>,
    ended: ArcSwapOption<Ended>,
    /// Whether one of them is something, for the many who only look. Written while `turn` is held.
    has_said: AtomicBool,
    turn: Mutex<()>,
}

/// What time the upstream said it was.
#[derive(Debug, Clone, Copy)]
struct Date {
    upstreams: Timestamp,
    /// What time it was here.
    own: Timestamp,
    heard: Instant,
    /// How long before that it may have been said.
    way: Duration,
}

/// What the upstream's latest answer asks of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    backoff: Option<HeaderValue>,
    alert: Option<HeaderValue>,
    retry_after: Option<HeaderValue>,
}

#[derive(Deserialize)]
struct Kind {
    errno: u16,
}

// === impl Words ===

impl Words {
    /// The upstream answered with this, whatever the question.
    pub(super) fn note(&self, status: StatusCode, headers: &HeaderMap) {
        // Most answers have none of them: one look at their few names costs less than to look for each.
        let is_said = headers.keys().any(|name| matches!(name.as_str(), "backoff" | "alert" | "retry-after"));
        let header = |name: &HeaderName| headers.get(name).cloned();
        let advice = is_said.then(|| {
            let [backoff, alert, retry_after] = [&BACKOFF, &ALERT, &RETRY_AFTER].map(header);
            Advice { backoff, alert, retry_after }
        });
        if advice.is_none() && self.is_silent() {
            return;
        }
        if self.advice.load().as_deref() != advice.as_ref() {
            self.say(|| self.advice.store(advice.map(Arc::new)));
        }
        if status != StatusCode::GONE && self.ended.load().is_some() {
            self.say(|| self.ended.store(None));
        }
    }

    /// Something else is said from now on.
    fn say(&self, say: impl FnOnce()) {
        let _turn = self.turn.lock();
        say();
        self.has_said.store(self.advice.load().is_some() || self.ended.load().is_some(), Release);
    }

    /// The head of an answer to a question of the sidecar's own, which was asked at that moment.
    pub(super) fn note_date(&self, headers: &HeaderMap, asked: Instant) {
        // What a cache had kept says what time it was once. Some caches say of a fresh answer that its age is zero.
        if headers.get(AGE).is_some_and(|age| age.as_bytes() != b"0") {
            return;
        }
        let date = headers.get(DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
        if let Some(date) = date {
            let date = date.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis();
            let upstreams = Timestamp(u64::try_from(date).unwrap_or(u64::MAX));
            let (own, heard) = (Timestamp::now(), Instant::now());
            *self.date.lock() = Some(Date { upstreams, own, heard, way: heard - asked });
        }
    }

    /// The answer to a question of the sidecar's own, unless it is the one that the upstream has for all questions now.
    pub(super) fn heed(
        &self,
        method: &Method,
        answer: Response<Bytes>,
    ) -> Result<Response<Bytes>, UpstreamError> {
        if answer.status() != StatusCode::GONE {
            return Ok(answer);
        }
        let alert = answer.headers().get(ALERT).cloned();
        let errno = serde_json::from_slice::<Kind>(answer.body()).map(|kind| kind.errno);
        // The answer to a HEAD has no body.
        let is_said = || {
            alert.as_ref().is_some_and(|alert| alert.to_str().is_ok_and(|alert| alert.contains("hard-eol")))
        };
        if errno.is_ok_and(|errno| errno == SERVICE_DEPRECATED) || *method == Method::HEAD && is_said() {
            let ended = Arc::new(Ended { alert, body: answer.into_body() });
            self.say(|| self.ended.store(Some(Arc::clone(&ended))));
            return Err(UpstreamError::Ended(ended));
        }
        Ok(answer)
    }

    pub(super) fn advice(&self) -> Option<Arc<Advice>> {
        self.advice.load_full()
    }

    pub(super) fn ended(&self) -> Option<Arc<Ended>> {
        self.ended.load_full()
    }

    /// Whether it has neither advice nor its end to tell.
    pub(super) fn is_silent(&self) -> bool {
        !self.has_said.load(Acquire)
    }

    /// How many seconds this machine's clock is ahead of the upstream's, at least: how old what the upstream said had become
    /// on its way is not known.
    pub(super) fn clock_ahead(&self) -> Option<f64> {
        let date = (*self.date.lock())?;
        #[expect(clippy::cast_precision_loss, reason = "seconds are enough")]
        let [upstreams, own] = [date.upstreams, date.own].map(|moment| moment.0 as f64 / 1000.0);
        // A date is cut to the second: on the average, half of one is gone.
        let ahead = own - upstreams - 0.5;
        Some(if ahead > 0.0 { (ahead - date.way.as_secs_f64()).max(0.0) } else { ahead })
    }

    /// What the upstream's clock says, as far as that is known; this machine's where it is not.
    pub(super) fn time(&self) -> Timestamp {
        let date = *self.date.lock();
        date.map_or_else(Timestamp::now, |date| date.upstreams.forth(date.heard.elapsed()))
    }

    /// The greatest `_since` that the upstream takes, on the safe side.
    pub(super) fn latest_since(&self) -> Timestamp {
        self.time().forth(AHEAD)
    }
}

// === impl Advice ===

impl Advice {
    /// For how many seconds clients are asked to leave the upstream alone.
    pub fn backoff(&self) -> Option<u64> {
        self.backoff.as_ref()?.to_str().ok()?.parse().ok()
    }

    /// Puts it on an answer of the sidecar's own.
    pub fn insert(&self, status: StatusCode, headers: &mut HeaderMap) {
        let is_error = status.is_client_error() || status.is_server_error();
        let retry_after = self.retry_after.as_ref().filter(|_| is_error);
        for (name, value) in
            [(BACKOFF, &self.backoff), (ALERT, &self.alert), (RETRY_AFTER, &retry_after.cloned())]
        {
            if let Some(value) = value {
                headers.entry(name).or_insert_with(|| value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_that_is_old_is_no_clock_that_is_wrong() {
        let ahead = |ago: u64, way: u64, age: Option<&'static str>| {
            let date = std::time::SystemTime::now() - Duration::from_secs(ago);
            let date = HeaderValue::try_from(httpdate::fmt_http_date(date)).unwrap();
            let mut headers = HeaderMap::from_iter([(DATE, date)]);
            headers.extend(age.map(|age| (AGE, HeaderValue::from_static(age))));
            let words = Words::default();
            words.note_date(&headers, Instant::now() - Duration::from_secs(way));
            words.clock_ahead().map(f64::round)
        };
        let is_about =
            |ahead: Option<f64>, seconds: f64| ahead.is_some_and(|ahead| (ahead - seconds).abs() <= 1.0);
        assert!(is_about(ahead(60, 0, None), 60.0) && is_about(ahead(60, 0, Some("0")), 60.0));
        assert!(is_about(ahead(60, 20, None), 40.0));
        assert_eq!(ahead(10, 20, None), Some(0.0));
        assert_eq!(ahead(100, 0, Some("100")), None);
    }

    #[test]
    fn retry_after_is_for_errors_and_the_rest_for_all() {
        let value = |text| Some(HeaderValue::from_static(text));
        let advice = Advice { backoff: value("1"), alert: value("2"), retry_after: value("3") };
        for (status, retry_after) in [(200, None), (304, None), (404, value("3")), (503, value("3"))] {
            let mut headers = HeaderMap::new();
            advice.insert(StatusCode::from_u16(status).unwrap(), &mut headers);
            assert_eq!(headers.get(RETRY_AFTER), retry_after.as_ref(), "{status}");
            assert_eq!(
                (headers.get(BACKOFF), headers.get(ALERT)),
                (value("1").as_ref(), value("2").as_ref())
            );
        }
    }

    #[test]
    fn only_kintos_own_word_is_an_end_of_life() {
        let answer = |body: &'static str, alert: Option<&'static str>| {
            let mut answer = Response::new(Bytes::from_static(body.as_bytes()));
            *answer.status_mut() = StatusCode::GONE;
            answer.headers_mut().extend(alert.map(|alert| (ALERT, HeaderValue::from_static(alert))));
            answer
        };
        let eol = Some("{\"code\":\"hard-eol\"}");
        for (method, body, alert, is_end) in [
            (Method::GET, r#"{"code":410,"errno":202}"#, eol, true),
            (Method::GET, r#"{"code":410,"errno":202}"#, None, true),
            (Method::HEAD, "", eol, true),
            (Method::GET, r#"{"code":410,"errno":111}"#, eol, false),
            (Method::GET, "gone", eol, false),
            (Method::HEAD, "", None, false),
        ] {
            let words = Words::default();
            assert_eq!(words.heed(&method, answer(body, alert)).is_err(), is_end, "{method} {body}");
            assert_eq!(words.ended().is_some(), is_end, "{method} {body}");
        }
    }
}
