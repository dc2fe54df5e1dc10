//! Mango's operators: what is asked of one value.

use std::cmp::Ordering;

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::{Left, Node, Reading};
use crate::error::Error;
use crate::feeds::filter::collation::{compare, type_name};
use crate::feeds::params::refused;

/// SECURITY: how long a regular expression may be, and what it may take once it is compiled, in bytes.
const LONGEST_EXPRESSION: usize = 1024;
pub(super) const EXPRESSION: usize = 1 << 20;

/// What is asked of a value.
#[derive(Debug)]
pub(super) enum Operator {
    Compare(Comparison, Value),
    /// In order.
    In(Vec<Value>),
    NotIn(Vec<Value>),
    Exists(bool),
    Type(String),
    Size(u64),
    Mod(i64, i64),
    Regex(Regex),
    BeginsWith(String),
    All(Vec<Value>),
    ElemMatch(Box<Node>),
    AllMatch(Box<Node>),
    KeyMapMatch(Box<Node>),
    Not(Box<Self>),
}

/// How a value stands to the one that is asked for, in CouchDB's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Lt,
    Lte,
    Eq,
    Ne,
    Gte,
    Gt,
}

impl Operator {
    /// Reads an operator and its argument.
    pub(super) fn read(name: &str, value: &Value, reading: Reading<'_>) -> Result<Self, Error> {
        let bad = || bad_argument(name, value);
        let list = || -> Result<Vec<Value>, Error> {
            let items = value.as_array().ok_or_else(bad)?;
            Left::take(&reading.left.values, items.len())?;
            Ok(items.clone())
        };
        let set = || -> Result<Vec<Value>, Error> {
            let mut items = list()?;
            items.sort_by(compare);
            items.dedup_by(|one, other| compare(one, other).is_eq());
            Ok(items)
        };
        // What is asked of elements is not negated: the whole is.
        let of_elements = || match value {
            Value::Object(members) => {
                let reading = Reading { is_negated: false, ..reading };
                reading.object(members, &[]).map(Box::new)
            }
            _ => Err(bad()),
        };
        let operator = match name {
            "$lt" => Self::Compare(Comparison::Lt, value.clone()),
            "$lte" => Self::Compare(Comparison::Lte, value.clone()),
            "$eq" => Self::Compare(Comparison::Eq, value.clone()),
            "$ne" => Self::Compare(Comparison::Ne, value.clone()),
            "$gte" => Self::Compare(Comparison::Gte, value.clone()),
            "$gt" => Self::Compare(Comparison::Gt, value.clone()),
            "$in" => Self::In(set()?),
            "$nin" => Self::NotIn(set()?),
            "$all" => Self::All(list()?),
            "$exists" => Self::Exists(value.as_bool().ok_or_else(bad)?),
            "$type" => Self::Type(value.as_str().ok_or_else(bad)?.to_owned()),
            "$size" => Self::Size(value.as_u64().ok_or_else(bad)?),
            "$beginsWith" => Self::BeginsWith(value.as_str().ok_or_else(bad)?.to_owned()),
            "$mod" => match value.as_array().map(Vec::as_slice) {
                Some([divisor, remainder]) => {
                    let divisor = divisor.as_i64().filter(|divisor| *divisor != 0).ok_or_else(bad)?;
                    Self::Mod(divisor, remainder.as_i64().ok_or_else(bad)?)
                }
                _ => return Err(bad()),
            },
            "$regex" => {
                Left::take(&reading.left.expressions, 1)?;
                let text = value.as_str().filter(|text| text.len() <= LONGEST_EXPRESSION).ok_or_else(bad)?;
                let mut expression = RegexBuilder::new(text);
                expression.size_limit(EXPRESSION).dfa_size_limit(EXPRESSION);
                Self::Regex(expression.build().map_err(|_| bad())?)
            }
            "$elemMatch" => Self::ElemMatch(of_elements()?),
            "$allMatch" => Self::AllMatch(of_elements()?),
            "$keyMapMatch" => Self::KeyMapMatch(of_elements()?),
            _ => return Err(refused(format!("Invalid operator: {name}"))),
        };
        Ok(operator.negated_if(reading.is_negated))
    }

