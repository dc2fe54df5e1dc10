//! Mango: CouchDB's conditions on documents.
//!
//! Follows `mango_selector` of CouchDB 3. Fields are pushed down to the conditions and negations with them, so that a
//! condition on a field that is not there is false, negated or not; only `"$exists": false` is true there. Regular
//! expressions are those of Rust's `regex`, which take time in proportion to the text: without look-around and back
//! references.

use std::cell::Cell;
use std::cmp::Ordering;

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use crate::bounded;
use crate::error::Error;
use crate::feeds::filter::collation::{compare, type_name};
use crate::feeds::params::refused;

/// SECURITY: the deepest nesting of conditions.
const DEEPEST: usize = 64;

/// SECURITY: the most conditions, all of which may be looked at for each document.
const MOST_CONDITIONS: usize = 1_000;

/// SECURITY: the most values in lists, all together.
const MOST_VALUES: usize = 5_000;

/// SECURITY: the most names in a path, and the most bytes in them: each condition has its own.
const LONGEST_PATH: (usize, usize) = (64, 1024);

/// SECURITY: the most regular expressions, how long each may be, and what it may take once it is compiled, in bytes.
const MOST_EXPRESSIONS: usize = 16;
const LONGEST_EXPRESSION: usize = 1024;
const EXPRESSION: usize = 1 << 20;

/// How many plain conditions a regular expression counts for: it looks at the whole of a text.
const OF_EXPRESSION: usize = 50;

/// A condition on a document.
#[derive(Debug)]
pub struct Selector {
    node: Node,
    conditions: usize,
    weight: usize,
}

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
            Value::Object(members) => {
                let left = Left::default();
                let node = Reading { is_negated: false, depth: 0, left: &left }.object(members, &[])?;
                let expressions = MOST_EXPRESSIONS - left.expressions.get();
                let conditions = MOST_CONDITIONS - left.conditions.get() + expressions * OF_EXPRESSION;
                let weight = bounded::weight(selector) + left.paths.get() + expressions * EXPRESSION;
                Ok(Self { node, conditions, weight })
            }
            _ => Err(refused("`selector` must be a JSON object.")),
        }
    }

    /// Whether a document fulfils it.
    pub fn matches(&self, document: &Value) -> bool {
        self.node.matches(document)
    }

    /// How many bytes it holds, about.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// How many conditions there are to look at.
    pub fn conditions(&self) -> usize {
        self.conditions
    }
}

/// What a selector may still have.
struct Left {
    conditions: Cell<usize>,
    values: Cell<usize>,
    expressions: Cell<usize>,
    /// How many bytes there are in paths.
    paths: Cell<usize>,
}

impl Left {
    fn take(left: &Cell<usize>, number: usize) -> Result<(), Error> {
        let rest = left.get().checked_sub(number);
        left.set(rest.ok_or_else(|| refused("The selector has more in it than is taken here."))?);
        Ok(())
    }
}

impl Default for Left {
    fn default() -> Self {
        Self {
            conditions: Cell::new(MOST_CONDITIONS),
            values: Cell::new(MOST_VALUES),
            expressions: Cell::new(MOST_EXPRESSIONS),
            paths: Cell::new(0),
        }
    }
}

/// Where in a selector something is read.
#[derive(Clone, Copy)]
struct Reading<'l> {
    is_negated: bool,
    depth: usize,
    left: &'l Left,
}

impl Reading<'_> {
    fn deeper(self) -> Result<Self, Error> {
        if self.depth >= DEEPEST {
            return Err(refused("The selector is nested too deeply."));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }

    fn negated(self) -> Self {
        Self { is_negated: !self.is_negated, ..self }
    }

    /// A condition on the value at a path.
    fn field(self, path: Vec<String>, condition: Condition) -> Node {
        let bytes = path.iter().map(|name| name.len() + size_of::<String>()).sum::<usize>();
        self.left.paths.set(self.left.paths.get() + size_of::<Node>() + bytes);
        Node::Field(path, condition)
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
        Left::take(&self.left.conditions, 1)?;
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
                Ok(self.field(path.to_vec(), Condition::read(name, value, self)?))
            }
            "" => Err(refused("One or more conditions is missing a field name.")),
            name => {
                let mut path = path.to_vec();
                path.extend(field_path(name)?);
                if path.len() > LONGEST_PATH.0 || path.iter().map(String::len).sum::<usize>() > LONGEST_PATH.1
                {
                    return Err(refused("The path of a field is too long."));
                }
                match value {
                    Value::Object(members) if !members.is_empty() => self.object(members, &path),
                    value => {
                        let condition = Condition::Compare(Comparison::Eq, value.clone());
                        Ok(self.field(path, condition.negated_if(self.is_negated)))
                    }
                }
            }
        }
    }

    /// The selectors of `$and`, `$or` and `$nor`.
    fn list(self, name: &str, value: &Value, path: &[String]) -> Result<Vec<Node>, Error> {
        let Value::Array(selectors) = value else { return Err(bad_argument(name, value)) };
        let inner = self.deeper()?;
        Left::take(&self.left.conditions, selectors.len())?;
        let nodes = selectors.iter().map(|selector| match selector {
            Value::Object(members) => inner.object(members, path),
            value if path.is_empty() => Err(bad_argument(name, value)),
            value => {
                let condition = Condition::Compare(Comparison::Eq, value.clone());
                Ok(self.field(path.to_vec(), condition.negated_if(self.is_negated)))
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
    fn read(name: &str, value: &Value, reading: Reading<'_>) -> Result<Self, Error> {
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
        let condition = match name {
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
fn field_path(path: &str) -> Result<Vec<String>, Error> {
    if path.len() > LONGEST_PATH.1 {
        return Err(refused("The path of a field is too long."));
    }
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
    Ok(names)
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
    let mut shown = value.to_string();
    if let Some((end, _)) = shown.char_indices().nth(LONGEST_EXPRESSION) {
        shown.truncate(end);
    }
    refused(format!("Bad argument for operator {operator}: {shown}"))
}

#[cfg(test)]
mod tests;
