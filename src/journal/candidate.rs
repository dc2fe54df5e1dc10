//! An entry or a tombstone that may belong on a page.

use std::borrow::Cow;
use std::sync::OnceLock;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::kinto::Timestamp;
use crate::query::{Fields, Query, members, members_at, nested};

/// An entry of which nothing is kept but its name once it is selected.
#[derive(Debug)]
pub(super) struct SelectedName(Candidate);

/// An entry or a tombstone as the list language sees it.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) id: String,
    pub(super) last_modified: Timestamp,
    json: String,
    /// Read when they are asked for.
    members: OnceLock<Map<String, Value>>,
}

// === impl Candidate ===

impl Candidate {
    /// An entry.
    pub(super) fn new(id: String, last_modified: Timestamp, json: String) -> Self {
        Self { id, last_modified, json, members: OnceLock::new() }
    }

    /// A large entry, read as far as a query looks into it.
    pub(super) fn large(id: String, last_modified: Timestamp, json: String, query: &Query) -> Self {
        let filters = query.filters.iter().map(|filter| &*filter.field);
        let paths: Vec<&str> = filters.chain(query.sorting.iter().map(|sort| &*sort.field)).collect();
        let members = OnceLock::from(members_at(json.as_bytes(), Some(&paths)));
        Self { id, last_modified, json, members }
    }

    /// A tombstone.
    pub(super) fn tombstone(id: String, last_modified: Timestamp) -> Self {
        let quoted = Value::from(id.as_str());
        let json = format!("{{\"id\":{quoted},\"last_modified\":{last_modified},\"deleted\":true}}");
        Self::new(id, last_modified, json)
    }

    /// How many bytes it has.
    pub(super) fn length(&self) -> usize {
        self.json.len()
    }

    /// As it is served.
    pub(super) fn serve(self, query: &Query) -> Option<Box<RawValue>> {
        let json = query.project_text(&self.json).unwrap_or(self.json);
        RawValue::from_string(json).ok()
    }
}

impl From<Candidate> for SelectedName {
    fn from(candidate: Candidate) -> Self {
        Self(candidate)
    }
}

impl SelectedName {
    /// Its id and its timestamp.
    pub(super) fn into_name(self) -> (String, Timestamp) {
        (self.0.id, self.0.last_modified)
    }
}

impl Fields for SelectedName {
    fn weight(&self) -> usize {
        self.0.weight()
    }

    fn forget(&mut self) {
        self.0.forget();
        self.0.json = String::new();
    }

    fn field(&self, path: &str) -> Option<Cow<'_, Value>> {
        self.0.field(path)
    }
}

impl Fields for Candidate {
    fn weight(&self) -> usize {
        self.json.len() + size_of::<Self>()
    }

    fn forget(&mut self) {
        self.members.take();
    }

    fn field(&self, path: &str) -> Option<Cow<'_, Value>> {
        match path {
            "id" => Some(Cow::Owned(Value::from(self.id.as_str()))),
            "last_modified" => Some(Cow::Owned(Value::from(self.last_modified.0))),
            path => {
                let members = self.members.get_or_init(|| members(self.json.as_bytes()));
                nested(members, path).map(Cow::Borrowed)
            }
        }
    }
}
