//! Which changes a reader wants.

use std::collections::HashSet;
use std::sync::Arc;

use http::StatusCode;
use serde_json::{Map, Value};

use super::document;
use super::moment::Row;
use super::params::{Params, refused};
use crate::error::Error;
use crate::kinto::Timestamp;
use crate::query::{Given, Parameters, Query, Rules, members};

pub mod collation;
pub mod selector;

use selector::Selector;

/// Parameters of Kinto's lists that are no filters, and what feeds have in their place.
const OF_LISTS: [(&str, &str); 5] = [
    ("_since", "`since`"),
    ("_limit", "`limit`"),
    ("_sort", "`descending`"),
    ("_fields", "`include_docs`"),
    ("_token", "`since`"),
];

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
}

impl Filter {
    /// What a request asks for; `named` finds the filter of a name in the metadata of collection and bucket.
    pub async fn read(
        params: &Params,
        named: impl AsyncFnOnce(&str) -> Result<Option<Value>, Error>,
    ) -> Result<Option<Arc<Self>>, Error> {
        let filter = match params.filter.as_deref() {
            None => match &params.doc_ids {
                Some(list) => ids(list)?,
                None => return Ok(None),
            },
            Some("_doc_ids") => ids(params.doc_ids.as_ref().unwrap_or(&Value::Null))?,
            Some("_selector") => {
                Self::Selector(Selector::read(params.selector.as_ref().unwrap_or(&Value::Null))?)
            }
            Some("_kinto") => Self::kinto(&params.kinto)?,
            Some("_design") => Self::Nothing,
            Some(name) => {
                let found = if name.starts_with('_') { None } else { named(name).await? };
                Self::defined(name, found)?
            }
        };
        Ok(Some(Arc::new(filter)))
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

    /// What Kinto's list language says of single records; what it says of the list is the feed's to say.
    fn kinto(parameters: &Parameters) -> Result<Self, Error> {
        let of_lists =
            |(name, _): (&str, &[String])| OF_LISTS.iter().find(|(theirs, _)| *theirs == name.trim());
        if let Some((name, ours)) = parameters.iter().find_map(of_lists) {
            return Err(refused(format!("`{name}` is no filter of records: a feed has {ours}.")));
        }
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
            Self::Selector(selector) => selector.matches(&document::value(row, record(row))),
            Self::Kinto(query) => query.matches(&record(row)),
        }
    }
}

fn record(row: &Row) -> Map<String, Value> {
    members(&row.json)
}

fn ids(list: &Value) -> Result<Filter, Error> {
    let not_a_list = || refused("`doc_ids` filter parameter is not a list of doc ids.");
    let ids = list.as_array().ok_or_else(not_a_list)?.iter();
    let ids = ids.map(|id| id.as_str().map(str::to_owned).ok_or_else(not_a_list));
    Ok(Filter::Ids(ids.collect::<Result<_, _>>()?))
}
