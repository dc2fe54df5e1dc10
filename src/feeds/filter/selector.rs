//! Mango: CouchDB's conditions on documents.
//!
//! Follows `mango_selector` of CouchDB 3. Fields are pushed down to the conditions and negations with them, so that a
//! condition on a field that is not there is false, negated or not; only `"$exists": false` is true there. Regular
//! expressions are those of Rust's `regex`, which take time in proportion to the text: without look-around and back
//! references.

use std::cmp::Ordering;

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use super::super::params::refused;
use super::collation::{compare, type_name};
use crate::error::Error;

/// SECURITY: the deepest nesting of conditions.
const DEEPEST: usize = 64;

/// SECURITY: the most that a compiled expression may take, in bytes.
const EXPRESSION: usize = 1 << 20;

/// A condition on a document.
#[derive(Debug)]
pub struct Selector(Node);

#[derive(Debug)]
enum Node {
    And(Vec<Self>),
    Or(Vec<Self>),
    /// A condition on the value at a path; the path is empty where the value itself is meant.
    Field(Vec<String>, Condition),
}

#[derive(Debug)]
enum Condition {
    Compare(Comparison, Value),
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Lt,
    Lte,
    Eq,
    Ne,
    Gte,
    Gt,
}

impl Selector {
    /// Reads a selector.
    pub fn read(selector: &Value) -> Result<Self, Error> {
        match selector {
            Value::Object(members) => Ok(Self(Reading { is_negated: false, depth: 0 }.object(members, &[])?)),
            _ => Err(refused("`selector` must be a JSON object.")),
        }
    }

    /// Whether a document fulfils it.
    pub fn matches(&self, document: &Value) -> bool {
        self.0.matches(document)
    }
}

/// Where in a selector something is read.
#[derive(Clone, Copy)]
struct Reading {
    is_negated: bool,
    depth: usize,
}

