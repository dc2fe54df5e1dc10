//! What was written, as changes for the journal.

use std::collections::{BTreeMap, HashMap, VecDeque};

use http::{Method, StatusCode};
use serde_json::value::{RawValue, to_raw_value};

use super::answer::{Answer, Version};
use super::write::{Target, Write, object_in};
use crate::journal::{Action, Change, IntentGroup, Object, Outcome, Permissions};
use crate::kinto::Timestamp;
use crate::kinto::head::Head;

/// What an answer says of the write that it answers.
#[derive(Debug)]
pub(super) enum Meaning {
    /// Nothing was written.
    Nothing,
    /// These changes, in their order.
    Changes(Vec<Change>),
    /// This object was written, but the answer does not show it whole.
    Look(Object),
    /// All there is is gone.
    Gone,
    /// Whether anything was written is not known.
    Unknown,
}

impl Meaning {
    /// What `answer` says of `write`, of whoever `user_id` is.
    pub(super) fn of(write: &Write, user_id: Option<&str>, answer: &Answer) -> Self {
        let Some(target) = &write.target else { return Self::Nothing };
        if answer.status.is_server_error() {
            return Self::Unknown;
        }
        if !answer.status.is_success() {
            return Self::Nothing;
        }
        let by = || user_id.map(str::to_owned);
        let changes = match target {
            Target::Accounts => return Self::Nothing,
            Target::Everything => return Self::Gone,
            Target::Part(object) => return Self::Look(object.clone()),
            Target::Object(object) if write.is_partial => return Self::Look(object.clone()),
            Target::Object(object) => match answer.version(write.method == Method::DELETE) {
                Some(version) => {
                    let action = action(&write.method, answer.status);
                    Some(vec![Change { action, ..changed(version, object.clone(), by()) }])
                }
                // What it showed was too large, or was lost.
                None if write.method != Method::DELETE && answer.modified().is_some() => {
                    return Self::Look(object.clone());
                }
                None => None,
            },
            Target::List(_) if write.method == Method::POST && answer.status == StatusCode::OK => {
                return Self::Nothing;
            }
            Target::List(list) if write.method == Method::POST => answer.version(false).and_then(|version| {
                let object = object_in(list, &version.id)?;
                Some(vec![Change { action: Some(Action::Create), ..changed(version, object, by()) }])
            }),
            Target::List(list) => answer.tombstones().and_then(|versions| {
                let change = |version: Version| {
                    let object = object_in(list, &version.id)?;
                    Some(Change { action: Some(Action::Delete), ..changed(version, object, by()) })
                };
                versions.into_iter().map(change).collect()
            }),
        };
        changes.map_or(Self::Unknown, Self::Changes)
    }
}

pub(super) fn action(method: &Method, status: StatusCode) -> Option<Action> {
    match *method {
        Method::DELETE => Some(Action::Delete),
        _ if status == StatusCode::CREATED => Some(Action::Create),
        Method::PUT | Method::PATCH => Some(Action::Update),
        _ => None,
    }
}

/// A change of an object to this version.
pub(super) fn changed(version: Version, object: Object, user_id: Option<String>) -> Change {
    let bare = Change::bare(object, version.deleted.then_some(Action::Delete), version.modified);
    Change { data: Some(version.data), permissions: version.permissions, user_id, ..bare }
}

/// The end of an object that nothing is left of, not even a tombstone.
pub(super) fn vanished(object: Object, modified: Timestamp, is_found: bool) -> Change {
    Change { is_found, ..Change::bare(object, Some(Action::Delete), modified) }
}

/// The version that a patch made, where somebody made another one before it could be looked at: as the last one that is
/// known, with what was sent and what the answer shows.
pub(super) fn patched(
    object: &Object,
    modified: Timestamp,
    before: Option<&RawValue>,
    sent: Option<&RawValue>,
    answer: &Answer,
) -> Option<Version> {
    let read = |json: &RawValue| serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(json.get()).ok();
    // No tombstone is patched: somebody made the object again, and nothing is left of what it was.
    let is_alive =
        |before: &&RawValue| !Head::of(before.get().as_bytes()).is_some_and(|head| head.is_tombstone);
    let layers = [before.filter(is_alive), sent, answer.data()];
    let mut data: BTreeMap<String, Box<RawValue>> =
        layers.into_iter().flatten().filter_map(read).flatten().collect();
    data.insert("id".to_owned(), to_raw_value(object.id()).ok()?);
    data.insert("last_modified".to_owned(), to_raw_value(&modified.0).ok()?);
    Some(Version {
        id: object.id().to_owned(),
        modified,
        deleted: false,
        data: to_raw_value(&data).ok()?,
        permissions: answer.permissions().ok().flatten(),
    })
}

/// Leaves these changes without the permissions of what is below a list.
pub(super) fn take_permissions_below(list: &str, changes: &mut [Change]) {
    let is_below = |uri: String| uri.strip_prefix(list).is_some_and(|rest| rest.starts_with('/'));
    for change in changes.iter_mut().filter(|change| is_below(change.object.to_string())) {
        change.permissions = change.permissions.take().map(|_| Permissions::new());
    }
}

