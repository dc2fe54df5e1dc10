//! Spans of requests, told to a collector: OTLP over HTTP, in JSON (`sidecar.otlp_traces`).
//!
//! A request is one span, in the trace that its `traceparent` names or in one that begins here, and Kinto is told of it as
//! the parent of its own spans. What its caller has not sampled is not told, and passes as it came. Nobody waits for the
//! collector: spans wait in a queue, and what finds no room there is lost and counted.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::current::Current;
use crate::metrics::CacheOutcome;
use crate::settings::Settings;
use crate::upstream::{Upstream, read_whole};
use crate::wire::body::Body;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const NAME: &str = env!("CARGO_PKG_NAME");
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How many spans may wait.
const WAITING: usize = 4_096;
/// How many are told at once.
const TOGETHER: usize = 512;
/// How long more of them are waited for.
const PAUSE: Duration = Duration::from_millis(500);
/// How long the collector may take to connect and to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most of its answer that is read, in bytes.
const LARGEST_ANSWER: usize = 64 << 10;
/// SECURITY: the most of a path that is told, in bytes. Paths are as long as heads may be, and many spans wait.
const LONGEST_PATH: usize = 1_024;

/// Tells spans.
#[derive(Debug)]
pub struct Traces(mpsc::Sender<Span>);

/// The span of a request that has no answer yet.
#[derive(Debug)]
pub struct SpanUnderWay {
    queue: mpsc::Sender<Span>,
    trace: u128,
    id: u64,
    parent: Option<u64>,
    method: &'static str,
    since: SystemTime,
    began: Instant,
}

/// A request that was answered.
#[derive(Debug)]
struct Span {
    begun: SpanUnderWay,
    took: Duration,
    endpoint: &'static str,
    path: String,
    request_id: String,
    status: StatusCode,
    cache: Option<&'static str>,
    waited: Option<Duration>,
}

/// What a `traceparent` says (W3C Trace Context, level 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Parent {
    trace: u128,
    span: u64,
    is_sampled: bool,
}

/// Who is told.
#[derive(Debug)]
struct Collector {
    client: Upstream,
    target: Uri,
    host: HeaderValue,
    /// Whether it could not be told last time.
    is_away: bool,
}

// === impl Traces ===

impl Traces {
    /// Starts telling `sidecar.otlp_traces`, where that is set, on the runtime given.
    pub fn start(settings: &Settings, background: &Handle) -> Option<Arc<Self>> {
        let url = settings.otlp_traces.as_ref()?;
        let collector = Collector::new(settings, url)
            .inspect_err(
                |error| tracing::error!(%error, "sidecar.otlp_traces cannot be used; no span is told"),
            )
            .ok()?;
        let (queue, waiting) = mpsc::channel(WAITING);
        background.spawn(collector.hear(waiting));
        Some(Arc::new(Self(queue)))
    }

    /// Begins the span of a request, which the upstream will be told of; `None` where it is not to be told.
    pub fn begin<B>(&self, request: &mut Request<B>) -> Option<SpanUnderWay> {
        let method = name_of(request.method());
        let headers = request.headers_mut();
        let mut given = headers.get_all(TRACEPARENT).iter();
        let parent = match (given.next(), given.next()) {
            (Some(parent), None) => Parent::read(parent),
            _ => None,
        };
        if parent.is_some_and(|parent| !parent.is_sampled) {
            return None;
        }
        let (_, id) = Uuid::new_v4().as_u64_pair();
        let trace = parent.map_or_else(|| Uuid::new_v4().as_u128(), |parent| parent.trace);
        let own = HeaderValue::try_from(format!("00-{trace:032x}-{id:016x}-01")).ok()?;
        if parent.is_none() {
            // It belongs to a trace that cannot be read.
            headers.remove(TRACESTATE);
        }
        headers.insert(TRACEPARENT, own);
        Some(SpanUnderWay {
            queue: self.0.clone(),
            trace,
            id,
            parent: parent.map(|parent| parent.span),
            method,
            since: SystemTime::now(),
            began: Instant::now(),
        })
    }
}

// === impl SpanUnderWay ===

impl SpanUnderWay {
    /// The head of the answer is there.
    pub fn end(self, endpoint: &'static str, current: &Current, status: StatusCode, cache: CacheOutcome) {
        let path = current.uri.path();
        let span = Span {
            took: self.began.elapsed(),
            endpoint,
            // What is not ASCII stands encoded in a path.
            path: path.get(..path.len().min(LONGEST_PATH)).unwrap_or_default().to_owned(),
            request_id: current.id().to_owned(),
            status,
            cache: cache.name(),
            waited: current.waited(),
            begun: self,
        };
        if let Err(mpsc::error::TrySendError::Full(_)) = span.begun.queue.clone().try_send(span) {
            metrics::counter!("kinto_sidecar_spans_total", "outcome" => "lost").increment(1);
        }
    }
}

// === impl Span ===

