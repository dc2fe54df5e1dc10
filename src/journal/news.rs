//! Whether a change moved its object's `last_modified`: that alone makes an entry, whatever its data are.
//!
//! An object's versions go up for as long as it lives. Once it was deleted, its next life may begin with any version, also
//! with one that it had before.

use super::ledger::State;
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

/// What a change is to an object of this state; `is_recorded` where there is an entry about the version.
pub(super) fn meaning(change: &Change, state: Option<&State>, is_recorded: bool) -> Meaning {
    let is_dead = state.is_none_or(|state| state.deleted);
    let is_state = state.is_some_and(|state| {
        state.modified == change.modified && state.deleted == (change.action == Some(Action::Delete))
    });
    if is_dead && change.action == Some(Action::Create) && !change.is_found {
        Meaning::Reborn
    } else if is_recorded || is_state {
        Meaning::Known
    } else if change.is_found && state.is_some_and(|state| change.modified < state.modified) {
        Meaning::Overtaken
    } else {
        Meaning::Moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Object;
    use crate::kinto::Timestamp;

    fn change(modified: u64, action: Option<Action>, is_found: bool) -> Change {
        Change {
            object: Object::Bucket("a".to_owned()),
            action,
            modified: Timestamp(modified),
            data: None,
            permissions: None,
            user_id: None,
            date: None,
            is_found,
        }
    }

    #[test]
    fn a_version_is_judged_by_its_timestamp_and_by_who_told_of_it() {
        let state = |deleted| State { modified: Timestamp(5), deleted, ..State::default() };
        let (alive, dead) = (state(false), state(true));
        let told = |modified, action| change(modified, Some(action), false);
        let found = |modified| change(modified, None, true);
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
            assert_eq!(meaning(&change, state, is_recorded), expected, "{change:?} {state:?} {is_recorded}");
        }
    }
}
