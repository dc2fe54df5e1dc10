//! Which changes a reader wants.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use http::StatusCode;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::document;
use super::params::{MOST_VALUES, Params, refused};
use crate::aside;
use crate::bounded;
use crate::error::Error;
use crate::feeds::snapshot::FeedRow;
use crate::kinto::Timestamp;
use crate::query::{Given, Parameters, Query, Rules, members_at};

pub mod collation;
pub mod mango;
pub mod steps;

use mango::Selector;
use steps::{Steps, UsedUp};

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
pub enum FeedFilter {
    /// One of these ids.
    Ids(Ids),
    /// CouchDB's Mango, of the document.
    Selector(Selector),
    /// Kinto's list language, of the record.
    Kinto(Query),
    /// Nothing: CouchDB's `_design`, as there are no design documents.
    Nothing,
}

impl FeedFilter {
    /// What a request asks for; `named` finds the filter of a name in the metadata of collection and bucket.
    pub async fn read(
        params: &mut Params,
        named: impl AsyncFnOnce(&str) -> Result<Option<Value>, Error>,
    ) -> Result<Option<Arc<Self>>, Error> {
        let filter = match params.filter.as_deref() {
            None => match params.doc_ids.take() {
                Some(list) => Self::ids(list).await?,
                None => return Ok(None),
            },
            Some("_doc_ids") => Self::ids(params.doc_ids.take().unwrap_or_default()).await?,
            Some("_selector") => Self::selector(params.selector.take().unwrap_or_default()).await?,
            Some("_kinto") => Self::kinto(&params.kinto)?,
            Some("_design") => Self::Nothing,
            Some(name) => {
                let found = if name.starts_with('_') { None } else { named(name).await? };
                Self::defined(name, found).await?
            }
        };
        Ok(Some(Arc::new(filter)))
    }

    /// A list of ids, which is as long as whoever sent it liked.
    async fn ids(list: Value) -> Result<Self, Error> {
        Ok(Self::Ids(aside::run(bounded::weight(&list), move || Ids::read(&list)).await??))
    }

    /// A selector: its lists are put in order, and its expressions compiled, which takes long for what takes little room.
    async fn selector(selector: Value) -> Result<Self, Error> {
        Ok(Self::Selector(aside::run(usize::MAX, move || Selector::read(&selector)).await??))
    }

    /// A filter that the metadata defines.
    async fn defined(name: &str, definition: Option<Value>) -> Result<Self, Error> {
        match definition {
            Some(Value::String(query)) => Self::kinto(&Parameters::parse(Some(&query))?),
            Some(selector @ Value::Object(_)) => Self::selector(selector).await,
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

    /// How many bytes it holds, about, where its query has so many.
    pub(crate) fn weight(&self, query: usize) -> usize {
        match self {
            Self::Ids(ids) => ids.weight,
            Self::Nothing => 0,
            Self::Selector(selector) => selector.weight(),
            Self::Kinto(_) => query.saturating_mul(4),
        }
    }

    /// Whether a change is wanted.
    pub fn matches(&self, row: &FeedRow, steps: &mut Steps<'_>) -> Result<bool, UsedUp> {
        match self {
            Self::Ids(ids) => Ok(ids.these.contains(&*row.id)),
            Self::Nothing => Ok(false),
            Self::Selector(selector) => {
                let record = record(row, selector.names().as_deref(), steps)?;
                selector.matches(&document::value(row, record), steps)
            }
            Self::Kinto(query) => {
                let fields: Vec<&str> = query.filters.iter().map(|filter| &*filter.field).collect();
                let record = record(row, Some(&fields), steps)?;
                steps::all(query.filters.iter(), |filter| {
                    steps.take(row.json.len())?;
                    Ok(filter.matches(&record))
                })
            }
        }
    }
}

/// The filter of this name that an object's metadata defines. Nothing is made of what else is there.
pub(crate) fn defined(metadata: &[u8], name: &str) -> Result<Option<Value>, Error> {
    let filters = serde_json::from_slice::<Metadata<'_>>(metadata).ok().and_then(|metadata| metadata.filters);
    let Some(filters) = filters else { return Ok(None) };
    let Ok(Some(filter)) = serde_json::Deserializer::from_str(filters.get()).deserialize_map(Member(name))
    else {
        return Ok(None);
    };
    let read = bounded::read(filter.get().as_bytes(), MOST_VALUES).map(Some);
    read.map_err(|_| refused(format!("The filter `{name}` has more in it than is taken here.")))
}

#[derive(Deserialize)]
struct Metadata<'m> {
    #[serde(borrow)]
    filters: Option<&'m RawValue>,
}

/// Looks for a member of this name; the last one counts.
struct Member<'n>(&'n str);

