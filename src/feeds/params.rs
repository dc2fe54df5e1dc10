//! What a feed is asked for: CouchDB's parameters, and Kinto's own for the records that are wanted.
//!
//! Follows `parse_changes_query` of CouchDB 3: names in any case, the last of several values, unknown ones ignored: whatever
//! an HTTP library or a proxy adds must not empty a feed in silence. Only beside `filter=_kinto` they are filters of
//! Kinto's list language.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use serde_json::Value;

use crate::bounded::{self, Refused};
use crate::error::Error;
use crate::feeds::framing::Framing;
use crate::kinto::seq::Seq;
use crate::kinto::unquoted;
use crate::query::Parameters;

/// SECURITY: the most values in a body: enough for the ids of a large collection.
pub const MOST_VALUES: usize = 100_000;

/// When a feed ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// When there is no more at present.
    Now,
    /// With the first changes.
    Changes,
    /// Never.
    Never,
}

/// What is done when nothing was written for some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// The feed ends.
    Timeout(Duration),
    /// The reader is shown that it is alive.
    Heartbeat(Duration),
}

/// CouchDB's parameters.
const RESERVED: [&str; 21] = [
    "feed",
    "since",
    "last-event-id",
    "lasteventid",
    "last_event_id",
    "evs_last_event_id",
    "limit",
    "descending",
    "include_docs",
    "style",
    "heartbeat",
    "timeout",
    "filter",
    "doc_ids",
    "selector",
    "view",
    "conflicts",
    "attachments",
    "att_encoding_info",
    "seq_interval",
    "partition",
];

/// The names under which programs that stand in for a browser's `EventSource` send its `Last-Event-ID`.
const LAST_EVENT: [&str; 4] = ["last-event-id", "lasteventid", "last_event_id", "evs_last_event_id"];

/// CouchDB's default for `timeout` and for `heartbeat=true`.
const DEFAULT: Duration = Duration::from_secs(60);

/// How often an eventsource that asks for nothing is shown that it is alive: often enough for proxies that cut what is
/// silent for a minute.
const EVENTS_HEARTBEAT: Duration = Duration::from_secs(30);

/// How many characters of a name the log is told.
const LONGEST_TOLD: usize = 100;

/// The four kinds of feeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// What there is.
    Normal,
    /// What there is, or the next change.
    Longpoll,
    /// Everything, line by line.
    Continuous,
    /// Everything, as server-sent events.
    EventSource,
}

/// Where a feed begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// After this seq.
    Seq(Seq),
    /// When the request arrived.
    Now,
}

/// What a feed is asked for.
#[derive(Debug)]
pub struct Params {
    /// `feed`.
    pub mode: Mode,
    /// `since`, or what counts more.
    pub since: Since,
    /// `limit`.
    pub limit: Option<usize>,
    /// `descending`. In whichever mode, such a feed ends with the oldest row: nothing older can come.
    pub descending: bool,
    /// `include_docs`.
    pub docs: bool,
    /// What happens while there is nothing to say.
    pub patience: Patience,
    /// `filter`.
    pub filter: Option<String>,
    /// `doc_ids`, from the query or the body.
    pub doc_ids: Option<Value>,
    /// `selector`, from the query or the body.
    pub selector: Option<Value>,
    /// Beside `filter=_kinto`, Kinto's filters.
    pub kinto: Parameters,
    /// Without that, a parameter which would be one.
    pub ignored: Option<String>,
}

