//! Mango's operators: what is asked of one value.

use std::cmp::Ordering;
use std::collections::HashMap;

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::{Left, Node, Reading};
use crate::bounded;
use crate::error::Error;
use crate::feeds::filter::collation::{compare, order, type_name};
use crate::feeds::filter::steps::{Steps, UsedUp, all, any};
use crate::feeds::params::refused;

/// SECURITY: how long a regular expression may be, and what it may take once it is compiled, in bytes.
const LONGEST_EXPRESSION: usize = 1024;
pub(super) const EXPRESSION: usize = 1 << 20;

/// What is small once it is compiled, in bytes; and how many steps each byte of a text takes, where an expression is small
/// and where it is not.
const SMALL_EXPRESSION: usize = 32 << 10;
const STEPS_OF_SMALL: usize = 20;
const STEPS_OF_LARGE: usize = 1_000;

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
    /// And how many steps each byte takes.
    Regex(Regex, usize),
    BeginsWith(String),
    All(Wanted),
    ElemMatch(Box<Node>),
    AllMatch(Box<Node>),
    KeyMapMatch(Box<Node>),
    Not(Box<Self>),
}

/// What has to be among the items of a list.
#[derive(Debug)]
pub(super) struct Wanted {
    /// Numbered.
    values: HashMap<Value, usize>,
    /// Where there is but one, and it is a list, the whole may be that list.
    is_single: bool,
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
            items.sort_by(order);
            items.dedup_by(|one, other| order(one, other).is_eq());
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
            "$all" => {
                let items = list()?;
                let is_single = items.len() == 1;
                let mut values = HashMap::new();
                for item in items {
                    let number = values.len();
                    values.entry(item).or_insert(number);
                }
                Self::All(Wanted { values, is_single })
            }
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
                expression.dfa_size_limit(EXPRESSION);
                if let Ok(small) = expression.size_limit(SMALL_EXPRESSION).build() {
                    Self::Regex(small, STEPS_OF_SMALL)
                } else {
                    let large = expression.size_limit(EXPRESSION).build().map_err(|_| bad())?;
                    Self::Regex(large, STEPS_OF_LARGE)
                }
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
    pub(super) fn matches(&self, value: &Value, is_id: bool, steps: &mut Steps<'_>) -> Result<bool, UsedUp> {
        match self {
            Self::Compare(comparison, wanted) => {
                let order = match (value, wanted) {
                    (Value::String(id), Value::String(wanted)) if is_id => {
                        steps.take_text(wanted)?;
                        id.cmp(wanted)
                    }
                    _ => compare(value, wanted, steps)?,
                };
                Ok(comparison.holds(order))
            }
            Self::In(values) => is_in(value, values, steps),
            Self::NotIn(values) => is_in(value, values, steps).map(|is_in| !is_in),
            Self::Exists(exists) => Ok(*exists),
            Self::Type(name) => Ok(type_name(value) == name),
            Self::Size(size) => Ok(value.as_array().is_some_and(|items| items.len() as u64 == *size)),
            Self::Mod(divisor, remainder) => {
                Ok(value.as_i64().is_some_and(|number| number.checked_rem(*divisor) == Some(*remainder)))
            }
            Self::Regex(expression, of_a_byte) => {
                let Some(text) = value.as_str() else { return Ok(false) };
                steps.take(text.len().saturating_add(1).saturating_mul(*of_a_byte))?;
                Ok(expression.is_match(text))
            }
            Self::BeginsWith(prefix) => {
                steps.take_text(prefix)?;
                Ok(value.as_str().is_some_and(|text| text.starts_with(prefix)))
            }
            Self::All(wanted) => {
                let Value::Array(items) = value else { return Ok(false) };
                Ok(wanted.is_list(value, steps)? || wanted.are_among(items, steps)?)
            }
            Self::ElemMatch(node) => {
                let Value::Array(items) = value else { return Ok(false) };
                any(items.iter(), |item| node.matches(item, steps))
            }
            Self::AllMatch(node) => match value {
                Value::Array(items) if !items.is_empty() => {
                    all(items.iter(), |item| node.matches(item, steps))
                }
                _ => Ok(false),
            },
            Self::KeyMapMatch(node) => {
                let Value::Object(members) = value else { return Ok(false) };
                any(members.keys(), |name| {
                    steps.take_text(name)?;
                    node.matches(&Value::String(name.clone()), steps)
                })
            }
            Self::Not(operator) => operator.matches(value, is_id, steps).map(|matches| !matches),
        }
    }
}

/// Whether a value, or one of its items, is among some that are in order.
fn is_in(value: &Value, values: &[Value], steps: &mut Steps<'_>) -> Result<bool, UsedUp> {
    match value {
        Value::Array(items) => any(items.iter(), |item| has(values, item, steps)),
        value => has(values, value, steps),
    }
}

fn has(mut values: &[Value], item: &Value, steps: &mut Steps<'_>) -> Result<bool, UsedUp> {
    while let (before, [middle, after @ ..]) = values.split_at(values.len() / 2) {
        values = match compare(middle, item, steps)? {
            Ordering::Less => after,
            Ordering::Equal => return Ok(true),
            Ordering::Greater => before,
        };
    }
    Ok(false)
}

/// Takes what it takes to go through all of a value.
fn take_whole(value: &Value, steps: &mut Steps<'_>) -> Result<(), UsedUp> {
    match value {
        Value::Array(_) | Value::Object(_) => steps.take(bounded::weight(value) / 16),
        Value::String(text) => steps.take_text(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => steps.take(2),
    }
}

impl Wanted {
    /// Whether a single list is asked for, and the value is it.
    fn is_list(&self, value: &Value, steps: &mut Steps<'_>) -> Result<bool, UsedUp> {
        let only = self.values.keys().next().filter(|only| self.is_single && only.is_array());
        let Some(only) = only else { return Ok(false) };
        take_whole(only, steps)?;
        Ok(only == value)
    }

    /// Whether each of the values is among the items. They are gone over once.
    fn are_among(&self, items: &[Value], steps: &mut Steps<'_>) -> Result<bool, UsedUp> {
        let mut missing = self.values.len();
        if missing > items.len() {
            return Ok(false);
        }
        steps.take(missing / 16)?;
        let mut met = vec![false; missing];
        for item in items {
            if missing == 0 {
                break;
            }
            take_whole(item, steps)?;
            let met = self.values.get(item).and_then(|number| met.get_mut(*number));
            if met.is_some_and(|met| !std::mem::replace(met, true)) {
                missing -= 1;
            }
        }
        Ok(missing == 0)
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
