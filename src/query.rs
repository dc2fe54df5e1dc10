//! Kinto's list language, pure: parameters of a query, and what they select, over any kind of row.
//!
//! Follows `kinto.core.resource` (`Resource._plural_get` and what it calls), `kinto.core.resource.schema` and
//! `kinto.core.storage.memory`; its 400s are Kinto's to the letter. Rows are looked into through [`Fields`], so
//! that entries of monitor/changes and of histories are selected by the same code.

use serde_json::Value;

use crate::kinto::Timestamp;

mod fields;
mod filter;
mod invalid;
mod order;
mod parameters;
mod schema;
mod selection;
mod shallow;
mod sort;

pub use fields::{Fields, nested};
pub use filter::{Filter, Operator, wildcard};
pub use invalid::{Fault, Invalid};
pub use parameters::{Parameters, decode, pairs, pieces};
pub use schema::Given;
use schema::GivenFilter;
pub use selection::{Page, Selection};
pub use shallow::{members, members_at, subset_of};
pub use sort::Sort;

/// The field that holds a row's timestamp.
const MODIFIED: &str = "last_modified";

/// SECURITY: the most conditions that a query may have: each is looked at for each row, and engines nest them no deeper
/// than a thousand. Kinto's clients send a handful.
const MOST_FILTERS: usize = 100;
/// SECURITY: the most patterns and parts of all conditions, which are looked for one by one in each row.
const MOST_PATTERNS: usize = 100;
/// SECURITY: the most keys that rows may be put in order by.
const MOST_KEYS: usize = 16;

/// What a list allows.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'r> {
    /// The fields that rows may have, where these are fixed: any where it is empty. Of a path with dots, the first part
    /// counts.
    pub known_fields: &'r [&'r str],
    /// Fields that hold texts, and are compared as texts with what looks like a number; `id` always is.
    pub text_fields: &'r [&'r str],
    /// Whether `in_like_` is an operator.
    pub in_like: bool,
    /// The operator's `paginate_by`.
    pub paginate_by: Option<u64>,
    /// The most rows of any page; `None` for no such bound.
    pub max_fetch_size: Option<u64>,
    /// This machine's clock: a timestamp more than a day ahead of it is refused.
    pub now: Timestamp,
}

/// What a request selects.
#[derive(Debug, Clone)]
pub struct Query {
    /// All of these hold for a selected row.
    pub filters: Vec<Filter>,
    /// The order of the rows; `id` is its last key.
    pub sorting: Vec<Sort>,
    /// The most rows of a page; `None` for all of them.
    pub limit: Option<usize>,
    /// The paths to keep of each row, `id` and `last_modified` among them; `None` for all of it.
    pub fields: Option<Vec<String>>,
    /// Whether rows that repeat the one before about the same thing are left out.
    pub(crate) changed: bool,
    /// `_to` was used, of which Kinto warns in an `Alert` header.
    pub uses_to: bool,
    /// The most bytes of a page, where it may end before its limit; a single row may be larger.
    pub most_bytes: Option<usize>,
    start: Option<sort::Start>,
    /// Whether what is selected is deleted.
    deletes: bool,
}

// === impl Rules ===

impl Rules<'_> {
    fn knows(&self, path: &str) -> bool {
        let first = path.split('.').next().unwrap_or(path);
        self.known_fields.is_empty() || self.known_fields.contains(&first)
    }
}

// === impl Query ===

impl Query {
    /// Reads a query from what follows the `?` of a request.
    pub fn parse(query: Option<&str>, rules: &Rules<'_>) -> Result<Self, Invalid> {
        Self::of(&Given::read(&Parameters::parse(query)?, Vec::new())?, rules)
    }

