//! The access log: one line for each request when its answer is written, and one for each part of a batch.
//!
//! The JSON is what Kinto's `request.summary` and `subrequest.summary` loggers write through
//! `kinto.core.JsonLogFormatter`, so that dashboards carry over. `client`, `bytes`, `upstream_t`, `cache` and `traceparent`
//! are the sidecar's own.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use http::header::{ACCEPT_LANGUAGE, AUTHORIZATION, COOKIE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body::Body as _;
use tokio::time::Instant;

mod counted;
mod json;
mod target;
mod text;

use counted::Counting;

use crate::access::Credentials;
use crate::current::{Current, Part};
use crate::log_stream;
use crate::metrics::CacheOutcome;
use crate::settings::{LogFormat, Settings};
use crate::wire::body::Response;
use crate::wire::peer::{Peer, client};

/// The filter of `sidecar.log` that these lines obey too.
const TARGET: &str = "kinto_sidecar::access";
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// A body of more bytes may break off before it was written.
const LITTLE: u64 = 64 << 10;
/// As far into an error's body its number is looked for.
const ERRNO_WITHIN: usize = 64;
/// The most that a thread keeps for its next lines, in bytes.
const LITTLE_BUFFER: usize = 16 << 10;

/// How lines are written, once the process has begun to.
static FORM: ArcSwapOption<Form> = ArcSwapOption::const_empty();

enum Form {
    Text,
    /// What stands in each line between its type and its fields.
    Json(String),
}

/// A request that will have a line.
#[derive(Debug)]
pub struct AccessLine {
    began: Instant,
    method: Method,
    agent: Option<HeaderValue>,
    lang: Option<HeaderValue>,
    traceparent: Option<HeaderValue>,
    client: HeaderValue,
    /// Who asks, where somebody says who they are.
    pub credentials: Option<Credentials>,
}

/// What a line says of its request that is noted elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct Told<'r> {
    /// Its target.
    pub uri: &'r Uri,
    /// Its id.
    pub id: &'r HeaderValue,
    /// What it is made of, where it is a batch.
    pub parts: Option<&'r [Part]>,
    /// For how long the upstream was waited for, where it was.
    pub waited: Option<Duration>,
}

/// A request with all else that its line says.
pub(crate) struct Answered {
    line: AccessLine,
    user: Option<String>,
    status: StatusCode,
    cache: CacheOutcome,
    errno: Option<u16>,
    bytes: u64,
}

/// Writes lines as these settings say from now on.
pub fn change(settings: &Settings, envelope: impl FnOnce() -> String) {
    FORM.store(Some(Arc::new(match settings.log_format {
        LogFormat::Text => Form::Text,
        LogFormat::Json => Form::Json(envelope()),
    })));
}

impl AccessLine {
    /// `None` where nobody reads it.
    pub fn begin<B>(request: &Request<B>, began: Instant, peer: &Peer, settings: &Settings) -> Option<Self> {
        let is_wanted = settings.access_log && tracing::enabled!(target: TARGET, tracing::Level::INFO);
        if !is_wanted {
            return None;
        }
        let headers = request.headers();
        let (mut agent, mut lang, mut traceparent, mut is_named) = (None, None, None, false);
        // One look at all costs less than a search for each.
        for (name, value) in headers {
            let place = match name {
                name if *name == USER_AGENT => &mut agent,
                name if *name == ACCEPT_LANGUAGE => &mut lang,
                name if *name == TRACEPARENT => &mut traceparent,
                name => {
                    is_named |= *name == AUTHORIZATION || *name == COOKIE;
                    continue;
                }
            };
            place.get_or_insert_with(|| value.clone());
        }
        Some(Self {
            began,
            method: request.method().clone(),
            agent,
            lang,
            traceparent,
            client: name_of(peer, headers, settings),
            credentials: is_named.then(|| Credentials::of(headers)),
        })
    }

