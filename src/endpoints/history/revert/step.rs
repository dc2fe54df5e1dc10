//! What undoing comes to for one object: nothing, a write, or why there is none.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use http::Method;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::fields::members;
use super::options::Options;
use crate::history::difference::{Difference, Present, Side, patch};
use crate::journal::{Note, Object, Permissions, ResourceName};
use crate::kinto::{Timestamp, batch_path};

/// What is to be done about an object.
#[derive(Debug)]
pub(in crate::endpoints) enum Step {
    /// It is as it was.
    Unchanged,
    /// It was changed since.
    Conflict(&'static str),
    /// It cannot be undone.
    Refused(&'static str),
    /// It is written.
    Write(Box<Undoing>),
}

/// A write that undoes what was done to an object.
#[derive(Debug, Clone)]
pub(in crate::endpoints) struct Undoing {
    /// The object.
    pub(in crate::endpoints) object: Object,
    /// How it shall be; none where it shall not be.
    pub(in crate::endpoints) data: Option<Box<RawValue>>,
    /// The permissions that are sent.
    pub(in crate::endpoints) permissions: Option<Permissions>,
    /// The version that is undone; none where the object is not there.
    pub(in crate::endpoints) version: Option<Timestamp>,
    /// For the entry that is made.
    pub(in crate::endpoints) note: Arc<Note>,
    /// Where it is only told of: what changes.
    pub(super) patch: Option<Box<RawValue>>,
}

/// A sub-request of a batch.
#[derive(Serialize)]
struct Request<'r> {
    method: &'r str,
    path: String,
    headers: BTreeMap<&'static str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Body<'r>>,
}

#[derive(Serialize)]
struct Body<'r> {
    data: &'r RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    permissions: Option<&'r Permissions>,
}

// === impl Step ===

impl Step {
    /// What is to be done to undo a difference, by whoever `user_id` is. It takes long where the object is large.
    pub(in crate::endpoints) fn of(
        difference: &Difference,
        options: &Options,
        user_id: Option<&str>,
    ) -> Self {
        let Difference { before, now, object, .. } = difference;
        let target = match (before, &options.fields) {
            (Side::Unknown, _) => return Self::Refused("how it was before is not known"),
            (Side::Absent, None) => None,
            (Side::Present(before), None) => without_version(&before.data),
            (Side::Absent | Side::Present(_), Some(_)) if matches!(now, Side::Absent) => {
                return match before {
                    Side::Absent => Self::Unchanged,
                    _ => Self::Refused("it is not there: undo it without `fields` to bring it back"),
                };
            }
            (Side::Absent, Some(_)) => {
                return Self::Refused("it was not there: undo it without `fields` to delete it");
            }
            (Side::Present(before), Some(fields)) => match now.present() {
                Some(now) => match fields.merged(&now.data, &before.data) {
                    Ok(data) => without_version(&data),
                    Err(reason) => return Self::Refused(reason),
                },
                None => return Self::Refused("how it is now is not known"),
            },
        };
        let sent = before.present().and_then(|before| permissions(before, now, object, options));
        let note = Note { reason: options.reason.clone(), reverts: difference.entries.clone() };
        let mut undoing = Undoing {
            object: object.clone(),
            data: target,
            permissions: sent,
            version: difference.version,
            note: Arc::new(note),
            patch: None,
        };
        if undoing.is_done(now, user_id) {
            return Self::Unchanged;
        }
        if let Some(conflict) = difference.conflict.filter(|_| !options.overwrite) {
            return Self::Conflict(conflict);
        }
        if undoing.data.is_none() && before.present().is_some() {
            return Self::Refused("how it was before cannot be read");
        }
        if undoing.data.is_none() && matches!(object, Object::Bucket(_)) {
            return Self::Refused("a bucket's creation is not undone: its history would go with it");
        }
        if options.dry_run {
            undoing.patch = patch(now.present().map(|now| &*now.data), undoing.data.as_deref());
        }
        Self::Write(Box::new(undoing))
    }
}

// === impl Undoing ===

impl Undoing {
    /// Whether the object is as it shall be.
    pub(super) fn is_done(&self, now: &Side, user_id: Option<&str>) -> bool {
        let has_permissions = self.permissions.as_ref().is_none_or(|sent| are_given(sent, now, user_id));
        Side::of_data(self.data.clone()).has_same_data(now) && has_permissions
    }

    /// Says of what is made anew that it does not have the permissions that it had.
    pub(super) fn lacks_permissions(&self, options: &Options) -> Option<Cow<'static, str>> {
        let is_anew = self.data.is_some() && self.version.is_none();
        let is_wanted = options.permissions.unwrap_or(true);
        (is_anew && is_wanted && self.permissions.is_none())
            .then_some("its permissions are not known, and are not given back".into())
    }

    /// The method of the write.
    pub(in crate::endpoints) fn method(&self) -> Method {
        if self.data.is_some() { Method::PUT } else { Method::DELETE }
    }

    /// What it does to the object.
    pub(in crate::endpoints) fn action(&self) -> &'static str {
        match (&self.data, self.version) {
            (None, _) => "delete",
            (Some(_), None) => "create",
            (Some(_), Some(_)) => "update",
        }
    }

    /// The sub-request of a batch, as JSON.
    pub(in crate::endpoints) fn request(&self) -> String {
        let condition = match self.version {
            Some(version) => ("If-Match", format!("\"{version}\"")),
            None => ("If-None-Match", "*".to_owned()),
        };
        let method = self.method();
        let body = self.data.as_deref().map(|data| Body { data, permissions: self.permissions.as_ref() });
        let request = Request {
            method: method.as_str(),
            path: batch_path(&self.object.to_string()),
            headers: BTreeMap::from([condition]),
            body,
        };
        // Texts and what is JSON already always serialize.
        serde_json::to_string(&request).unwrap_or_default()
    }
}

/// The permissions that are sent with an object; none where they stay as they are.
fn permissions(before: &Present, now: &Side, object: &Object, options: &Options) -> Option<Permissions> {
    let is_wanted = options.permissions.unwrap_or(matches!(now, Side::Absent));
    if !is_wanted || before.permissions.is_empty() {
        return None;
    }
    let names: &[&str] = match object.resource() {
        ResourceName::Bucket => &["read", "write", "collection:create", "group:create"],
        ResourceName::Collection => &["read", "write", "record:create"],
        ResourceName::Group | ResourceName::Record => &["read", "write"],
    };
    // Kinto leaves those that are not named as they are.
    let none =
        names.iter().filter(|_| !matches!(now, Side::Absent)).map(|name| ((*name).to_owned(), Vec::new()));
    let known = before.permissions.iter().map(|(name, who)| (name.clone(), who.clone()));
    Some(none.chain(known).collect())
}

/// Whether an object has these permissions. Kinto lets the author of each write write.
fn are_given(sent: &Permissions, now: &Side, user_id: Option<&str>) -> bool {
    let Some(now) = now.present() else { return false };
    let mut sent = sent.clone();
    sent.retain(|_, who| !who.is_empty());
    let mut with_author = sent.clone();
    with_author.entry("write".to_owned()).or_default().extend(user_id.map(str::to_owned));
    let is_now =
        |permissions: &Permissions| crate::journal::are_same_permissions(permissions, &now.permissions);
    is_now(&sent) || is_now(&with_author)
}

/// An object as it is sent: a timestamp of before would be seen by nobody who follows changes.
fn without_version(data: &RawValue) -> Option<Box<RawValue>> {
    let mut members = members(data)?;
    members.remove("last_modified");
    to_raw_value(&members).ok()
}
