//! What a feed is asked for: CouchDB's parameters, and Kinto's own for the records that are wanted.
//!
//! Follows `parse_changes_query` of CouchDB 3: names in any case, the last of several values, unknown ones ignored: whatever
//! an HTTP library or a proxy adds must not empty a feed in silence. Only beside `filter=_kinto` they are filters of
//! Kinto's list language.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use serde_json::Value;

use crate::aside;
use crate::bounded::{self, Refused};
use crate::error::Error;
use crate::feeds::framing::Framing;
use crate::kinto::seq::Seq;
use crate::query::Parameters;
pub use bound::Bound;

mod bound;

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

/// CouchDB's parameters, and those of a feed's own.
const RESERVED: [&str; 25] = [
    "feed", "since", "until", "cursor", "last-event-id", "lasteventid", "last_event_id", "evs_last_event_id",
    "limit", "descending", "include_docs", "include_previous", "style", "heartbeat", "heartbeat_seq",
    "timeout", "filter", "doc_ids", "selector", "view", "conflicts", "attachments", "att_encoding_info",
    "seq_interval", "partition",
];

/// The names under which programs that stand in for a browser's `EventSource` send its `Last-Event-ID`.
const LAST_EVENT: [&str; 4] = ["last-event-id", "lasteventid", "last_event_id", "evs_last_event_id"];

/// CouchDB's default for `timeout` and for `heartbeat=true`.
const DEFAULT: Duration = Duration::from_secs(60);

/// SECURITY: how often a sign of life is given at most, whatever is asked for: each wakes its reader, and there may be many.
const SHORTEST_HEARTBEAT: Duration = Duration::from_secs(1);

/// How often an eventsource that asks for nothing is shown that it is alive: often enough for proxies that cut what is
/// silent for a minute.
const EVENTS_HEARTBEAT: Duration = Duration::from_secs(30);

/// How long a poll waits that many share: caches do not wait longer for the first byte of an answer.
const LONGEST_SHARED: Duration = Duration::from_secs(20);

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

/// What a long poll says that many may share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedPoll {
    /// What makes its URL another one than that of the last which was answered with nothing.
    pub cursor: u64,
    /// For how long it waits, silently.
    pub wait: Duration,
}

/// What a feed is asked for.
#[derive(Debug)]
pub struct Params {
    /// `feed`.
    pub mode: Mode,
    /// `since`, or what counts more.
    pub since: Bound,
    /// `until`: nothing later is wanted.
    pub until: Option<Bound>,
    /// `limit`.
    pub limit: Option<usize>,
    /// `descending`. In whichever mode, such a feed ends with the oldest row: nothing older can come.
    pub descending: bool,
    /// `include_docs`.
    pub docs: bool,
    /// `include_previous`: what was deleted comes with the version before.
    pub previous: bool,
    /// What happens while there is nothing to say.
    pub patience: Patience,
    /// `cursor` of a long poll: all who ask for the same may be given one answer.
    pub shared: Option<SharedPoll>,
    /// `heartbeat_seq`: a sign of life says how far the feed is, also where that is no empty line any more.
    pub heartbeat_seq: bool,
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
        let mut params = Self::of(query, headers, max_timeout);
        if let Ok(params) = &mut params {
            let mut given = |name| body.as_mut().and_then(|body| body.get_mut(name)).map(Value::take);
            let (doc_ids, selector) = (given("doc_ids"), given("selector"));
            params.doc_ids = params.doc_ids.take().or(doc_ids);
            params.selector = params.selector.take().or(selector);
        }
        if let Some(rest) = body {
            aside::let_go(bounded::weight(&rest), rest);
        }
        params
    }

    /// Reads a query and headers.
    fn of(query: Option<&str>, headers: &HeaderMap, max_timeout: Duration) -> Result<Self, Error> {
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
        let until = last("until").map(str::trim).filter(|until| !until.is_empty());
        let is_true = |name| last(name) == Some("true");
        let json = |name: &str| {
            let read = last(name).map(|text| bounded::read(text.as_bytes(), MOST_VALUES));
            read.transpose().map_err(|error| match error {
                Refused::TooMany => Error::TooLarge,
                Refused::Malformed | Refused::Unread(_) => refused(format!("`{name}` is not JSON.")),
            })
        };
        let heartbeat = last("heartbeat").map(read_heartbeat).transpose()?;
        let timeout = last("timeout").map(|text| read_integer("timeout", text)).transpose()?;
        let timeout = timeout.map(Duration::from_millis);
        let patience = match (heartbeat, timeout) {
            (Some(interval), _) => Patience::Heartbeat(interval.min(max_timeout).max(SHORTEST_HEARTBEAT)),
            (None, None) if mode == Mode::EventSource => Patience::Heartbeat(EVENTS_HEARTBEAT),
            (None, timeout) => Patience::Timeout(timeout.unwrap_or(DEFAULT).min(max_timeout)),
        };
        let cursor = last("cursor").filter(|_| mode == Mode::Longpoll);
        let cursor = cursor.map(|text| read_integer("cursor", text)).transpose()?;
        let wait = timeout.unwrap_or(DEFAULT).min(max_timeout).min(LONGEST_SHARED);
        let limit = last("limit").map(|text| read_integer("limit", text)).transpose()?;
        let filter = last("filter").filter(|filter| !filter.is_empty()).map(str::to_owned);
        let others =
            parameters.only(|name| !RESERVED.iter().any(|reserved| name.eq_ignore_ascii_case(reserved)));
        let is_kinto = filter.as_deref() == Some("_kinto");
        let ignored = others.iter().find(|(name, _)| !is_kinto && !name.starts_with('_'));
        let ignored = ignored.map(|(name, _)| name.chars().take(LONGEST_TOLD).collect());
        Ok(Self {
            mode,
            since: since.map_or(Ok(Bound::Seq(Seq::ZERO)), |since| Bound::read("since", since))?,
            until: until.map(|until| Bound::read("until", until)).transpose()?,
            limit: limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            descending: is_true("descending"),
            docs: is_true("include_docs"),
            previous: is_true("include_previous"),
            patience,
            shared: cursor.map(|cursor| SharedPoll { cursor, wait }),
            heartbeat_seq: is_true("heartbeat_seq"),
            filter,
            doc_ids: json("doc_ids")?,
            selector: json("selector")?,
            kinto: if is_kinto { others } else { Parameters::default() },
            ignored,
        })
    }
}

impl Drop for Params {
    fn drop(&mut self) {
        let given = (self.doc_ids.take(), self.selector.take());
        aside::let_go([&given.0, &given.1].into_iter().flatten().map(bounded::weight).sum(), given);
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
mod tests;