impl<'de> Visitor<'de> for Member<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = members.next_key::<Cow<'de, str>>()? {
            if name == self.0 {
                found = Some(members.next_value()?);
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Of a record, what is looked at.
fn record(
    row: &FeedRow,
    paths: Option<&[&str]>,
    steps: &mut Steps<'_>,
) -> Result<Map<String, Value>, UsedUp> {
    steps.take(row.json.len())?;
    Ok(members_at(&row.json, paths))
}

/// Ids that are wanted.
#[derive(Debug)]
pub struct Ids {
    these: HashSet<String>,
    weight: usize,
}

impl Ids {
    fn read(list: &Value) -> Result<Self, Error> {
        let not_a_list = || refused("`doc_ids` filter parameter is not a list of doc ids.");
        let ids = list.as_array().ok_or_else(not_a_list)?.iter();
        let ids = ids.map(|id| id.as_str().map(str::to_owned).ok_or_else(not_a_list));
        let these: HashSet<String> = ids.collect::<Result<_, _>>()?;
        let weight = these.iter().map(|id| id.len() + 3 * size_of::<String>()).sum();
        Ok(Self { these, weight })
    }
}

impl Drop for Ids {
    fn drop(&mut self) {
        aside::let_go(self.weight, std::mem::take(&mut self.these));
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::time::Duration;

    use futures_util::FutureExt;
    use http::HeaderMap;

    use super::*;

    /// Reads so many ids, and says whether they were not there at once.
    async fn are_read_aside(number: usize) -> bool {
        let ids: Vec<String> = (0..number).map(|id| format!("id{id}")).collect();
        let body = serde_json::json!({"doc_ids": ids});
        let mut params = Params::read(None, &HeaderMap::new(), Some(body), Duration::from_secs(60)).unwrap();
        let mut read = pin!(FeedFilter::read(&mut params, async |_| Ok(None)));
        let filter = read.as_mut().now_or_never();
        let is_aside = filter.is_none();
        let filter = match filter {
            Some(filter) => filter,
            None => read.await,
        };
        assert!(filter.unwrap().unwrap().weight(0) >= number);
        is_aside
    }

    #[tokio::test]
    async fn long_lists_of_ids_are_read_aside() {
        assert!(!are_read_aside(10).await);
        // Whoever reads them may be done before they are looked for.
        let mut tries = 0;
        while !are_read_aside(5_000).await {
            tries += 1;
            assert!(tries < 100);
        }
    }

    #[test]
    fn of_metadata_the_named_filter_is_read_and_nothing_else() {
        let of = |metadata: &str| defined(metadata.as_bytes(), "a/b").map_err(|error| error.to_string());
        assert_eq!(
            of(r#"{"filters":{"x":[1],"a/b":{"y":1},"a\/b":{"z":2}},"c":3}"#),
            Ok(Some(serde_json::json!({"z": 2})))
        );
        for metadata in
            ["", "{}", "[]", r#"{"filters":null}"#, r#"{"filters":"a/b"}"#, r#"{"filters":{"x":1}}"#]
        {
            assert_eq!(of(metadata), Ok(None), "{metadata}");
        }
        let many = format!("[{}0]", "0,".repeat(MOST_VALUES));
        assert_eq!(of(&format!(r#"{{"filters":{{"x":{many},"a/b":1}}}}"#)), Ok(Some(1.into())));
        assert!(of(&format!(r#"{{"filters":{{"a/b":{many}}}}}"#)).is_err());
    }
}