impl Span {
    fn json(&self) -> Value {
        let Self { begun, .. } = self;
        let nanoseconds =
            |moment: SystemTime| moment.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string();
        let mut attributes = vec![
            text("http.request.method", begun.method),
            text("url.path", &self.path),
            number("http.response.status_code", self.status.as_u16().into()),
            text("kinto_sidecar.request_id", &self.request_id),
        ];
        attributes.extend(self.cache.map(|cache| text("kinto_sidecar.cache", cache)));
        let waited = self.waited.map(|waited| u64::try_from(waited.as_micros()).unwrap_or(u64::MAX));
        attributes.extend(waited.map(|waited| number("kinto_sidecar.upstream_microseconds", waited)));
        let mut span = json!({
            "traceId": format!("{:032x}", begun.trace),
            "spanId": format!("{:016x}", begun.id),
            "name": format!("{} {}", begun.method, self.endpoint),
            // A server's.
            "kind": 2,
            "startTimeUnixNano": nanoseconds(begun.since),
            "endTimeUnixNano": nanoseconds(begun.since + self.took),
            "attributes": attributes,
            // An error, or not known to be one.
            "status": if self.status.is_server_error() { json!({"code": 2}) } else { json!({}) },
        });
        if let (Some(parent), Some(span)) = (begun.parent, span.as_object_mut()) {
            span.insert("parentSpanId".to_owned(), format!("{parent:016x}").into());
        }
        span
    }
}

/// The method as it is told. SECURITY: any other is as long as its sender likes, and many spans wait.
fn name_of(method: &Method) -> &'static str {
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"];
    known.into_iter().find(|known| *known == method.as_str()).unwrap_or("_OTHER")
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

/// Integers of 64 bits are strings in the JSON of Protocol Buffers.
fn number(key: &str, value: u64) -> Value {
    json!({"key": key, "value": {"intValue": value.to_string()}})
}

// === impl Parent ===

impl Parent {
    fn read(header: &HeaderValue) -> Option<Self> {
        let text = header.to_str().ok()?;
        let mut parts = text.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_hex = |part: &str, length| {
            part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_read = is_hex(version, 2) && is_hex(trace, 32) && is_hex(span, 16) && is_hex(flags, 2);
        // Later versions may have more parts.
        if !is_read || version == "ff" || version == "00" && parts.next().is_some() {
            return None;
        }
        let parent = Self {
            trace: u128::from_str_radix(trace, 16).ok()?,
            span: u64::from_str_radix(span, 16).ok()?,
            is_sampled: u8::from_str_radix(flags, 16).ok()? & 1 == 1,
        };
        (parent.trace != 0 && parent.span != 0).then_some(parent)
    }
}

// === impl Collector ===

impl Collector {
    fn new(settings: &Settings, url: &Uri) -> Result<Self, Box<dyn std::error::Error>> {
        let client = Upstream::elsewhere(settings, url, PATIENCE, false)?;
        let host = HeaderValue::try_from(url.authority().ok_or("it names no host")?.as_str())?;
        let target = Uri::try_from(url.path_and_query().map_or("/", |target| target.as_str()))?;
        Ok(Self { client, target, host, is_away: false })
    }

    async fn hear(mut self, mut waiting: mpsc::Receiver<Span>) {
        let mut spans = Vec::new();
        while waiting.recv_many(&mut spans, TOGETHER).await > 0 {
            if spans.len() < TOGETHER {
                tokio::time::sleep(PAUSE).await;
            }
            while spans.len() < TOGETHER
                && let Ok(span) = waiting.try_recv()
            {
                spans.push(span);
            }
            let told = self.tell(&spans).await;
            if let Err(problem) = &told
                && !self.is_away
            {
                tracing::warn!(%problem, "spans cannot be told to sidecar.otlp_traces, and are lost");
            }
            self.is_away = told.is_err();
            let outcome = if told.is_ok() { "ok" } else { "failed" };
            metrics::counter!("kinto_sidecar_spans_total", "outcome" => outcome)
                .increment(spans.len() as u64);
            spans.clear();
        }
    }

    async fn tell(&self, spans: &[Span]) -> Result<(), String> {
        let spans: Vec<Value> = spans.iter().map(Span::json).collect();
        let body = json!({"resourceSpans": [{
            "resource": {"attributes": [text("service.name", NAME), text("service.version", VERSION)]},
            "scopeSpans": [{"scope": {"name": NAME, "version": VERSION}, "spans": spans}],
        }]});
        let mut request = Request::new(Body::full(body.to_string()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target.clone();
        request.headers_mut().extend([
            (HOST, self.host.clone()),
            (USER_AGENT, HeaderValue::from_static(NAME)),
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        ]);
        let answer = self.client.send(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        // So that the connection can be used again; what the answer says does not matter.
        drop(read_whole(answer, LARGEST_ANSWER).await);
        if status.is_success() { Ok(()) } else { Err(format!("it answered {status}")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_that_http_does_not_define_is_told_as_another() {
        assert_eq!(name_of(&Method::PATCH), "PATCH");
        assert_eq!(name_of(&Method::from_bytes(&[b'X'; 9_000]).unwrap()), "_OTHER");
    }

    #[test]
    fn a_parent_is_what_the_recommendation_says() {
        let read = |text: &str| Parent::read(&HeaderValue::from_str(text).unwrap());
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let parent = read(&format!("00-{trace}-{span}-01")).unwrap();
        assert_eq!(
            (format!("{:032x}", parent.trace), format!("{:016x}", parent.span)),
            (trace.into(), span.into())
        );
        assert!(parent.is_sampled && !read(&format!("00-{trace}-{span}-02")).unwrap().is_sampled);
        assert!(read(&format!("01-{trace}-{span}-03-more")).unwrap().is_sampled);
        for bad in [
            "",
            "00",
            &format!("00-{trace}-{span}-01-more"),
            &format!("ff-{trace}-{span}-01"),
            &format!("00-{}-{span}-01", trace.to_uppercase()),
            &format!("00-{}-{span}-01", "0".repeat(32)),
            &format!("00-{trace}-{}-01", "0".repeat(16)),
            &format!("00-{}-{span}-01", trace.replacen('0', "+", 1)),
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