    /// Writes the line once the answer is written: at once, as a rule. `took` is what the request has taken until now, `user`
    /// the id of who asked, where that is known. `noted` is asked for where the line has to wait.
    pub fn end(
        self,
        told: &Told<'_>,
        noted: impl FnOnce() -> Arc<Current>,
        took: Duration,
        user: Option<String>,
        cache: CacheOutcome,
        response: Response,
    ) -> Response {
        let body = response.body();
        let status = response.status();
        let mut answered = Answered { line: self, user, status, cache, errno: None, bytes: 0 };
        let is_bare = answered.line.method == Method::HEAD
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        match body.size_hint().exact() {
            Some(_) if is_bare => answered.log(told, took),
            Some(bytes) if bytes <= LITTLE && body.is_at_hand() => {
                answered.sent(body.beginning());
                answered.bytes = bytes;
                answered.log(told, took);
            }
            _ => {
                let counting = Counting { answered: Box::new(answered), current: noted() };
                return response.map(|body| body.hooked(counting));
            }
        }
        response
    }
}

impl<'r> From<&'r Current> for Told<'r> {
    fn from(current: &'r Current) -> Self {
        Self { uri: &current.uri, id: &current.request_id, parts: current.parts(), waited: current.waited() }
    }
}

impl Answered {
    /// Some of the answer was handed on to be written.
    fn sent(&mut self, data: &[u8]) {
        if self.bytes == 0 && self.status.as_u16() >= 400 {
            self.errno = errno_in(data);
        }
        self.bytes += data.len() as u64;
    }

    /// Kinto's number of what is wrong, 0 where nothing is.
    fn errno(&self) -> u16 {
        let usual = || match self.status.as_u16() {
            0..400 => 0,
            400 => 107,
            401 => 104,
            403 => 121,
            404 => 111,
            405 => 115,
            409 => 122,
            410 => 202,
            412 => 114,
            413 => 113,
            502..=504 => 201,
            _ => 999,
        };
        self.errno.unwrap_or_else(usual)
    }

    fn log(&self, told: &Told<'_>, took: Duration) {
        thread_local! {
            static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        let form = FORM.load();
        let Some(form) = form.as_deref() else { return };
        // Nothing in here logs, nor is anything to be logged where a thread ends.
        let _ = BUFFER.try_with(|buffer| {
            let Ok(mut buffer) = buffer.try_borrow_mut() else { return };
            buffer.clear();
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let written = match form {
                Form::Text => text::write(&mut buffer, self, told, now, took),
                Form::Json(envelope) => json::write(&mut buffer, self, told, now, took, envelope),
            };
            // Writing to memory does not fail.
            if written.is_ok() {
                log_stream::push(&buffer);
            }
            buffer.shrink_to(LITTLE_BUFFER);
        });
    }

    /// The user's id without its policy, and the policy.
    fn user(&self) -> Option<(&str, &str)> {
        self.user.as_deref()?.split_once(':').map(|(policy, id)| (id, policy))
    }

    /// What Kinto has no field for.
    fn cache(&self) -> Option<&'static str> {
        self.cache.name()
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn name_of(peer: &Peer, headers: &HeaderMap, settings: &Settings) -> HeaderValue {
    if !peer.is_trusted {
        return peer.forwarded_for.clone();
    }
    match client(peer, headers, settings) {
        Some(address) if Some(address) != peer.address => HeaderValue::try_from(address.to_string()),
        _ => Ok(peer.forwarded_for.clone()),
    }
    .unwrap_or(HeaderValue::from_static("unknown"))
}

/// The number in the beginning of an error's body: `{"code":404,"errno":111,…`.
fn errno_in(body: &[u8]) -> Option<u16> {
    let body = body.get(..body.len().min(ERRNO_WITHIN))?;
    let text = std::str::from_utf8(body).ok()?;
    let (_, after) = text.split_once("\"errno\":")?;
    let digits = after.trim_start();
    digits.get(..digits.find(|letter: char| !letter.is_ascii_digit())?)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_an_error_is_found_at_its_beginning() {
        assert_eq!(errno_in(b"{\"code\":404,\"errno\":111,\"error\":\"Not Found\"}"), Some(111));
        assert_eq!(errno_in(b"{\"errno\": 107}"), Some(107));
        for other in [&b"<html>"[..], b"", b"{\"errno\":", b"{\"errno\":\"x\"}", b"\xff\"errno\":1,"] {
            assert_eq!(errno_in(other), None);
        }
    }
}
