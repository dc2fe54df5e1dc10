//! What of a query the engine can decide by itself.
//!
//! A filter on a column becomes a condition that holds for exactly the rows that the list language selects; how values of
//! other types and fields that are not there compare is asked of the filter itself. The rest is left to the list language.

use std::borrow::Cow;

use serde_json::Value;

use super::engine::Kind;
use super::statement::{Bound, Statement};
use crate::query::{Fields, Filter, Operator, Query};

/// More values of one filter than these are left to the list language.
const MOST_VALUES: usize = 500;
/// More values of all filters, too: SQLite takes 32 766 in a statement, PostgreSQL 65 535.
const MOST_VALUES_TOGETHER: usize = 4_000;

/// Which rows are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    /// Entries.
    Entries,
    /// Those of deleted entries.
    Tombstones,
}

/// All of these hold for the rows that a query selects.
#[derive(Debug)]
pub(super) struct Conditions {
    conditions: Vec<Condition>,
    /// Whether they hold for no other rows.
    pub(super) are_exact: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Condition {
    Compare(&'static Column, &'static str, Bound),
    Among(&'static Column, &'static str, Vec<Bound>),
    IsNull(&'static Column),
    IsNotNull(&'static Column),
    /// The condition, or there is no such field.
    OrNull(Box<Self>),
    Never,
}

/// A column that shows a field.
#[derive(Debug, PartialEq)]
struct Column {
    name: &'static str,
    /// What the list language sees where the column is null.
    absent: Absent,
    /// How few rows have the same value: the index of the fewest is used.
    rank: u8,
    /// The index of entries that has it, and then the timestamp.
    index: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Absent {
    Never,
    /// JSON's `null`.
    AsNull,
    /// The field is not there.
    Missing,
}

const COLUMNS: [Column; 11] = [
    Column { name: "last_modified", absent: Absent::Never, rank: 10, index: None },
    Column { name: "id", absent: Absent::Never, rank: 9, index: Some("sidecar_entries_id") },
    Column { name: "uri", absent: Absent::Never, rank: 8, index: Some("sidecar_entries_uri") },
    Column { name: "record_id", absent: Absent::Missing, rank: 7, index: Some("sidecar_entries_record") },
    Column { name: "group_id", absent: Absent::Missing, rank: 6, index: Some("sidecar_entries_group") },
    Column { name: "bucket_id", absent: Absent::Missing, rank: 0, index: None },
    Column { name: "user_id", absent: Absent::AsNull, rank: 5, index: Some("sidecar_entries_user") },
    Column {
        name: "collection_id",
        absent: Absent::Missing,
        rank: 4,
        index: Some("sidecar_entries_collection"),
    },
    Column { name: "resource_name", absent: Absent::Never, rank: 3, index: Some("sidecar_entries_resource") },
    Column { name: "action", absent: Absent::Never, rank: 2, index: Some("sidecar_entries_action") },
    Column { name: "date", absent: Absent::Never, rank: 1, index: Some("sidecar_entries_date") },
];
const MODIFIED: &str = "last_modified";

/// A row with one field.
struct Sample<'s>(&'s str, Option<Value>);

impl Fields for Sample<'_> {
    fn field(&self, path: &str) -> Option<Cow<'_, Value>> {
        self.1.as_ref().filter(|_| path == self.0).map(Cow::Borrowed)
    }
}

// === impl Conditions ===

impl Conditions {
    /// What a query's filters say of these rows.
    pub(super) fn of(query: &Query, rows: Rows) -> Self {
        // What the entry before says is compared outside of the engine.
        let is_compared = query.changed && rows == Rows::Entries;
        let mut these = Self { conditions: Vec::new(), are_exact: !is_compared };
        let mut values = 0;
        for filter in &query.filters {
            match translate(filter, rows) {
                Some(conditions) if values + count(&conditions) <= MOST_VALUES_TOGETHER => {
                    values += count(&conditions);
                    these.conditions.extend(conditions);
                }
                _ => these.are_exact = false,
            }
        }
        these
    }

    /// Whether no row can be selected.
    pub(super) fn are_hopeless(&self) -> bool {
        self.conditions.contains(&Condition::Never)
    }

    /// Whether every row is selected.
    pub(super) fn are_none(&self) -> bool {
        self.conditions.is_empty() && self.are_exact
    }

