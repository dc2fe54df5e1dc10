//! What was done to an object between two moments, and what undoing it means.

use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::Visible;
use crate::aside;
use crate::error::Error;
use crate::journal::{
    Action, Around, Object, Permissions, SeenEntry, Touched, are_same_permissions, is_same_but_modified,
};
use crate::kinto::Timestamp;
use crate::wire::buffers::Hold;
use crate::wire::turns::{ClientTurn, Turns};

/// The most entries that are named of an object, the newest.
pub const MOST_NAMED: usize = 1_000;

/// An object at a moment.
#[derive(Debug, Clone)]
pub enum Side {
    /// It is not there.
    Absent,
    /// It is there.
    Present(Present),
    /// It was there, and nobody here knows how it was: the entry is gone, or not for the reader's eyes.
    Unknown,
}

/// An object that is there.
#[derive(Debug, Clone)]
pub struct Present {
    /// The object as the upstream sent it.
    pub data: Box<RawValue>,
    /// Its permissions; empty where they are not known.
    pub permissions: Permissions,
}

/// What was done to an object.
#[derive(Debug, Clone)]
pub struct Difference {
    /// The object.
    pub object: Object,
    /// What all of it comes to.
    pub action: Action,
    /// Before the first that was done.
    pub before: Side,
    /// After the last.
    pub after: Side,
    /// As the history knows it now.
    pub now: Side,
    /// The version of now, where the object is there.
    pub version: Option<Timestamp>,
    /// The ids of the entries, newest first, and no more than some of them.
    pub entries: Vec<String>,
    /// Who did it, as far as it is known.
    pub user_ids: BTreeSet<String>,
    /// The timestamp of the last entry.
    pub last_modified: Timestamp,
    /// Why it is not undone without overwriting what was done since.
    pub conflict: Option<&'static str>,
}

/// What is read of an entry.
#[derive(Debug, Deserialize)]
struct Read<'e> {
    action: String,
    #[serde(borrow)]
    target: Target<'e>,
}

#[derive(Debug, Deserialize)]
struct Target<'e> {
    #[serde(borrow)]
    data: &'e RawValue,
    #[serde(default)]
    permissions: Permissions,
    #[serde(borrow, default)]
    previous: Option<&'e RawValue>,
}

/// A difference as it is told.
#[derive(Serialize)]
struct Row<'d> {
    uri: String,
    resource_name: &'static str,
    action: &'static str,
    before: Option<&'d RawValue>,
    after: Option<&'d RawValue>,
    /// What changed, without `last_modified`.
    patch: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    permissions: Option<BothPermissions<'d>>,
    last_modified: u64,
    entries: &'d [String],
    user_ids: &'d BTreeSet<String>,
    /// Whether nobody here knows how it was before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    before_is_unknown: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    conflict: Option<&'static str>,
}

#[derive(Serialize)]
struct BothPermissions<'d> {
    before: &'d Permissions,
    after: &'d Permissions,
}

/// What an entry that is named takes, in bytes: its id, and who made it.
const NAMED: usize = 200;
/// SECURITY: of how many bytes of entries, together, differences are made at once. One object alone may have more.
const ENOUGH: usize = 2 << 20;
/// Copies of what is read that there are at the same time: the entry, what is taken out of it, and what is told.
const COPIES: usize = 4;
/// SECURITY: an object whose entries find no room in what its reader may have held is looked at while no other such one is,
/// whoever reads it, where they have no more than so many bytes; and nobody waits longer than this for that.
const LARGEST: usize = 80 << 20;
const PATIENCE: Duration = Duration::from_secs(10);
static LARGE: LazyLock<Turns> = LazyLock::new(|| Turns::at(1));
/// SECURITY: the most bytes that are compared member by member. What is parsed takes sixteen times as much, and so may a patch.
const MOST_COMPARED: usize = 512 << 10;
/// A patch that is longer than this, and than what it is made of, helps nobody.
const LONG_PATCH: usize = 64 << 10;

/// Looks at objects, in their order, at as many together as do not take too much.
#[derive(Debug)]
pub struct Looking<'l> {
    visible: &'l Visible,
    rest: &'l [Touched],
    most: usize,
    together: usize,
    hold: Hold,
    /// While something is looked at that does not fit into it.
    alone: Option<ClientTurn>,
}

impl<'l> Looking<'l> {
    /// Looks at these, and never at more than `most` together. What that takes is held.
    pub fn at(visible: &'l Visible, touched: &'l [Touched], most: usize, hold: Hold) -> Self {
        Self { visible, rest: touched, most, together: most, hold, alone: None }
    }

