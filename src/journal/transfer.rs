//! Journals as lines of JSON, to move them between engines and to take over what an upstream's own plugin recorded.
//!
//! A line is a history (a bucket and its timestamp), an entry with its readers, a tombstone, a gap, the known state of an
//! object, or a watermark. The last one says how many there are before it, so that an export that was cut off is known as
//! such. An entry as the plugin serves it is a line, too.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::statement::timestamp;
use super::{Action, Link, Object, Permissions, Revision};
use crate::journal::transaction::{bucket_of, is_hidden};
use crate::kinto::{Timestamp, is_segment};

mod export;
mod import;

pub use export::Export;

/// The end of the year 9999. Whatever a history says later than that is a mistake, and would leave no room for what comes
/// after it.
const LATEST: u64 = 253_402_300_799_999;

/// What came of lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Imported {
    /// Entries that were added.
    pub added: usize,
    /// Entries that were there already, or had been deleted.
    pub known: usize,
}

/// A line that was read.
#[derive(Debug)]
pub struct Line {
    content: Content,
    /// What an entry says.
    head: Option<Head>,
    /// What it is to the export that it is from.
    pub part: LinePart,
}

/// What a line is to the export that it is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinePart {
    /// It is an entry as the plugin serves it, and from no export.
    Served,
    /// It has to be followed by others.
    Exported,
    /// It is the last one, and says how many are before it.
    End(u64),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Content {
    Entry {
        entry: Box<RawValue>,
        readers: Vec<String>,
        knows_readers: bool,
        /// The hidden history that it is in.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hidden: Option<String>,
    },
    Tombstone {
        bucket: String,
        tombstone: String,
        last_modified: u64,
    },
    Gap {
        bucket: String,
        collection: String,
        since: u64,
    },
    History {
        bucket: String,
        timestamp: u64,
        /// When the chains of the journal began.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        chains: Option<String>,
    },
    Object {
        object: String,
        modified: u64,
        deleted: bool,
        permissions: Option<Permissions>,
        is_entry: bool,
        /// Its versions, oldest first.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        chain: Vec<ChainLink>,
        /// Whether nothing else is known of it.
        #[serde(default, skip_serializing_if = "is_false")]
        only_chain: bool,
    },
    Watermark {
        list: String,
        timestamp: u64,
    },
    End {
        end: u64,
    },
}

/// A version in a chain.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct ChainLink {
    rev: String,
    modified: u64,
    deleted: bool,
    follows: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "it is how serde asks")]
fn is_false(value: &bool) -> bool {
    !value
}

/// What has to be known of an entry.
#[derive(Debug, Deserialize)]
struct Head {
    id: String,
    last_modified: u64,
    date: String,
    action: String,
    resource_name: String,
    uri: String,
    user_id: Option<String>,
    bucket_id: Option<String>,
    group_id: Option<String>,
    collection_id: Option<String>,
    record_id: Option<String>,
    target: Target,
    /// What its `uri` names.
    #[serde(skip)]
    object: Option<Object>,
}

#[derive(Debug, Deserialize)]
struct Target {
    data: Data,
}

#[derive(Debug, Deserialize)]
struct Data {
    /// Whatever Kinto took for one.
    last_modified: Option<Box<RawValue>>,
}

type Members = BTreeMap<String, Box<RawValue>>;

// === impl Line ===

impl Line {
    /// Reads a line; says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut members: Members = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if !members.contains_key("uri") {
            let kinds = "it is neither an entry nor anything else that is exported";
            let (content, head) = read_content(members, text).ok_or_else(|| kinds.to_owned())?;
            let part = match content {
                Content::End { end } => LinePart::End(end),
                _ => LinePart::Exported,
            };
            return Ok(Self { content, head, part });
        }
        // The bucket that whoever fetched it may have noted is in its `uri`, too.
        members.remove("bucket");
        let null = || RawValue::from_string("null".to_owned());
        if let Ok(null) = null() {
            members.entry("user_id".to_owned()).or_insert(null);
        }
        let entry = serde_json::value::to_raw_value(&members).map_err(|error| error.to_string())?;
        let head = Some(Head::of(entry.get())?);
        let content = Content::Entry { entry, readers: Vec::new(), knows_readers: false, hidden: None };
        Ok(Self { content, head, part: LinePart::Served })
    }

    /// An entry of a bucket's history was deleted at this moment.
    pub fn tombstone(bucket: &str, id: &str, last_modified: Timestamp) -> Self {
        let (bucket, tombstone) = (bucket.to_owned(), id.to_owned());
        let content = Content::Tombstone { bucket, tombstone, last_modified: last_modified.0 };
        Self { content, head: None, part: LinePart::Served }
    }

    /// A bucket's history has this timestamp.
    pub fn history(bucket: &str, timestamp: Timestamp) -> Self {
        let content = Content::History { bucket: bucket.to_owned(), timestamp: timestamp.0, chains: None };
        Self { content, head: None, part: LinePart::Served }
    }

    fn text(content: &Content) -> String {
        serde_json::to_string(content).unwrap_or_default()
    }
}

