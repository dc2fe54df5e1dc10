//! What becomes an entry, and what is learned without one.

use std::collections::BTreeSet;

use serde_json::value::RawValue;
use uuid::Uuid;

use super::chain::Step;
use super::entry::{Draft, Told, iso_date};
use super::news::{Meaning, meaning};
use super::readers::{are_few, of_permissions};
use super::rows::{ENTRIES, EntryRow, ObjectState, now_microseconds};
use super::statement::Statement;
use super::{Action, Change, Object, Outcome, Permissions, schema};
use crate::journal::transaction::Transaction;
use crate::kinto::Timestamp;

impl Transaction<'_> {
    /// Records what became of a write, once all that it needs was read. Gives how many entries were made.
    pub(super) async fn settle(&mut self, outcome: &Outcome) -> sqlx::Result<usize> {
        for known in &outcome.known {
            self.learn(known, Meaning::Moved, false).await?;
        }
        self.ended.clone_from(&outcome.ended);
        let mut entries = 0;
        for change in &outcome.changes {
            if let Some(end) = self.former_end(change) {
                entries += usize::from(self.record(&end).await?);
            }
            entries += usize::from(self.record(change).await?);
        }
        for (list, timestamp) in &outcome.watermarks {
            let mark = Statement::new("INSERT INTO sidecar_watermarks (list, timestamp) VALUES (")
                .bind(list.as_str())
                .push(", ")
                .bind(*timestamp)
                .push(") ON CONFLICT (list) DO UPDATE SET timestamp = excluded.timestamp");
            mark.execute(self.connection).await?;
        }
        self.settled.extend(outcome.closes.map(|group| group.0));
        Ok(entries)
    }

    /// Does what a write does, and leaves nothing of it: an entry of a history that is none.
    pub(super) async fn probe(&mut self) -> sqlx::Result<()> {
        const NONE: i64 = -1;
        let object = Object::Bucket("probe".to_owned());
        let entry = EntryRow {
            history: NONE,
            last_modified: Timestamp(1),
            id: Uuid::new_v4().to_string(),
            uri: object.to_string(),
            object,
            object_modified: Timestamp(1),
            action: Action::Create.as_str(),
            user_id: Some("probe".to_owned()),
            date: iso_date(0),
            reader_set: NONE,
            knows_readers: true,
            json: "{}".to_owned(),
        };
        Statement::insert(self.kind, ENTRIES, vec![entry.into_values()]).execute(self.connection).await?;
        let none = Statement::new("DELETE FROM sidecar_entries WHERE history = ").bind(NONE);
        none.execute(self.connection).await?;
        schema::look_for_tables(self.connection).await
    }

    /// The end of the life that a collection had before it was made, where that passed elsewhere: Kinto makes nothing that is
    /// there. When that was is not known, but that it was before. The lives of buckets are told apart in [`Outcome::ended`].
    ///
    /// SECURITY: what was in it may be another's.
    fn former_end(&self, made: &Change) -> Option<Change> {
        let is_told = made.action == Some(Action::Create) && !made.is_found && made.date.is_none();
        if !is_told || !matches!(made.object, Object::Collection(..)) {
            return None;
        }
        let uri = made.object.to_string();
        let state = self.state(&uri).filter(|state| !state.deleted && state.modified < made.modified)?;
        if !self.recorded(&uri, made.modified).is_empty() {
            return None;
        }
        let ended = state.modified.max(Timestamp(made.modified.0 - 1));
        Change::end(made.object.clone(), ended)
    }

    /// Records a change; whether it made an entry.
    async fn record(&mut self, change: &Change) -> sqlx::Result<bool> {
        let object = &change.object;
        let uri = object.to_string();
        if change.action == Some(Action::Create) {
            self.hide_ended(object).await?;
        }
        let before = self.state(&uri).cloned();
        let recorded = self.recorded(&uri, change.modified);
        let is_recorded = !recorded.is_empty();
        let meaning = meaning(change, before.as_ref(), recorded);
        if meaning == Meaning::Overtaken {
            return Ok(false);
        }
        let is_news = meaning != Meaning::Known && !self.is_of_the_past(change);
        let Some(data) = change.data.as_deref().filter(|_| is_news) else {
            self.learn(change, meaning, is_recorded).await?;
            return Ok(false);
        };
        let alive = before.filter(|state| !state.deleted);
        let before_it =
            alive.as_ref().map(|state| state.modified).filter(|_| change.action != Some(Action::Create));
        let action = match change.action {
            Some(action) => action,
            None if alive.is_some() => Action::Update,
            None => Action::Create,
        };
        self.news.push((object.clone(), change.modified));
        let step = match meaning {
            Meaning::Moved if is_recorded => Step::AtOnce,
            _ if change.action == Some(Action::Create) => Step::Made,
            _ => Step::Moved,
        };
        self.chains.enter(&uri, change.modified, action == Action::Delete, step);
        if self.is_excluded(change) {
            self.learn(change, meaning, false).await?;
            self.mark_gap(object, change.modified).await?;
            return Ok(false);
        }
        let known = alive.and_then(|state| state.permissions).filter(|_| action == Action::Update);
        let permissions = change.permissions.as_ref().or(known.as_ref());
        let previous = before_it.and_then(|version| self.version_of(&uri, version));
        let (reader_set, knows_readers) = self.readers(object, action, permissions).await?;
        let last_modified = self.next_timestamp(object.bucket()).await?;
        let microseconds = change.date.map_or_else(now_microseconds, |date| date.0.saturating_mul(1000));
        let (id, date) = (Uuid::new_v4().to_string(), iso_date(microseconds));
        let json = Draft {
            id: &id,
            last_modified,
            date: &date,
            action,
            object,
            user_id: change.user_id.as_deref(),
            note: change.note.as_deref(),
            data,
            permissions,
            previous: previous.as_deref(),
        }
        .json();
        let row = EntryRow {
            history: self.history(object.bucket()).await?.id,
            last_modified,
            id,
            object: object.clone(),
            uri: object.to_string(),
            object_modified: change.modified,
            action: action.as_str(),
            user_id: change.user_id.clone(),
            date,
            reader_set,
            knows_readers,
            json,
        };
        self.add(object.bucket(), row);
        self.learn(change, meaning, true).await?;
        Ok(true)
    }

    /// What the newest entry about an object says of it, where that is this version and is to be kept.
    fn version_of(&self, uri: &str, version: Timestamp) -> Option<Box<RawValue>> {
        let (_, json) =
            self.newest(uri).filter(|(newest, _)| *newest == version && self.rules.include_previous)?;
        Some(serde_json::from_str::<Told<'_>>(json).ok()?.target.data.to_owned())
    }

    /// Notes an object's state, where it is not older than what is known.
    async fn learn(&mut self, change: &Change, meaning: Meaning, is_entry: bool) -> sqlx::Result<()> {
        if change.object.parents().any(|parent| self.was_deleted_after(&parent, change)) {
            return Ok(());
        }
        let uri = change.object.to_string();
        let deleted = change.action == Some(Action::Delete);
        let before = self.state(&uri).cloned();
        let (is_new, is_entry) = match &before {
            Some(before) if change.modified < before.modified && meaning != Meaning::Reborn => return Ok(()),
            // Told again, of a life that is over perhaps.
            Some(before) if meaning == Meaning::Known && change.modified != before.modified => return Ok(()),
            Some(before) if change.modified == before.modified && deleted == before.deleted => {
                (false, before.is_entry || is_entry && change.data.is_some())
            }
            _ => (true, is_entry && change.data.is_some()),
        };
        let begins_anew = matches!(change.action, Some(Action::Create)) && is_new;
        let known =
            before.filter(|before| !before.deleted && !begins_anew).and_then(|before| before.permissions);
        let permissions = match &change.permissions {
            Some(told) => are_few(told).then(|| told.clone()),
            None => known,
        };
        let permissions = permissions.filter(|_| !deleted);
        if deleted && is_new {
            self.forget(&change.object, false).await?;
        }
        self.set_state(&uri, ObjectState { modified: change.modified, deleted, permissions, is_entry });
        Ok(())
    }

    /// Whether a change belongs to an earlier life of its bucket, of which no history is kept.
    fn is_of_the_past(&self, change: &Change) -> bool {
        let object = &change.object;
        match (object, change.action) {
            (Object::Bucket(_), Some(Action::Delete)) => {
                self.state(&object.to_string()).is_some_and(|state| change.modified < state.modified)
            }
            (Object::Bucket(_), _) => false,
            _ => self.was_deleted_after(&Object::Bucket(object.bucket().to_owned()), change),
        }
    }

    fn was_deleted_after(&self, object: &Object, change: &Change) -> bool {
        self.state(&object.to_string()).is_some_and(|state| state.deleted && change.modified < state.modified)
    }

    fn is_excluded(&self, change: &Change) -> bool {
        // SECURITY: an author who was found out by what they sent may be another one.
        let author = change.user_id.as_ref().filter(|_| !change.is_found);
        let is_author = author.is_some_and(|user| self.rules.exclude_user_ids.contains(user));
        let mut uris =
            change.object.parents().map(|parent| parent.to_string()).chain([change.object.to_string()]);
        is_author || uris.any(|uri| self.rules.exclude_resources.contains(&uri))
    }

    /// The number of the set of those who may read an entry, and whether all of them are known.
    async fn readers(
        &mut self,
        object: &Object,
        action: Action,
        permissions: Option<&Permissions>,
    ) -> sqlx::Result<(i64, bool)> {
        let nobody = Permissions::new();
        let mut is_complete = self.explicit_permissions;
        let mut known = Vec::new();
        if self.explicit_permissions {
            // Kinto: of a deleted object, no permissions are left.
            let own = permissions.or((action == Action::Delete).then_some(&nobody));
            let of_parents = object
                .parents()
                .map(|parent| self.state(&parent.to_string()).and_then(|state| state.permissions.clone()));
            for permissions in of_parents.chain([own.cloned()]) {
                is_complete = is_complete && permissions.is_some();
                known.extend(permissions);
            }
        }
        let principals: BTreeSet<&String> = known.iter().flat_map(of_permissions).collect();
        match self.reader_sets.number_of_few(self.connection, &principals).await? {
            Some(number) => Ok((number, is_complete)),
            None => Ok((self.reader_sets.number(self.connection, &BTreeSet::new()).await?, false)),
        }
    }
}