    /// What was not looked at.
    pub fn rest(&self) -> &'l [Touched] {
        self.rest
    }

    /// The next objects, and what was done to them: nothing of those that are as they were before. `None` after the last.
    pub async fn next(&mut self) -> Result<Option<(&'l [Touched], Vec<Difference>)>, Error> {
        // What was found is its reader's by now.
        self.hold.set(0)?;
        self.alone = None;
        let (first, _) = self.rest.split_at(self.together.clamp(1, self.most.max(1)).min(self.rest.len()));
        if first.is_empty() {
            return Ok(None);
        }
        let around = self.visible.around(first).await?;
        let told = first.iter().zip(&around);
        let needed = told.map(|(touched, around)| {
            (needed(touched, around), NAMED * touched.entries.len().min(MOST_NAMED))
        });
        let needed: Vec<_> = needed.collect();
        let (number, bytes) = self.visible.fitting(&needed, ENOUGH).await?;
        if let Err(no_room) = self.hold.set(COPIES.saturating_mul(bytes)) {
            if number > 1 || bytes > LARGEST {
                return Err(no_room.into());
            }
            self.alone = Some(timeout(PATIENCE, LARGE.next(1)).await.map_err(|_| no_room)?);
        }
        let whole = needed.into_iter().take(number).flat_map(|(entries, _)| entries).collect();
        let heads = first.iter().take(number).flat_map(named_of);
        let entries = self.visible.entries_at(&whole, &heads.copied().collect()).await?;
        let told: Vec<(Touched, Around)> = first.iter().take(number).map(abridged).zip(around).collect();
        let found = aside::run(bytes, move || {
            let entries: HashMap<Timestamp, &SeenEntry> =
                entries.iter().map(|entry| (entry.last_modified, entry)).collect();
            let found = told.iter().filter_map(|(touched, around)| Difference::of(touched, around, &entries));
            found.collect()
        });
        let found = found.await?;
        let (looked, rest) = self.rest.split_at(number.min(self.rest.len()));
        (self.rest, self.together) = (rest, 2 * number);
        Ok(Some((looked, found)))
    }
}

/// The entries that are named of an object, newest first.
fn named_of(touched: &Touched) -> impl Iterator<Item = &Timestamp> {
    touched.entries.iter().rev().take(MOST_NAMED)
}

/// An object with its first entry and those that are named of it.
fn abridged(touched: &Touched) -> Touched {
    let Touched { object, entries, lost } = touched;
    let beside = entries.len().saturating_sub(MOST_NAMED);
    let entries = entries.iter().take(beside.min(1)).chain(entries.iter().skip(beside)).copied().collect();
    Touched { object: object.clone(), entries, lost: *lost }
}

/// The entries that have to be read whole to tell what was done to an object.
fn needed(touched: &Touched, around: &Around) -> BTreeSet<Timestamp> {
    // Where there is nothing before the first entry, that says itself what it changed.
    let before = around.before.or_else(|| touched.entries.first().copied());
    let ends = before.into_iter().chain(touched.entries.last().copied());
    ends.chain(around.newest.map(|(newest, _)| newest)).collect()
}

// === impl Side ===

impl Side {
    fn of(entry: Option<&Read<'_>>) -> Self {
        match entry {
            None => Self::Unknown,
            Some(entry) if entry.action == Action::Delete.as_str() => Self::Absent,
            Some(entry) => Self::Present(Present {
                data: entry.target.data.to_owned(),
                permissions: entry.target.permissions.clone(),
            }),
        }
    }

    /// An object whose permissions are not known; absent where there is none.
    pub fn of_data(data: Option<Box<RawValue>>) -> Self {
        data.map_or(Self::Absent, |data| Self::Present(Present { data, permissions: Permissions::new() }))
    }

    /// The object, where it is there and known.
    pub fn present(&self) -> Option<&Present> {
        match self {
            Self::Present(present) => Some(present),
            Self::Absent | Self::Unknown => None,
        }
    }

    fn data(&self) -> Option<&RawValue> {
        self.present().map(|present| &*present.data)
    }

    /// Whether both are the same but for the version.
    pub fn has_same_data(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Absent, Self::Absent) => true,
            (Self::Present(left), Self::Present(right)) => is_same_but_modified(&left.data, &right.data),
            _ => false,
        }
    }

    /// Whether both have the same permissions, as far as these are known.
    pub fn has_same_permissions(&self, other: &Self) -> bool {
        let (Some(left), Some(right)) = (self.present(), other.present()) else { return true };
        let (left, right) = (&left.permissions, &right.permissions);
        left.is_empty() || right.is_empty() || are_same_permissions(left, right)
    }
}

// === impl Difference ===