    /// Reads a query from parameters that have passed the schema.
    pub fn of(given: &Given, rules: &Rules<'_>) -> Result<Self, Invalid> {
        bound(given)?;
        let filters = given.filters.iter().map(|filter| Filter::read(filter, rules));
        let filters = filters.filter_map(Result::transpose).collect::<Result<_, _>>()?;
        let sorting = sort::read_sorting(&given.sort, rules)?;
        let fields = read_fields(given, rules)?;
        let start = given.token.as_deref().map(|token| sort::read_token(token, &sorting)).transpose()?;
        let uses_to = given.filters.iter().any(|filter| filter.name.trim() == "_to");
        let limit = limit(given, rules);
        let (changed, deletes, most_bytes) = (false, false, None);
        Ok(Self { filters, sorting, limit, fields, changed, uses_to, most_bytes, start, deletes })
    }

    /// All rows for which these hold, in any order.
    pub fn of_filters(filters: Vec<Filter>) -> Self {
        Self { filters, limit: None, ..Self::between(Timestamp::ZERO, Timestamp::LAST, 1, true) }
    }

    /// The rows, deleted ones among them, that came after one moment and until another, by their timestamps.
    pub fn between(after: Timestamp, until: Timestamp, limit: usize, descending: bool) -> Self {
        let bound = |operator, timestamp: Timestamp| Filter {
            field: MODIFIED.to_owned(),
            operator,
            value: Value::from(timestamp.0),
        };
        Self {
            filters: vec![bound(Operator::Gt, after), bound(Operator::Max, until)],
            sorting: vec![Sort { field: MODIFIED.to_owned(), descending }],
            limit: Some(limit),
            fields: None,
            changed: false,
            uses_to: false,
            most_bytes: None,
            start: None,
            deletes: false,
        }
    }

    /// The rows that are selected. Of the rows seen, no more than about two pages are held at any time.
    pub fn select<R: Fields>(&self, rows: impl IntoIterator<Item = R>) -> Page<R> {
        let mut selection = Selection::of(self);
        for row in rows {
            selection.show(row);
        }
        selection.page()
    }

    /// The same selection; without rows that repeat the one before about the same thing, where only changes are wanted.
    #[must_use]
    pub fn only_changes(self, changed: bool) -> Self {
        Self { changed, ..self }
    }

    /// The same selection, to be deleted: its token is that of a page that was, and is used once.
    pub fn for_deletion(self) -> Result<Self, Invalid> {
        if matches!(self.start, Some(sort::Start::After(_))) {
            return Err(Invalid::used_token());
        }
        Ok(Self { deletes: true, ..self })
    }

    /// The id and the timestamp of the row that a deletion begins with, or it was made before.
    pub(crate) fn begins_with(&self) -> Option<(String, Timestamp)> {
        let Some(sort::Start::At(position)) = &self.start else { return None };
        let at = |name| {
            let index = self.sorting.iter().position(|sort| sort.field == name)?;
            position.get(index)?.as_ref()
        };
        let modified = at(MODIFIED).and_then(Value::as_u64).map(Timestamp).unwrap_or_default();
        Some((at("id").and_then(Value::as_str).unwrap_or_default().to_owned(), modified))
    }

    /// What is left to be selected after so many rows of the page were deleted.
    #[must_use]
    pub fn after_deletion(&self, rows: usize) -> Self {
        let limit = self.limit.map(|limit| limit.saturating_sub(rows));
        let start = self.start.as_ref().map(|start| sort::Start::After(start.position().clone()));
        Self { limit, start, ..self.clone() }
    }

    /// Whether the filters select a row.
    pub fn matches(&self, row: &impl Fields) -> bool {
        self.filters.iter().all(|filter| filter.matches(row))
    }

    /// Whether deleted rows are wanted, too: Kinto shows them where the timestamp is part of the selection.
    pub fn includes_deleted(&self) -> bool {
        self.filters.iter().any(|filter| filter.field == MODIFIED)
    }

    /// Whether the rows are first of all ordered by their timestamps, and if so, newest first.
    pub fn by_timestamp(&self) -> Option<bool> {
        self.sorting.first().filter(|sort| sort.field == MODIFIED).map(|sort| sort.descending)
    }