    /// What the rows are ordered by. Where an index finds a few for each of several values, they are put in order, and
    /// not looked for among all rows in that order: SQLite, which does not know that they are few, is told by a sign.
    pub(super) fn order(&self, kind: Kind) -> &'static str {
        let ranked = self.conditions.iter().filter_map(|condition| Some((condition.rank(true)?, condition)));
        match ranked.max_by_key(|(rank, _)| *rank) {
            Some((_, Condition::Among(..))) if kind == Kind::Sqlite => "+last_modified",
            _ => "last_modified",
        }
    }

    /// Names the index that ordered entries are found by, after the name of their table. PostgreSQL counts what its
    /// indexes hold, and chooses by itself; SQLite takes bounds of time for fewer rows than they may be.
    pub(super) fn hint(&self, kind: Kind) -> Option<String> {
        let ranked = self.conditions.iter().filter_map(|condition| Some((condition.rank(true)?, condition)));
        let (_, best) = ranked.max_by_key(|(rank, _)| *rank).filter(|_| kind == Kind::Sqlite)?;
        let column = best.column().filter(|column| !best.is_bound() && column.rank > 0)?;
        Some(format!(" INDEXED BY {}", column.index?))
    }

    /// Whether an index finds the few rows of an object, or of an entry.
    pub(super) fn are_of_few(&self) -> bool {
        self.conditions
            .iter()
            .filter_map(|condition| condition.rank(true))
            .any(|rank| (6..10).contains(&rank))
    }

    /// Adds them to a statement. In an ordered one, only conditions whose index gives that order may use theirs.
    pub(super) fn write(&self, mut statement: Statement, kind: Kind, is_ordered: bool) -> Statement {
        let best = self.conditions.iter().filter_map(|condition| condition.rank(is_ordered)).max();
        for condition in &self.conditions {
            // SQLite knows nothing of how many rows have a value: it is told which index to use, by a sign that hides
            // the other columns from it.
            let is_other = condition.rank(is_ordered) != best && !condition.is_bound();
            let is_hidden = kind == Kind::Sqlite && is_other;
            statement = condition.write(statement.push(" AND "), if is_hidden { "+" } else { "" });
        }
        statement
    }
}

// === impl Condition ===

impl Condition {
    /// How good its index is; none where it has none, or one in another order.
    fn rank(&self, is_ordered: bool) -> Option<u8> {
        match self {
            Self::Compare(column, "=", _) => Some(column.rank),
            // Where a field is missing from most rows, no index has those.
            Self::IsNull(column) if matches!(column.absent, Absent::AsNull) => Some(column.rank),
            Self::Compare(column, ..) if column.name == MODIFIED => Some(0),
            // Few enough to be put in order.
            Self::Among(column, "IN", _) if !is_ordered || column.rank >= 5 => Some(column.rank),
            Self::Compare(column, operator, _) if !is_ordered && *operator != "<>" => {
                Some(column.rank.min(1))
            }
            _ => None,
        }
    }

    /// Whether it bounds the timestamp, which comes last in all indexes.
    fn is_bound(&self) -> bool {
        matches!(self, Self::Compare(column, operator, _) if column.name == MODIFIED && *operator != "<>")
    }

    fn write(&self, statement: Statement, sign: &str) -> Statement {
        match self {
            Self::Compare(column, operator, value) => {
                statement.push(&format!("{sign}{} {operator} ", column.name)).bind(value.clone())
            }
            Self::Among(column, operator, values) => statement
                .push(&format!("{sign}{} {operator} (", column.name))
                .list(values.iter().cloned())
                .push(")"),
            Self::IsNull(column) => statement.push(&format!("{sign}{} IS NULL", column.name)),
            Self::IsNotNull(column) => statement.push(&format!("{sign}{} IS NOT NULL", column.name)),
            Self::OrNull(condition) => {
                let column = condition.column().map_or("", |column| column.name);
                condition.write(statement.push("("), sign).push(&format!(" OR {sign}{column} IS NULL)"))
            }
            Self::Never => statement.push("1 = 0"),
        }
    }

    fn count(&self) -> usize {
        match self {
            Self::Compare(..) => 1,
            Self::Among(_, _, values) => values.len(),
            Self::OrNull(condition) => condition.count(),
            Self::IsNull(_) | Self::IsNotNull(_) | Self::Never => 0,
        }
    }

    fn column(&self) -> Option<&'static Column> {
        match self {
            Self::Compare(column, ..)
            | Self::Among(column, ..)
            | Self::IsNull(column)
            | Self::IsNotNull(column) => Some(column),
            Self::OrNull(condition) => condition.column(),
            Self::Never => None,
        }
    }
}

