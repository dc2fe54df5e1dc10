//! Which changes a reader wants.

use std::collections::HashSet;
use std::sync::Arc;

use http::StatusCode;
use serde_json::{Map, Value};

use super::moment::Row;
use super::params::{Params, refused};
use crate::error::Error;
use crate::kinto::Timestamp;
use crate::query::{Given, Parameters, Query, Rules};

pub mod collation;
pub mod selector;

use selector::Selector;

/// A condition on changes.
#[derive(Debug)]
pub enum Filter {
    /// One of these ids.
    Ids(HashSet<String>),
    /// CouchDB's Mango, of the document.
    Selector(Selector),
    /// Kinto's list language, of the record.
    Kinto(Query),
    /// Nothing: CouchDB's `_design`, as there are no design documents.
    Nothing,
    /// All of these.
    All(Vec<Self>),
}

impl Filter {
    /// What a request asks for; `named` finds the filter of a name in the metadata of collection and bucket.
    pub async fn read(
        params: &Params,
        named: impl AsyncFnOnce(&str) -> Result<Option<Value>, Error>,
    ) -> Result<Option<Arc<Self>>, Error> {
        let mut filters = Vec::new();
        match params.filter.as_deref() {
            None => filters.extend(params.doc_ids.as_ref().map(ids).transpose()?),
            Some("_doc_ids") => filters.push(ids(params.doc_ids.as_ref().unwrap_or(&Value::Null))?),
            Some("_selector") => {
                let selector = params.selector.as_ref().unwrap_or(&Value::Null);
                filters.push(Self::Selector(Selector::read(selector)?));
            }
            Some("_design") => filters.push(Self::Nothing),
            Some(name) => {
                let found = if name.starts_with('_') { None } else { named(name).await? };
                filters.push(Self::defined(name, found)?);
            }
        }
        if !params.kinto.is_empty() {
            filters.push(Self::kinto(&params.kinto)?);
        }
        Ok(match filters.len() {
            0 => None,
            1 => filters.pop().map(Arc::new),
            _ => Some(Arc::new(Self::All(filters))),
        })
    }

    /// A filter that the metadata defines.
    fn defined(name: &str, definition: Option<Value>) -> Result<Self, Error> {
        match definition {
            Some(Value::String(query)) => Self::kinto(&Parameters::parse(Some(&query))?),
            Some(selector @ Value::Object(_)) => Ok(Self::Selector(Selector::read(&selector)?)),
            Some(_) => {
                Err(refused(format!("The filter `{name}` is neither a selector nor a query of Kinto's.")))
            }
            None => Err(Error::Feed {
                status: StatusCode::NOT_FOUND,
                reason: format!(
                    "There is no filter `{name}` in the `filters` of the collection's or the bucket's metadata; \
                     JavaScript functions are not run."
                ),
            }),
        }
    }

    fn kinto(parameters: &Parameters) -> Result<Self, Error> {
        let rules = Rules {
            known_fields: &[],
            text_fields: &[],
            in_like: false,
            paginate_by: None,
            max_fetch_size: None,
            now: Timestamp::now(),
        };
        Ok(Self::Kinto(Query::of(&Given::read(parameters, Vec::new())?, &rules)?))
    }

    /// Whether a change is wanted.
    pub fn matches(&self, row: &Row) -> bool {
        match self {
            Self::Ids(ids) => ids.contains(&*row.id),
            Self::Nothing => false,
            Self::Selector(_) | Self::Kinto(_) | Self::All(_) => {
                let record = serde_json::from_slice(&row.json).unwrap_or_default();
                self.matches_record(row, &record)
            }
        }
    }

    fn matches_record(&self, row: &Row, record: &Map<String, Value>) -> bool {
        match self {
            Self::Ids(ids) => ids.contains(&*row.id),
            Self::Nothing => false,
            Self::Selector(selector) => selector.matches(&document(row, record)),
            Self::Kinto(query) => query.matches(record),
            Self::All(filters) => filters.iter().all(|filter| filter.matches_record(row, record)),
        }
    }
}

/// The record with the members that CouchDB's documents have.
fn document(row: &Row, record: &Map<String, Value>) -> Value {
    let mut document = record.clone();
    document.insert("_id".to_owned(), Value::from(&*row.id));
    document.insert("_rev".to_owned(), Value::from(format!("1-{}", row.last_modified)));
    if row.deleted {
        document.insert("_deleted".to_owned(), Value::Bool(true));
    }
    Value::Object(document)
}

fn ids(list: &Value) -> Result<Filter, Error> {
    let not_a_list = || refused("`doc_ids` filter parameter is not a list.");
    let ids = list.as_array().ok_or_else(not_a_list)?.iter();
    let ids = ids.map(|id| id.as_str().map(str::to_owned).ok_or_else(not_a_list));
    Ok(Filter::Ids(ids.collect::<Result<_, _>>()?))
}
