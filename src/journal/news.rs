//! Whether a change moved its object's `last_modified`: that alone makes an entry, whatever its data are.
//!
//! Kinto on PostgreSQL may give two writes of one object that it does at the same moment the same version: who tells of one
//! of them with other data or as another author than is recorded tells of another write.
//!
//! An object's versions go up for as long as it lives. Once it was deleted, its next life may begin with any version, also
//! with one that it had before.

use serde_json::Value;

use super::entry::Told;
use super::rows::{ObjectState, Recorded};
use super::{Action, Change};

/// What a change is to what is recorded of its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A version that is not recorded.
    Moved,
    /// The first version of a new life, which may be older than what is recorded.
    Reborn,
    /// It is recorded.
    Known,
    /// It was found, and something newer is recorded, beside which it would stand in the wrong order.
    Overtaken,
}

/// What a change is to an object of this state; `recorded` are the entries about the version.
pub(super) fn meaning(change: &Change, state: Option<&ObjectState>, recorded: &[Recorded]) -> Meaning {
    let is_dead = state.is_none_or(|state| state.deleted);
    let is_state = state.is_some_and(|state| {
        state.modified == change.modified && state.deleted == (change.action == Some(Action::Delete))
    });
    if is_dead && change.action == Some(Action::Create) && !change.is_found {
        Meaning::Reborn
    } else if recorded.iter().any(|entry| is_of_write(entry, change)) || is_state && recorded.is_empty() {
        Meaning::Known
    } else if change.is_found && state.is_some_and(|state| change.modified < state.modified) {
        Meaning::Overtaken
    } else {
        Meaning::Moved
    }
}

/// Whether an entry about a version is of the write that made this change.
fn is_of_write(entry: &Recorded, change: &Change) -> bool {
    let is_authors = entry.user_id.is_none() || entry.user_id == change.user_id;
    let read = |json: &str| serde_json::from_str::<Value>(json).ok();
    let is_same = |data: &str| {
        let told = serde_json::from_str::<Told<'_>>(&entry.json).ok();
        told.is_none_or(|told| read(told.target.data.get()) == read(data))
    };
    change.is_found || is_authors && change.data.as_ref().is_none_or(|data| is_same(data.get()))
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;
    use crate::journal::Object;
    use crate::kinto::Timestamp;

    fn change(modified: u64, action: Option<Action>, is_found: bool) -> Change {
        let bare = Change::bare(Object::Bucket("a".to_owned()), action, Timestamp(modified));
        Change { is_found, ..bare }
    }

    #[test]
    fn two_writes_may_have_the_same_version() {
        let state = ObjectState { modified: Timestamp(5), ..ObjectState::default() };
        let json = r#"{"action": "update", "target": {"data": {"a": 1, "b": 2}}}"#;
        let recorded = [Recorded { user_id: Some("me".to_owned()), json: json.to_owned() }];
        let told = |user: &str, data: &str, is_found| Change {
            user_id: Some(user.to_owned()),
            data: RawValue::from_string(data.to_owned()).ok(),
            ..change(5, Some(Action::Update), is_found)
        };
        for (change, expected) in [
            (told("me", r#"{"b": 2, "a": 1}"#, false), Meaning::Known),
            (told("me", r#"{"b": 2, "a": 2}"#, false), Meaning::Moved),
            (told("you", r#"{"b": 2, "a": 1}"#, false), Meaning::Moved),
            (told("you", r#"{"b": 2, "a": 2}"#, true), Meaning::Known),
        ] {
            assert_eq!(meaning(&change, Some(&state), &recorded), expected, "{change:?}");
        }
    }

    #[test]
    fn a_version_is_judged_by_its_timestamp_and_by_who_told_of_it() {
        let state = |deleted| ObjectState { modified: Timestamp(5), deleted, ..ObjectState::default() };
        let (alive, dead) = (state(false), state(true));
        let told = |modified, action| change(modified, Some(action), false);
        let found = |modified| change(modified, None, true);
        let entry =
            || Recorded { user_id: None, json: r#"{"action": "update", "target": {"data": {}}}"#.to_owned() };
        for (change, state, is_recorded, expected) in [
            (told(6, Action::Update), Some(&alive), false, Meaning::Moved),
            (told(4, Action::Update), Some(&alive), false, Meaning::Moved),
            (told(4, Action::Update), Some(&alive), true, Meaning::Known),
            (told(5, Action::Update), Some(&alive), false, Meaning::Known),
            (told(5, Action::Create), Some(&alive), true, Meaning::Known),
            (told(5, Action::Delete), Some(&alive), false, Meaning::Moved),
            (told(4, Action::Create), Some(&dead), true, Meaning::Reborn),
            (told(4, Action::Create), None, true, Meaning::Reborn),
            (found(6), Some(&alive), false, Meaning::Moved),
            (found(4), Some(&alive), false, Meaning::Overtaken),
            (found(4), Some(&dead), false, Meaning::Overtaken),
            (found(4), None, true, Meaning::Known),
        ] {
            let recorded: Vec<_> = is_recorded.then(entry).into_iter().collect();
            assert_eq!(meaning(&change, state, &recorded), expected, "{change:?} {state:?} {is_recorded}");
        }
    }
}