impl Reading {
    fn deeper(self) -> Result<Self, Error> {
        if self.depth >= DEEPEST {
            return Err(refused("The selector is nested too deeply."));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }

    fn negated(self) -> Self {
        Self { is_negated: !self.is_negated, ..self }
    }

    /// All of several nodes, or with a negation any of their negations.
    fn all(self, nodes: Vec<Node>) -> Node {
        if self.is_negated { Node::Or(nodes) } else { Node::And(nodes) }
    }

    /// The members of an object: conditions on fields, combinations, and operators on the value at `path`.
    fn object(self, members: &Map<String, Value>, path: &[String]) -> Result<Node, Error> {
        let inner = self.deeper()?;
        let mut nodes = Vec::with_capacity(members.len());
        for (name, value) in members {
            nodes.push(inner.member(name, value, path)?);
        }
        Ok(match nodes.len() {
            1 => nodes.pop().unwrap_or(Node::And(Vec::new())),
            _ => self.all(nodes),
        })
    }

    fn member(self, name: &str, value: &Value, path: &[String]) -> Result<Node, Error> {
        match name {
            "$and" => Ok(self.all(self.list(name, value, path)?)),
            "$or" => Ok(self.negated().all(self.list(name, value, path)?)),
            "$nor" => {
                let negated = self.negated();
                // None of them: all of their negations.
                Ok(self.all(negated.list(name, value, path)?))
            }
            "$not" => match value {
                Value::Object(members) => self.negated().object(members, path),
                _ => Err(bad_argument(name, value)),
            },
            name if name.starts_with('$') => {
                Ok(Node::Field(path.to_vec(), Condition::read(name, value, self)?))
            }
            "" => Err(refused("One or more conditions is missing a field name.")),
            name => {
                let mut path = path.to_vec();
                path.extend(field_path(name));
                match value {
                    Value::Object(members) if !members.is_empty() => self.object(members, &path),
                    value => {
                        let condition = Condition::Compare(Comparison::Eq, value.clone());
                        Ok(Node::Field(path, condition.negated_if(self.is_negated)))
                    }
                }
            }
        }
    }

    /// The selectors of `$and`, `$or` and `$nor`.
    fn list(self, name: &str, value: &Value, path: &[String]) -> Result<Vec<Node>, Error> {
        let Value::Array(selectors) = value else { return Err(bad_argument(name, value)) };
        let inner = self.deeper()?;
        let nodes = selectors.iter().map(|selector| match selector {
            Value::Object(members) => inner.object(members, path),
            value if path.is_empty() => Err(bad_argument(name, value)),
            value => {
                let condition = Condition::Compare(Comparison::Eq, value.clone());
                Ok(Node::Field(path.to_vec(), condition.negated_if(self.is_negated)))
            }
        });
        nodes.collect()
    }
}

impl Node {
    fn matches(&self, value: &Value) -> bool {
        match self {
            Self::And(nodes) => nodes.iter().all(|node| node.matches(value)),
            Self::Or(nodes) => nodes.iter().any(|node| node.matches(value)),
            Self::Field(path, condition) => match (find(value, path), condition) {
                (Some(value), condition) => {
                    // CouchDB compares ids by their bytes.
                    let is_id = path.first().is_some_and(|name| name == "_id") && path.len() == 1;
                    condition.matches(value, is_id)
                }
                (None, Condition::Exists(false)) => true,
                (None, _) => false,
            },
        }
    }
}

impl Condition {
    fn read(name: &str, value: &Value, reading: Reading) -> Result<Self, Error> {
        let bad = || bad_argument(name, value);
        let list = || value.as_array().cloned().ok_or_else(bad);
        // What is asked of elements is not negated: the whole is.
        let of_elements = || match value {
            Value::Object(members) => {
                let reading = Reading { is_negated: false, ..reading };
                reading.object(members, &[]).map(Box::new)
            }
            _ => Err(bad()),
        };
        let condition = match name {
            "$lt" => Self::Compare(Comparison::Lt, value.clone()),
            "$lte" => Self::Compare(Comparison::Lte, value.clone()),
            "$eq" => Self::Compare(Comparison::Eq, value.clone()),
            "$ne" => Self::Compare(Comparison::Ne, value.clone()),
            "$gte" => Self::Compare(Comparison::Gte, value.clone()),
            "$gt" => Self::Compare(Comparison::Gt, value.clone()),
            "$in" => Self::In(list()?),
            "$nin" => Self::NotIn(list()?),
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
                let expression = RegexBuilder::new(value.as_str().ok_or_else(bad)?);
                let mut expression = expression;
                Self::Regex(expression.size_limit(EXPRESSION).build().map_err(|_| bad())?)
            }
            "$elemMatch" => Self::ElemMatch(of_elements()?),
            "$allMatch" => Self::AllMatch(of_elements()?),
            "$keyMapMatch" => Self::KeyMapMatch(of_elements()?),
            _ => return Err(refused(format!("Invalid operator: {name}"))),
        };
        Ok(condition.negated_if(reading.is_negated))
    }

    /// The opposite, of a value that is there.
    fn negated_if(self, is_negated: bool) -> Self {
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

    fn matches(&self, value: &Value, is_id: bool) -> bool {
        let is_in = |values: &[Value]| match value {
            Value::Array(items) => {
                values.iter().any(|wanted| items.iter().any(|item| compare(item, wanted).is_eq()))
            }
            value => values.iter().any(|wanted| compare(value, wanted).is_eq()),
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
            Self::Not(condition) => !condition.matches(value, is_id),
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

/// The names in a path; a dot behind a backslash belongs to a name.
fn field_path(path: &str) -> Vec<String> {
    let mut names = vec![String::new()];
    let mut characters = path.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, names.last_mut()) {
            ('\\', Some(name)) if characters.peek() == Some(&'.') => name.extend(characters.next()),
            ('.', _) => names.push(String::new()),
            (character, Some(name)) => name.push(character),
            (_, None) => {}
        }
    }
    names
}

/// The value at a path; arrays are entered by number.
fn find<'v>(value: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, name| match value {
        Value::Object(members) => members.get(name),
        Value::Array(items) => items.get(name.parse::<usize>().ok()?),
        _ => None,
    })
}

fn bad_argument(operator: &str, value: &Value) -> Error {
    refused(format!("Bad argument for operator {operator}: {value}"))
}

#[cfg(test)]
mod tests;