/// The changes of one request as Kinto tells its plugins of them at the request's end: together what was done to objects
/// of one list in one way, in the order of the first of each. But those of one object stay in their order.
///
/// Each has the permissions that its object has when it is told: those that the last change left, but none once the
/// deletion of a bucket was told that the object is or is in, or that of a collection that it is in. Kinto takes these
/// permissions away only then, also those of what was made anew after the deletion.
///
/// Follows `kinto.core.events` (`EventCollector`), `kinto.views.buckets` and `kinto.views.collections`.
pub(super) fn in_kintos_order(mut changes: Vec<Change>) -> Vec<Change> {
    let last: HashMap<Object, Option<Permissions>> =
        changes.iter().map(|change| (change.object.clone(), change.permissions.clone())).collect();
    let mut kinds: Vec<(String, Option<Action>)> = Vec::new();
    let mut places: Vec<(usize, Object)> = Vec::new();
    let mut emptied: HashMap<Object, usize> = HashMap::new();
    for change in &changes {
        let kind = (change.object.list(), change.action);
        let place = kinds.iter().position(|known| *known == kind).unwrap_or(kinds.len());
        if place == kinds.len() {
            kinds.push(kind);
        }
        if change.action == Some(Action::Delete) && !matches!(change.object, Object::Record(..)) {
            emptied.insert(change.object.clone(), place);
        }
        places.push((place, change.object.clone()));
    }
    for (change, (place, object)) in changes.iter_mut().zip(&places) {
        let itself = matches!(object, Object::Bucket(_)).then(|| object.clone());
        let mut within = object.parents().chain(itself);
        if !emptied.is_empty()
            && within.any(|emptied_one| emptied.get(&emptied_one).is_some_and(|at| at < place))
        {
            change.permissions = Some(Permissions::new());
        } else if let Some(Some(permissions)) = last.get(object) {
            change.permissions = Some(permissions.clone());
        } else if change.permissions.is_some() {
            change.permissions = Some(Permissions::new());
        }
    }
    places.sort_by_key(|(place, _)| *place);
    let mut by_object: HashMap<Object, VecDeque<Change>> = HashMap::new();
    for change in changes {
        by_object.entry(change.object.clone()).or_default().push_back(change);
    }
    places.into_iter().filter_map(|(_, object)| by_object.get_mut(&object)?.pop_front()).collect()
}

/// These changes as an outcome. Of what is created everything within is news.
pub(super) fn outcome(closes: Option<IntentGroup>, changes: Vec<Change>) -> Outcome {
    let created = changes.iter().filter(|change| change.action == Some(Action::Create));
    let lists = created.flat_map(|change| lists_in(&change.object));
    let watermarks = lists.map(|list| (list, Timestamp::ZERO)).collect();
    Outcome { closes, changes, known: Vec::new(), watermarks, ended: Vec::new() }
}

/// The URIs of the lists within an object.
pub(super) fn lists_in(object: &Object) -> Vec<String> {
    match object {
        Object::Bucket(_) => vec![format!("{object}/collections"), format!("{object}/groups")],
        Object::Collection(..) => vec![format!("{object}/records")],
        Object::Group(..) | Object::Record(..) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_patch_that_was_written_over_is_the_last_version_with_what_was_sent() {
        let object = Object::of_uri("/buckets/b/collections/c/records/r").unwrap();
        let answer = Answer::read(StatusCode::OK, &Bytes::from_static(b"{}"), Some(Timestamp(7)));
        let sent = to_raw_value(&serde_json::json!({"n": 1})).unwrap();
        for (before, patched) in [
            (r#"{"id":"r","last_modified":3,"m":2}"#, r#"{"id":"r","last_modified":7,"m":2,"n":1}"#),
            (r#"{"id":"r","last_modified":3,"deleted":true}"#, r#"{"id":"r","last_modified":7,"n":1}"#),
        ] {
            let before = RawValue::from_string(before.to_owned()).unwrap();
            let version = super::patched(&object, Timestamp(7), Some(&before), Some(&sent), &answer).unwrap();
            assert_eq!(version.data.get(), patched);
        }
    }

    fn change(uri: &str, action: Action, permissions: Option<Permissions>) -> Change {
        Change { permissions, ..Change::bare(Object::of_uri(uri).unwrap(), Some(action), Timestamp(1)) }
    }

    #[test]
    fn what_a_deletion_empties_has_no_permissions_once_the_deletion_is_told() {
        let shared = Permissions::from([("read".to_owned(), ["you".to_owned()].into())]);
        let record = |bucket| format!("/buckets/{bucket}/collections/c/records/r");
        let changes = vec![
            change(&record("c"), Action::Update, Some(shared.clone())),
            change("/buckets/a", Action::Delete, None),
            change("/buckets/a", Action::Create, Some(shared.clone())),
            change(&record("a"), Action::Update, Some(shared.clone())),
            change("/buckets/b/collections/c", Action::Delete, None),
            change("/buckets/b/collections/c", Action::Create, Some(shared.clone())),
            change(&record("b"), Action::Update, Some(shared.clone())),
            change("/buckets/c", Action::Delete, None),
        ];
        let told: Vec<_> = in_kintos_order(changes)
            .into_iter()
            .filter(|change| change.action != Some(Action::Delete))
            .map(|change| (change.object.to_string(), change.permissions.unwrap()))
            .collect();
        let none = Permissions::new();
        let expected = [
            (record("c"), shared.clone()),
            ("/buckets/a".to_owned(), none.clone()),
            (record("a"), none.clone()),
            ("/buckets/b/collections/c".to_owned(), shared),
            (record("b"), none),
        ];
        assert_eq!(told, expected);
    }
}