impl Params {
    /// Reads a request: its query, its headers, and the object in its body, where it has one.
    pub fn read(
        query: Option<&str>,
        headers: &HeaderMap,
        mut body: Option<Value>,
        max_timeout: Duration,
    ) -> Result<Self, Error> {
        let parameters = Parameters::parse(query)?;
        let last = |wanted: &str| {
            let named = parameters.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
            named.filter_map(|(_, values)| values.last()).last().map(String::as_str)
        };
        let mode = Mode::read(last("feed"))?;
        // SECURITY: any other feed may be kept by caches, under its URL alone.
        let resumed = (mode == Mode::EventSource).then(|| {
            let header = headers.get("last-event-id").and_then(|id| id.to_str().ok());
            header.into_iter().chain(LAST_EVENT.iter().filter_map(|name| last(name)))
        });
        let since = resumed.into_iter().flatten().chain(last("since")).map(str::trim);
        // A browser sends an empty id before it was given one.
        let since = since.into_iter().find(|since| !since.is_empty());
        let is_true = |name| last(name) == Some("true");
        let mut json = |name: &str| match last(name) {
            Some(text) => {
                let read = bounded::read(text.as_bytes(), MOST_VALUES).map(Some);
                read.map_err(|error| match error {
                    Refused::TooMany => Error::TooLarge,
                    Refused::Malformed | Refused::Unread(_) => refused(format!("`{name}` is not JSON.")),
                })
            }
            None => Ok(body.as_mut().and_then(|body| body.get_mut(name)).map(Value::take)),
        };
        let heartbeat = last("heartbeat").map(read_heartbeat).transpose()?;
        let timeout = last("timeout").map(|text| read_integer("timeout", text)).transpose()?;
        let timeout = timeout.map(Duration::from_millis);
        let patience = match (heartbeat, timeout) {
            (Some(interval), _) => Patience::Heartbeat(interval.min(max_timeout)),
            (None, None) if mode == Mode::EventSource => Patience::Heartbeat(EVENTS_HEARTBEAT),
            (None, timeout) => Patience::Timeout(timeout.unwrap_or(DEFAULT).min(max_timeout)),
        };
        let limit = last("limit").map(|text| read_integer("limit", text)).transpose()?;
        let filter = last("filter").filter(|filter| !filter.is_empty()).map(str::to_owned);
        let others =
            parameters.only(|name| !RESERVED.iter().any(|reserved| name.eq_ignore_ascii_case(reserved)));
        let is_kinto = filter.as_deref() == Some("_kinto");
        let ignored = others.iter().find(|(name, _)| !is_kinto && !name.starts_with('_'));
        let ignored = ignored.map(|(name, _)| name.chars().take(LONGEST_TOLD).collect());
        Ok(Self {
            mode,
            since: since.map_or(Ok(Since::Seq(Seq::ZERO)), Since::read)?,
            limit: limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            descending: is_true("descending"),
            docs: is_true("include_docs"),
            patience,
            filter,
            doc_ids: json("doc_ids")?,
            selector: json("selector")?,
            kinto: if is_kinto { others } else { Parameters::default() },
            ignored,
        })
    }
}

impl Mode {
    fn read(text: Option<&str>) -> Result<Self, Error> {
        match text {
            None | Some("normal") => Ok(Self::Normal),
            Some("longpoll") => Ok(Self::Longpoll),
            Some("continuous" | "live") => Ok(Self::Continuous),
            Some("eventsource") => Ok(Self::EventSource),
            Some(_) => Err(refused(
                "Supported `feed` types: normal, continuous, live, longpoll, eventsource".to_owned(),
            )),
        }
    }

    /// How such a feed is written.
    pub fn framing(self) -> Framing {
        match self {
            Self::Normal | Self::Longpoll => Framing::List,
            Self::Continuous => Framing::Lines,
            Self::EventSource => Framing::Events,
        }
    }

    /// When it ends.
    pub fn end(self) -> End {
        match self {
            Self::Normal => End::Now,
            Self::Longpoll => End::Changes,
            Self::Continuous | Self::EventSource => End::Never,
        }
    }
}