    /// The opposite, of a value that is there.
    pub(super) fn negated_if(self, is_negated: bool) -> Self {
        if !is_negated {
            return self;
        }
        match self {
            Self::Compare(comparison, value) => Self::Compare(comparison.negated(), value),
            Self::In(values) => Self::NotIn(values),
            Self::NotIn(values) => Self::In(values),
            Self::Exists(exists) => Self::Exists(!exists),
            other => Self::Not(Box::new(other)),
        }
    }

    /// Whether a value is what is asked for; `is_id` of the ids of documents.
    pub(super) fn matches(&self, value: &Value, is_id: bool) -> bool {
        let has =
            |values: &[Value], item: &Value| values.binary_search_by(|wanted| compare(wanted, item)).is_ok();
        let is_in = |values: &[Value]| match value {
            Value::Array(items) => items.iter().any(|item| has(values, item)),
            value => has(values, value),
        };
        match self {
            Self::Compare(comparison, wanted) => {
                let order = match (value, wanted) {
                    (Value::String(id), Value::String(wanted)) if is_id => id.cmp(wanted),
                    _ => compare(value, wanted),
                };
                comparison.holds(order)
            }
            Self::In(values) => is_in(values),
            Self::NotIn(values) => !is_in(values),
            Self::Exists(exists) => *exists,
            Self::Type(name) => type_name(value) == name,
            Self::Size(size) => value.as_array().is_some_and(|items| items.len() as u64 == *size),
            Self::Mod(divisor, remainder) => {
                value.as_i64().is_some_and(|number| number.checked_rem(*divisor) == Some(*remainder))
            }
            Self::Regex(expression) => value.as_str().is_some_and(|text| expression.is_match(text)),
            Self::BeginsWith(prefix) => value.as_str().is_some_and(|text| text.starts_with(prefix)),
            Self::All(wanted) => value.as_array().is_some_and(|items| {
                let is_the_list = matches!(wanted.as_slice(), [only @ Value::Array(_)] if only == value);
                is_the_list || wanted.iter().all(|wanted| items.contains(wanted))
            }),
            Self::ElemMatch(node) => {
                value.as_array().is_some_and(|items| items.iter().any(|item| node.matches(item)))
            }
            Self::AllMatch(node) => value
                .as_array()
                .is_some_and(|items| !items.is_empty() && items.iter().all(|item| node.matches(item))),
            Self::KeyMapMatch(node) => value
                .as_object()
                .is_some_and(|members| members.keys().any(|name| node.matches(&Value::String(name.clone())))),
            Self::Not(operator) => !operator.matches(value, is_id),
        }
    }
}

impl Comparison {
    fn negated(self) -> Self {
        match self {
            Self::Lt => Self::Gte,
            Self::Lte => Self::Gt,
            Self::Eq => Self::Ne,
            Self::Ne => Self::Eq,
            Self::Gte => Self::Lt,
            Self::Gt => Self::Lte,
        }
    }

    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Lt => order.is_lt(),
            Self::Lte => order.is_le(),
            Self::Eq => order.is_eq(),
            Self::Ne => order.is_ne(),
            Self::Gte => order.is_ge(),
            Self::Gt => order.is_gt(),
        }
    }
}

/// What is said of an argument that an operator does not take.
pub(super) fn bad_argument(operator: &str, value: &Value) -> Error {
    let mut shown = value.to_string();
    if let Some((end, _)) = shown.char_indices().nth(LONGEST_EXPRESSION) {
        shown.truncate(end);
    }
    refused(format!("Bad argument for operator {operator}: {shown}"))
}
