//! What a request to undo something says: what, and how.

use http::request::Parts;
use serde_json::{Map, Value};

use super::fields::{DEEPEST, Fields};
use crate::app::Core;
use crate::endpoints::history::selection::Selection;
use crate::endpoints::{feed, media_type};
use crate::error::Error;
use crate::query::{Fault, Filter, Invalid, Operator, Parameters, Query};
use crate::wire::body::Body;
use crate::wire::buffers::Hold;
use crate::wire::limited;

/// SECURITY: the most entries that are named one by one.
const MOST_ENTRIES: usize = 20_000;
/// SECURITY: the most fields that are chosen.
const MOST_FIELDS: usize = 100;
/// SECURITY: the longest reason, in characters: it stands in each entry that is made.
const LONGEST_REASON: usize = 1_000;
/// Ids of one question to the journal.
const IDS: usize = 400;

/// What is undone.
#[derive(Debug)]
pub(super) enum Chosen {
    /// Entries, by their ids.
    Entries(Vec<String>),
    /// What a diff of the same parameters tells of.
    Selection(Box<Selection>),
}

/// How it is undone.
#[derive(Debug, Clone, Default)]
pub(in crate::endpoints) struct Options {
    /// Nothing is written; the answer says what would be.
    pub(in crate::endpoints) dry_run: bool,
    /// What was changed since is overwritten.
    pub(in crate::endpoints) overwrite: bool,
    /// The fields that are given back; all of them where it is none.
    pub(in crate::endpoints) fields: Option<Fields>,
    /// Why, for the entries that are made.
    pub(in crate::endpoints) reason: Option<String>,
    /// Whether permissions are given back: where it is not said, of what is made anew.
    pub(in crate::endpoints) permissions: Option<bool>,
}

/// The members of a request's body, each of which is taken once.
pub(in crate::endpoints) struct Members {
    members: Map<String, Value>,
    faults: Vec<Fault>,
}

impl Members {
    /// Those of a request's body. What it takes is held.
    pub(in crate::endpoints) async fn read(
        core: &Core,
        request: &Parts,
        body: Body,
        hold: &mut Hold,
    ) -> Result<Self, Error> {
        media_type::check_sender(&request.headers)?;
        let limits = &core.app.settings.limits;
        let body = limited::limited(body, limits)?;
        Ok(Self::of(feed::body::read(request, body, limits.body_limit(), hold).await?))
    }

    /// Those of a body.
    fn of(body: Option<Value>) -> Self {
        let members = match body {
            Some(Value::Object(members)) => members,
            _ => Map::new(),
        };
        Self { members, faults: Vec::new() }
    }

    fn fault(&mut self, name: &str, description: &str) {
        self.faults.push(Fault::new("body", name, description));
    }

    fn truth(&mut self, name: &str) -> Option<bool> {
        let truth = self.members.remove(name)?.as_bool();
        if truth.is_none() {
            self.fault(name, "It is neither true nor false");
        }
        truth
    }

    fn texts(&mut self, name: &str, most: usize) -> Option<Vec<String>> {
        let value = self.members.remove(name)?;
        let texts: Option<Vec<String>> = value
            .as_array()
            .filter(|items| items.len() <= most)
            .and_then(|items| items.iter().map(|item| item.as_str().map(str::to_owned)).collect());
        if texts.is_none() {
            self.fault(name, &format!("It is no list of at most {most} texts"));
        }
        texts
    }

    fn fields(&mut self) -> Option<Fields> {
        let paths = self.texts("fields", MOST_FIELDS)?;
        let fields = Fields::at(paths);
        if fields.is_none() {
            self.fault("fields", &format!("A field is deeper than {DEEPEST}"));
        }
        fields
    }

    /// Takes the options.
    pub(in crate::endpoints) fn options(&mut self) -> Options {
        let overwrite = match self.members.remove("conflicts") {
            None => false,
            Some(Value::String(text)) if text == "overwrite" => true,
            Some(Value::String(text)) if text == "leave" => false,
            Some(_) => {
                self.fault("conflicts", "It is neither \"leave\" nor \"overwrite\"");
                false
            }
        };
        let reason = match self.members.remove("reason") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if text.chars().count() <= LONGEST_REASON => Some(text),
            Some(_) => {
                self.fault("reason", &format!("It is no text of at most {LONGEST_REASON} characters"));
                None
            }
        };
        Options {
            dry_run: self.truth("dry_run").unwrap_or_default(),
            overwrite,
            fields: self.fields(),
            reason,
            permissions: self.truth("permissions"),
        }
    }

    /// Parameters of the query mean nothing where the body says it all.
    pub(in crate::endpoints) fn refuse_parameters(&mut self, query: Option<&str>) -> Result<(), Error> {
        for (name, _) in Parameters::parse(query)?.iter() {
            self.faults.push(Fault::query(name, "It is not known here"));
        }
        Ok(())
    }

    /// Whatever was not taken means nothing here.
    pub(in crate::endpoints) fn end(mut self) -> Result<(), Error> {
        for name in std::mem::take(&mut self.members).keys() {
            self.fault(name, "It is not known here");
        }
        if self.faults.is_empty() { Ok(()) } else { Err(Invalid::faults(self.faults).into()) }
    }

    /// Takes what is undone: entries, or a selection, whose parameters may stand in the query, too.
    pub(super) fn chosen(mut self, core: &Core, query: Option<&str>) -> Result<Chosen, Error> {
        if self.members.contains_key("entries") {
            let mut entries = self.texts("entries", MOST_ENTRIES).unwrap_or_default();
            entries.sort_unstable();
            entries.dedup();
            if query.is_some_and(|query| !query.is_empty()) {
                self.fault("entries", "Entries and a selection are not undone together");
            }
            self.end()?;
            return Ok(Chosen::Entries(entries));
        }
        let mut pairs = Vec::new();
        let mut faults = std::mem::take(&mut self.faults);
        for (name, value) in std::mem::take(&mut self.members) {
            match parameter(&value) {
                Some(text) => pairs.push((name, text)),
                None => faults.push(Fault::new("body", &name, "It is no parameter of a selection")),
            }
        }
        let text = form_urlencoded::Serializer::new(query.unwrap_or_default().to_owned())
            .extend_pairs(pairs)
            .finish();
        let parameters = Parameters::parse(Some(&text))?;
        for name in ["_limit", "_token"] {
            if parameters.values(name).is_some() {
                faults.push(Fault::query(name, "It means nothing here: all that is selected is undone"));
            }
        }
        Ok(Chosen::Selection(Box::new(Selection::read(core, &parameters, faults)?)))
    }
}

/// A member of a body as the value of a parameter.
fn parameter(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Array(items) => {
            let items: Option<Vec<String>> = items.iter().map(parameter).collect();
            Some(items?.join(","))
        }
        Value::Null | Value::Object(_) => None,
    }
}

/// Queries for these entries.
pub(super) fn queries(entries: &[String]) -> impl Iterator<Item = Query> {
    entries.chunks(IDS).map(|ids| {
        let value = ids.iter().map(|id| Value::from(id.as_str())).collect();
        Query::of_filters(vec![Filter { field: "id".to_owned(), operator: Operator::In, value }])
    })
}