impl Since {
    fn read(text: &str) -> Result<Self, Error> {
        if text == "now" {
            return Ok(Self::Now);
        }
        let digits = unquoted(text).unwrap_or(text);
        if digits == "now" {
            return Ok(Self::Now);
        }
        let seq =
            Seq::parse(digits).ok_or_else(|| refused("Malformed sequence supplied in 'since' parameter."))?;
        Ok(Self::Seq(seq))
    }

    /// The seq after which the feed begins, where it is named.
    pub fn seq(self) -> Option<Seq> {
        match self {
            Self::Seq(seq) => Some(seq),
            Self::Now => None,
        }
    }
}

/// A request that CouchDB refuses, too.
pub fn refused(reason: impl Into<String>) -> Error {
    Error::Feed { status: StatusCode::BAD_REQUEST, reason: reason.into() }
}

fn read_heartbeat(text: &str) -> Result<Duration, Error> {
    if text == "true" {
        return Ok(DEFAULT);
    }
    let (sign, digits) = split_sign(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(refused(
            "Invalid heartbeat value. Expecting a positive integer value (in milliseconds).",
        ));
    }
    match digits.parse().unwrap_or(u64::MAX) {
        milliseconds if milliseconds > 0 && sign != Some('-') => Ok(Duration::from_millis(milliseconds)),
        _ => Err(refused("The heartbeat value should be a positive integer (in milliseconds).")),
    }
}

fn read_integer(name: &str, text: &str) -> Result<u64, Error> {
    let (sign, digits) = split_sign(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(refused(format!("The {name} parameter should be a non-negative integer")));
    }
    match digits.parse().unwrap_or(u64::MAX) {
        number if number > 0 && sign == Some('-') => {
            Err(refused(format!("The {name} value should be a non-negative integer")))
        }
        number => Ok(number),
    }
}