/// What a line of an export says. Entries are taken as they are written.
fn read_content(mut members: Members, text: &str) -> Option<(Content, Option<Head>)> {
    if let Some(entry) = members.remove("entry") {
        let head = Head::of(entry.get()).ok()?;
        let hidden: Option<String> = match members.get("hidden") {
            Some(hidden) => Some(serde_json::from_str(hidden.get()).ok()?),
            None => None,
        };
        let bucket = head.object.as_ref()?.bucket();
        if hidden.as_deref().is_some_and(|name| !is_hidden(name) || bucket_of(name) != Some(bucket)) {
            return None;
        }
        let content = Content::Entry {
            hidden,
            entry,
            readers: serde_json::from_str(members.get("readers")?.get()).ok()?,
            knows_readers: serde_json::from_str(members.get("knows_readers")?.get()).ok()?,
        };
        return Some((content, Some(head)));
    }
    let content = serde_json::from_str(text).ok().filter(Content::is_plausible)?;
    Some((content, None))
}

/// Whether a row of the table of entries says what its JSON says: `last_modified, id, uri, object_modified, action, user_id,
/// date, json`.
pub(super) fn check_entry(row: &AnyRow) -> Result<(), String> {
    let unread = |error: sqlx::Error| error.to_string();
    let text = |column: usize| row.try_get::<Option<String>, _>(column).map_err(unread);
    let json = text(7)?.unwrap_or_default();
    let head = Head::of(&json)?;
    let is_same = Timestamp(head.last_modified) == timestamp(row, 0).map_err(unread)?
        && Some(&head.id) == text(1)?.as_ref()
        && Some(&head.uri) == text(2)?.as_ref()
        && head.version() == timestamp(row, 3).map_err(unread)?
        && Some(&head.action) == text(4)?.as_ref()
        && head.user_id == text(5)?
        && Some(&head.date) == text(6)?.as_ref();
    if is_same { Ok(()) } else { Err("what it is selected by is not what it says".to_owned()) }
}

// === impl Content ===

impl Content {
    /// Whether it names what a journal can hold.
    fn is_plausible(&self) -> bool {
        match self {
            Self::Tombstone { bucket, last_modified: timestamp, .. }
            | Self::History { bucket, timestamp, .. } => {
                bucket_of(bucket).is_some_and(is_segment) && *timestamp <= LATEST
            }
            Self::Gap { bucket, .. } => bucket_of(bucket).is_some_and(is_segment),
            Self::Object { object, chain, .. } => {
                Object::of_uri(object).is_some_and(|known| known.to_string() == *object)
                    && chain.iter().all(|link| link.read().is_some())
            }
            Self::Entry { .. } | Self::Watermark { .. } | Self::End { .. } => true,
        }
    }
}

// === impl ChainLink ===

impl ChainLink {
    fn of(link: &Link) -> Self {
        let Link { revision, modified, deleted, follows } = link;
        Self { rev: revision.to_string(), modified: modified.0, deleted: *deleted, follows: *follows }
    }

    fn read(&self) -> Option<Link> {
        let revision = Revision::parse(&self.rev)?;
        let modified = Timestamp(self.modified);
        Some(Link { revision, modified, deleted: self.deleted, follows: self.follows })
    }
}

// === impl Head ===

impl Head {
    /// Reads an entry; refuses one that does not say the same everywhere.
    fn of(entry: &str) -> Result<Self, String> {
        let mut head: Self = serde_json::from_str(entry).map_err(|error| error.to_string())?;
        let object = Object::of_uri(&head.uri).filter(|object| object.to_string() == head.uri);
        let object = object.ok_or_else(|| format!("{} is no object's uri", head.uri))?;
        let [bucket, group, collection, record] =
            [&head.bucket_id, &head.group_id, &head.collection_id, &head.record_id];
        let fits = match &object {
            Object::Bucket(_) => [Some(object.id()), None, None, None],
            Object::Group(..) => [None, Some(object.id()), None, None],
            Object::Collection(..) => [None, None, Some(object.id()), None],
            Object::Record(..) => [None, None, object.collection(), Some(object.id())],
        };
        if [bucket, group, collection, record].map(|id| id.as_deref()) != fits
            || head.resource_name != object.resource().as_str()
        {
            return Err(format!("resource_name or ids do not fit the uri {}", head.uri));
        }
        if Action::of(&head.action).is_none() {
            return Err(format!("{} is no action", head.action));
        }
        if head.id.is_empty() || !(1..=LATEST).contains(&head.last_modified) {
            return Err("id or last_modified is none".to_owned());
        }
        head.object = Some(object);
        Ok(head)
    }

    /// The version that it is about, as it is read where it is recorded.
    fn version(&self) -> Timestamp {
        let modified = self.target.data.last_modified.as_ref();
        let version = modified.and_then(|modified| serde_json::from_str::<Timestamp>(modified.get()).ok());
        version.unwrap_or(Timestamp(self.last_modified)).min(Timestamp::LAST)
    }
}

// === impl Action ===

impl Action {
    fn of(text: &str) -> Option<Self> {
        [Self::Create, Self::Update, Self::Delete].into_iter().find(|action| action.as_str() == text)
    }
}