impl Difference {
    fn of(touched: &Touched, around: &Around, entries: &HashMap<Timestamp, &SeenEntry>) -> Option<Self> {
        let read = |timestamp: &Timestamp| -> Option<Read<'_>> {
            serde_json::from_str(entries.get(timestamp)?.json.as_ref()?.get()).ok()
        };
        let first = touched.entries.first().filter(|entry| **entry == touched.first());
        let before = match (first.and_then(read), around.before) {
            _ if first.is_some() && around.is_creation => Side::Absent,
            (_, Some(entry)) => Side::of(read(&entry).as_ref()),
            (Some(Read { target: Target { previous: Some(previous), .. }, .. }), None) => {
                Side::of_data(Some(previous.to_owned()))
            }
            (_, None) => Side::Unknown,
        };
        let is_lost = touched.lost == Some(touched.last());
        let after = match touched.entries.last() {
            Some(last) if !is_lost => Side::of(read(last).as_ref()),
            _ => Side::Absent,
        };
        if before.has_same_data(&after) && before.has_same_permissions(&after) {
            return None;
        }
        let now = match around.newest {
            _ if around.gone_with.is_some() => Side::Absent,
            Some((newest, _)) => Side::of(read(&newest).as_ref()),
            None => Side::Absent,
        };
        let version = around.newest.map(|(_, version)| version).filter(|_| !matches!(now, Side::Absent));
        let conflict = if around.gone_with.is_some() && around.gone_with != touched.lost {
            Some("its collection was deleted since")
        } else if around.has_others {
            Some("it was changed since")
        } else {
            None
        };
        let action = match (&before, &after) {
            (Side::Absent, _) => Action::Create,
            (_, Side::Absent) => Action::Delete,
            _ => Action::Update,
        };
        let (mut named, mut user_ids) = (Vec::new(), BTreeSet::new());
        for entry in named_of(touched).filter_map(|entry| entries.get(entry)) {
            named.push(entry.id.clone());
            user_ids.extend(entry.user_id.clone());
        }
        Some(Self {
            object: touched.object.clone(),
            action,
            before,
            after,
            now,
            version,
            entries: named,
            user_ids,
            last_modified: touched.last(),
            conflict,
        })
    }

    /// As it is told, as JSON.
    pub fn json(&self) -> String {
        let (before, after) = (self.before.data(), self.after.data());
        let patch = match self.before {
            Side::Unknown => None,
            _ => patch(before, after),
        };
        let both = self.before.present().zip(self.after.present());
        let both = both.filter(|_| !self.before.has_same_permissions(&self.after));
        let permissions = both.map(|(before, after)| BothPermissions {
            before: &before.permissions,
            after: &after.permissions,
        });
        let row = Row {
            uri: self.object.to_string(),
            resource_name: self.object.resource().as_str(),
            action: self.action.as_str(),
            before,
            after,
            patch,
            permissions,
            last_modified: self.last_modified.0,
            entries: &self.entries,
            user_ids: &self.user_ids,
            before_is_unknown: matches!(self.before, Side::Unknown),
            conflict: self.conflict,
        };
        // Texts, numbers and what is JSON already always serialize.
        serde_json::to_string(&row).unwrap_or_default()
    }

    /// How many bytes are read to tell it.
    pub fn weight(&self) -> usize {
        let length = |side: &Side| side.data().map_or(0, |data| data.get().len());
        length(&self.before) + length(&self.after) + length(&self.now) + 40 * self.entries.len() + 512
    }
}

/// What makes the one of the other (RFC 6902), as JSON; none where that would take too much, or where they nest too deep to be
/// looked into.
pub fn patch(before: Option<&RawValue>, after: Option<&RawValue>) -> Option<Box<RawValue>> {
    let length: usize = [before, after].into_iter().flatten().map(|data| data.get().len()).sum();
    if length > MOST_COMPARED {
        return None;
    }
    let read = |data: Option<&RawValue>| -> Option<Value> {
        let Some(data) = data else { return Some(Value::Null) };
        let mut value: Value = serde_json::from_str(data.get()).ok()?;
        if let Value::Object(members) = &mut value {
            members.remove("last_modified");
        }
        Some(value)
    };
    let patch = serde_json::value::to_raw_value(&json_patch::diff(&read(before)?, &read(after)?)).ok()?;
    Some(patch).filter(|patch| patch.get().len() <= length.max(LONG_PATCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_entries_the_first_and_the_newest_are_kept() {
        for (number, kept) in
            [(1, 1), (MOST_NAMED, MOST_NAMED), (MOST_NAMED + 1, MOST_NAMED + 1), (5_000, MOST_NAMED + 1)]
        {
            let entries = (1..=number as u64).map(Timestamp).collect();
            let touched = Touched { object: Object::Bucket("a".to_owned()), entries, lost: None };
            let abridged = abridged(&touched);
            assert_eq!(abridged.entries.len(), kept);
            assert_eq!((abridged.first(), abridged.last()), (touched.first(), touched.last()));
            assert!(named_of(&abridged).eq(named_of(&touched)));
        }
    }
}