    /// Whether the rows are ordered by nothing but their timestamps and ids.
    pub fn is_in_order_by_name(&self) -> bool {
        !self.changed && self.sorting.iter().all(|sort| matches!(&*sort.field, MODIFIED | "id"))
    }

    /// Where they are, the timestamp of the row that the page begins after, or with.
    pub fn start_timestamp(&self) -> Option<Timestamp> {
        self.by_timestamp()?;
        self.start.as_ref()?.position().first()?.as_ref()?.as_u64().map(Timestamp)
    }

    /// The same selection from its beginning, on one page, or as many as its most bytes make of it.
    #[must_use]
    pub fn whole(&self) -> Self {
        Self { limit: None, start: None, ..self.clone() }
    }

    /// The page of the same selection that a token leads to.
    pub fn page(&self, token: &str) -> Result<Self, Invalid> {
        Ok(Self { start: Some(sort::read_token(token, &self.sorting)?), ..self.clone() })
    }

    /// The same selection, all on one page of which nothing is kept.
    #[must_use]
    pub fn unpaged(&self) -> Self {
        Self { limit: Some(0), start: None, sorting: Vec::new(), ..self.clone() }
    }

    /// What `_fields` leaves of a row, as it is written.
    pub fn project_text(&self, row: &str) -> Option<String> {
        let fields = self.fields.as_ref()?;
        subset_of(row, &fields.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

/// Refuses what would take long to hold against each row.
fn bound(given: &Given) -> Result<(), Invalid> {
    let too_many = |what, number, most| {
        Err(Invalid::unnamed(format!("{number} {what} are too many: at most {most} are taken")))
    };
    if given.filters.len() > MOST_FILTERS {
        return too_many("filters", given.filters.len(), MOST_FILTERS);
    }
    let patterns: usize = given.filters.iter().map(GivenFilter::patterns).sum();
    if patterns > MOST_PATTERNS {
        return too_many("patterns", patterns, MOST_PATTERNS);
    }
    if given.sort.len() > MOST_KEYS {
        return too_many("keys of _sort", given.sort.len(), MOST_KEYS);
    }
    if given.fields.len() > MOST_FILTERS {
        return too_many("_fields", given.fields.len(), MOST_FILTERS);
    }
    Ok(())
}

fn read_fields(given: &Given, rules: &Rules<'_>) -> Result<Option<Vec<String>>, Invalid> {
    if given.fields.is_empty() {
        return Ok(None);
    }
    let mut unknown: Vec<&str> = Vec::new();
    for field in &given.fields {
        let first = field.split('.').next().unwrap_or(field);
        if !rules.knows(first) && !unknown.contains(&first) {
            unknown.push(first);
        }
    }
    if !unknown.is_empty() {
        // Kinto: it says that this were in the body.
        let (location, name) = ("body", Some("Invalid _fields parameter".to_owned()));
        let description = format!("Fields {} do not exist", unknown.join(","));
        return Err(Invalid::faults(vec![Fault { location, name, description }]));
    }
    let mut fields = given.fields.clone();
    fields.extend(["id".to_owned(), MODIFIED.to_owned()]);
    Ok(Some(fields))
}

fn limit(given: &Given, rules: &Rules<'_>) -> Option<usize> {
    let paginate_by = rules.paginate_by.filter(|bound| *bound > 0);
    let limit = match (given.limit, paginate_by) {
        (Some(limit), Some(bound)) => Some(limit.min(bound)),
        (Some(limit), None) => Some(limit),
        // Kinto: `_limit=0` gets past `paginate_by`.
        (None, bound) => bound.filter(|_| !given.has_limit),
    };
    let limit = match (limit, rules.max_fetch_size) {
        (Some(limit), Some(bound)) => Some(limit.min(bound)),
        (limit, bound) => limit.or(bound),
    };
    limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests;