/// How many values conditions have.
fn count(conditions: &[Condition]) -> usize {
    conditions.iter().map(Condition::count).sum()
}

/// The conditions that are the same as a filter; `None` where there are none.
fn translate(filter: &Filter, rows: Rows) -> Option<Vec<Condition>> {
    let field = filter.field.as_str();
    let constant = |holds: bool| Some(if holds { Vec::new() } else { vec![Condition::Never] });
    let holds_for = |value: Option<Value>| filter.matches(&Sample(field, value));
    let is_column = |column: &&Column| column.name == field;
    let column = match (rows, COLUMNS.iter().find(is_column)) {
        (Rows::Entries, None) if field == "deleted" => return constant(holds_for(None)),
        (Rows::Entries, None) => return None,
        // All that a tombstone has beside these is the same in all of them.
        (Rows::Tombstones, _) if field == "deleted" => return constant(holds_for(Some(Value::Bool(true)))),
        (Rows::Tombstones, column) => match column.filter(|column| matches!(column.name, MODIFIED | "id")) {
            Some(column) => column,
            None if field.starts_with("deleted.") => return None,
            None => return constant(holds_for(None)),
        },
        (Rows::Entries, Some(column)) => column,
    };
    let is_text = column.name != MODIFIED;
    let sample = if is_text { Value::from("text") } else { Value::from(1) };
    let of_values = match operator(filter.operator) {
        Some(Sql::Compare(operator)) => match bound(&filter.value, is_text) {
            Comparable::With(value) => Some(Condition::Compare(column, operator, value)),
            Comparable::ByType if holds_for(Some(sample)) => None,
            Comparable::ByType => Some(Condition::Never),
            Comparable::Not => return None,
        },
        Some(Sql::Among(operator)) if is_text => {
            let Value::Array(items) = &filter.value else { return None };
            let texts: Vec<Bound> = items.iter().filter_map(Value::as_str).map(Bound::from).collect();
            match (texts.len(), operator) {
                (0, "IN") => Some(Condition::Never),
                (0, _) => None,
                (1..=MOST_VALUES, _) => Some(Condition::Among(column, operator, texts)),
                _ => return None,
            }
        }
        Some(Sql::Newer) => match filter.value.as_u64().map(i64::try_from) {
            Some(Ok(since)) => Some(Condition::Compare(column, ">", since.into())),
            Some(Err(_)) => Some(Condition::Never),
            None => None,
        },
        Some(Sql::Has) if holds_for(Some(sample)) => None,
        Some(Sql::Has) => Some(Condition::Never),
        _ => return None,
    };
    let holds_for_null = match column.absent {
        Absent::Never => return Some(of_values.into_iter().collect()),
        Absent::AsNull => holds_for(Some(Value::Null)),
        Absent::Missing => holds_for(None),
    };
    Some(match (of_values, holds_for_null) {
        (None, true) => Vec::new(),
        (None, false) => vec![Condition::IsNotNull(column)],
        (Some(Condition::Never), true) => vec![Condition::IsNull(column)],
        (Some(condition), true) => vec![Condition::OrNull(Box::new(condition))],
        // Nothing compares with SQL's null.
        (Some(condition), false) => vec![condition],
    })
}

enum Sql {
    Compare(&'static str),
    Among(&'static str),
    Newer,
    Has,
}

fn operator(operator: Operator) -> Option<Sql> {
    Some(match operator {
        Operator::Lt => Sql::Compare("<"),
        Operator::Max => Sql::Compare("<="),
        Operator::Eq => Sql::Compare("="),
        Operator::Not => Sql::Compare("<>"),
        Operator::Min => Sql::Compare(">="),
        Operator::Gt => Sql::Compare(">"),
        Operator::In => Sql::Among("IN"),
        Operator::Exclude => Sql::Among("NOT IN"),
        Operator::Since => Sql::Newer,
        Operator::Has => Sql::Has,
        Operator::Like | Operator::InLike | Operator::Contains | Operator::ContainsAny => return None,
    })
}

enum Comparable {
    With(Bound),
    /// Its type decides, and so all values of the column compare alike.
    ByType,
    /// The engine cannot compare with it.
    Not,
}

fn bound(value: &Value, is_text: bool) -> Comparable {
    match value {
        Value::String(text) if is_text => Comparable::With(text.as_str().into()),
        Value::Number(number) if !is_text => {
            number.as_i64().map_or(Comparable::Not, |number| Comparable::With(number.into()))
        }
        _ => Comparable::ByType,
    }
}