fn split_sign(text: &str) -> (Option<char>, &str) {
    match text.strip_prefix(['-', '+']) {
        Some(digits) => (text.chars().next(), digits),
        None => (None, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinto::Timestamp;
    use http::HeaderValue;

    const MAX: Duration = Duration::from_secs(300);

    fn read(query: &str) -> Result<Params, String> {
        Params::read(Some(query), &HeaderMap::new(), None, MAX).map_err(|error| error.to_string())
    }

    #[test]
    fn a_feed_without_parameters_gives_everything_that_there_is() {
        let params = read("").unwrap();
        assert_eq!((params.mode, params.since), (Mode::Normal, Since::Seq(Seq::ZERO)));
        assert_eq!((params.limit, params.docs, params.descending), (None, false, false));
        assert_eq!(params.patience, Patience::Timeout(Duration::from_secs(60)));
    }

    #[test]
    fn since_is_a_seq_in_many_spellings() {
        for (query, since) in [
            ("since=12", Since::Seq(Seq::of(Timestamp(12)))),
            ("since=%2212%22", Since::Seq(Seq::of(Timestamp(12)))),
            ("since=now", Since::Now),
            ("SINCE=1&since=2", Since::Seq(Seq::of(Timestamp(2)))),
            ("since=1&last-event-id=7", Since::Seq(Seq::of(Timestamp(1)))),
            ("feed=longpoll&last-event-id=7&since=1", Since::Seq(Seq::of(Timestamp(1)))),
            ("feed=eventsource&since=1&last-event-id=7", Since::Seq(Seq::of(Timestamp(7)))),
            ("feed=eventsource&lastEventId=7&since=1", Since::Seq(Seq::of(Timestamp(7)))),
            ("feed=eventsource&evs_last_event_id=7", Since::Seq(Seq::of(Timestamp(7)))),
            ("feed=eventsource&last-event-id=&since=1", Since::Seq(Seq::of(Timestamp(1)))),
            ("since=12.500", Since::Seq(Seq::parse("12.5").unwrap())),
            ("since=%2212.004%22", Since::Seq(Seq::parse("12.004").unwrap())),
            ("since=99999999999999999999999", Since::Seq(Seq::of(Timestamp(u64::MAX)))),
        ] {
            assert_eq!(read(query).unwrap().since, since, "{query}");
        }
        for query in ["since=abc", "since=-1", "since=1.", "since=%22%22", "since=5-g1AAA"] {
            let expected = "Malformed sequence supplied in 'since' parameter.";
            assert_eq!(read(query).unwrap_err(), expected, "{query}");
        }
    }

    #[test]
    fn the_header_of_a_browser_that_comes_back_counts_most() {
        let headers = HeaderMap::from_iter([(
            http::HeaderName::from_static("last-event-id"),
            HeaderValue::from_static("9"),
        )]);
        let read = |query| Params::read(Some(query), &headers, None, MAX).unwrap().since;
        assert_eq!(read("feed=eventsource&since=0&last-event-id=3"), Since::Seq(Seq::of(Timestamp(9))));
        assert_eq!(read("since=4&last-event-id=3"), Since::Seq(Seq::of(Timestamp(4))));
    }

    #[test]
    fn numbers_are_refused_in_couchdbs_words() {
        for (query, reason) in [
            ("heartbeat=0", "The heartbeat value should be a positive integer (in milliseconds)."),
            ("heartbeat=-1000", "The heartbeat value should be a positive integer (in milliseconds)."),
            (
                "heartbeat=a1000",
                "Invalid heartbeat value. Expecting a positive integer value (in milliseconds).",
            ),
            ("limit=x", "The limit parameter should be a non-negative integer"),
            ("limit=", "The limit parameter should be a non-negative integer"),
            ("limit=-1", "The limit value should be a non-negative integer"),
            ("timeout=1.5", "The timeout parameter should be a non-negative integer"),
            ("timeout=-5", "The timeout value should be a non-negative integer"),
            ("feed=foo", "Supported `feed` types: normal, continuous, live, longpoll, eventsource"),
        ] {
            assert_eq!(read(query).unwrap_err(), reason, "{query}");
        }
    }

    #[test]
    fn heartbeats_overrule_timeouts_and_both_are_bounded() {
        let patience = |query| read(query).unwrap().patience;
        let (ms, second) = (Duration::from_millis, Duration::from_secs);
        assert_eq!(patience("heartbeat=500&timeout=10"), Patience::Heartbeat(ms(500)));
        assert_eq!(patience("heartbeat=true"), Patience::Heartbeat(second(60)));
        assert_eq!(patience("timeout=999999999"), Patience::Timeout(MAX));
        assert_eq!(patience("feed=eventsource"), Patience::Heartbeat(second(30)));
        assert_eq!(patience("feed=eventsource&timeout=10"), Patience::Timeout(ms(10)));
    }

    #[test]
    fn what_is_not_couchdbs_is_a_filter_only_where_that_is_said() {
        let query = "_x=3&title=a&Limit=1&style=all_docs&min_age=2";
        let params = read(query).unwrap();
        assert!(params.kinto.is_empty());
        assert_eq!(params.ignored.as_deref(), Some("title"));
        let params = read(&format!("filter=_kinto&{query}")).unwrap();
        let names: Vec<_> = params.kinto.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["_x", "title", "min_age"]);
        assert_eq!(params.ignored, None);
        assert_eq!(read("Limit=1&style=all_docs&_x=3").unwrap().ignored, None);
    }

    #[test]
    fn ids_and_selectors_come_from_the_query_or_the_body() {
        let body = serde_json::json!({"doc_ids": ["a"], "selector": {"x": 1}});
        let read = |query| Params::read(Some(query), &HeaderMap::new(), Some(body.clone()), MAX).unwrap();
        assert_eq!(read("").doc_ids, Some(serde_json::json!(["a"])));
        assert_eq!(read("doc_ids=%5B%22b%22%5D").doc_ids, Some(serde_json::json!(["b"])));
        assert_eq!(read("").selector, Some(serde_json::json!({"x": 1})));
    }
}
