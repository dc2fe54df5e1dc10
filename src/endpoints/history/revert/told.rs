//! What is told of an undoing: a line for each object, and one at the end.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::step::Undoing;
use crate::history::difference::Difference;
use crate::journal::Object;
use crate::wire::body::Sender;

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::endpoints) enum Status {
    /// It was written.
    Done,
    /// It was as it should be.
    Unchanged,
    /// It would be written.
    Planned,
    /// It was changed since, and was left alone.
    Conflict,
    /// It cannot be written, or the upstream refused it.
    Refused,
    /// It was not written, and may be by the same request again.
    NotTried,
}

/// A line about an object.
#[derive(Debug, Serialize)]
pub(in crate::endpoints) struct ObjectLine<'l> {
    pub(in crate::endpoints) uri: String,
    pub(in crate::endpoints) status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::endpoints) action: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::endpoints) last_modified: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::endpoints) permissions: Option<&'l RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::endpoints) reason: Option<Cow<'l, str>>,
    /// The upstream's answer, where it refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::endpoints) code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::endpoints) error: Option<&'l RawValue>,
    /// What would be written: how it is, how it would be, and the patch between.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(in crate::endpoints) preview: Option<Preview<'l>>,
}

#[derive(Debug, Serialize)]
pub(in crate::endpoints) struct Preview<'l> {
    before: Option<&'l RawValue>,
    after: Option<&'l RawValue>,
    patch: Option<&'l RawValue>,
}

#[derive(Serialize)]
struct End<'e> {
    end: EndOfRun<'e>,
}

#[derive(Serialize)]
struct EndOfRun<'e> {
    /// Whether each object has its line, and none was not tried.
    complete: bool,
    counts: &'e BTreeMap<Status, usize>,
    batches: usize,
    /// Kinto lets the author of each write write the object.
    author: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'e str>,
}

/// The answer to whoever reads it.
#[derive(Debug)]
pub(in crate::endpoints) struct Told {
    sender: Sender,
    counts: BTreeMap<Status, usize>,
    pub(in crate::endpoints) batches: usize,
    is_dry: bool,
    author: Option<String>,
    /// Nobody reads it any more.
    pub(in crate::endpoints) is_closed: bool,
    /// Why nothing more is written.
    pub(in crate::endpoints) stopped: Option<String>,
}

impl<'l> ObjectLine<'l> {
    /// A line about an object, and nothing more.
    pub(in crate::endpoints) fn new(object: &Object, status: Status) -> Self {
        Self {
            uri: object.to_string(),
            status,
            action: None,
            last_modified: None,
            permissions: None,
            reason: None,
            code: None,
            error: None,
            preview: None,
        }
    }

    /// The same with why.
    pub(in crate::endpoints) fn because(self, reason: impl Into<Cow<'l, str>>) -> Self {
        Self { reason: Some(reason.into()), ..self }
    }
}

impl<'l> Preview<'l> {
    /// What a write would do.
    pub(in crate::endpoints) fn of(difference: &'l Difference, undoing: &'l Undoing) -> Self {
        let now = difference.now.present().map(|present| &*present.data);
        Self { before: now, after: undoing.data.as_deref(), patch: undoing.patch.as_deref() }
    }
}

impl Told {
    /// Nothing is told yet.
    pub(in crate::endpoints) fn new(sender: Sender, is_dry: bool, author: Option<String>) -> Self {
        Self { sender, counts: BTreeMap::new(), batches: 0, is_dry, author, is_closed: false, stopped: None }
    }

    /// Tells of an object.
    pub(in crate::endpoints) async fn tell(&mut self, line: ObjectLine<'_>) {
        *self.counts.entry(line.status).or_default() += 1;
        self.send(&line).await;
    }

    /// Tells how it ended.
    pub(in crate::endpoints) async fn end(mut self) {
        let counts = std::mem::take(&mut self.counts);
        let complete = self.stopped.is_none() && !counts.contains_key(&Status::NotTried);
        let (author, reason) = (self.author.take().filter(|_| !self.is_dry), self.stopped.take());
        let end = EndOfRun {
            complete,
            counts: &counts,
            batches: self.batches,
            author: author.as_deref(),
            reason: reason.as_deref(),
        };
        self.send(&End { end }).await;
    }

    async fn send(&mut self, line: &impl Serialize) {
        if self.is_closed {
            return;
        }
        // Texts, numbers and what is JSON already always serialize.
        let mut text = serde_json::to_vec(line).unwrap_or_default();
        text.push(b'\n');
        self.is_closed = self.sender.send(Bytes::from(text)).await.is_err();
    }
}
