//! Mango: CouchDB's conditions on documents.
//!
//! Follows `mango_selector` of CouchDB 3. Fields are pushed down to the conditions and negations with them, so that a
//! condition on a field that is not there is false, negated or not; only `"$exists": false` is true there. Regular
//! expressions are those of Rust's `regex`, which take time in proportion to the text: without look-around and back
//! references.

use std::cell::Cell;

use serde_json::{Map, Value};

use crate::aside;
use crate::bounded;
use crate::error::Error;
use crate::feeds::filter::steps::{Steps, UsedUp, all, any};
use crate::feeds::params::refused;
use operator::{Comparison, EXPRESSION, Operator, bad_argument};

mod operator;

/// SECURITY: the deepest nesting of conditions.
const DEEPEST: usize = 64;

/// SECURITY: the most conditions, all of which may be looked at for each document.
const MOST_CONDITIONS: usize = 1_000;

/// SECURITY: the most values in lists, all together.
const MOST_VALUES: usize = 5_000;

/// SECURITY: the most names in a path, and the most bytes in them: each condition has its own.
const LONGEST_PATH: (usize, usize) = (64, 1024);

/// SECURITY: the most regular expressions.
const MOST_EXPRESSIONS: usize = 16;

/// A condition on a document.
#[derive(Debug)]
pub struct Selector {
    node: Node,
    weight: usize,
}

#[derive(Debug)]
enum Node {
    And(Vec<Self>),
    Or(Vec<Self>),
    /// What is asked of the value at a path; the path is empty where the value itself is meant.
    Field(Vec<String>, Operator),
}

impl Drop for Selector {
    fn drop(&mut self) {
        aside::let_go(self.weight, std::mem::replace(&mut self.node, Node::And(Vec::new())));
    }
}

impl Selector {
    /// Reads a selector.
    pub fn read(selector: &Value) -> Result<Self, Error> {
        match selector {
            Value::Object(members) => {
                let left = Left::default();
                let node = Reading { is_negated: false, depth: 0, left: &left }.object(members, &[])?;
                let expressions = MOST_EXPRESSIONS - left.expressions.get();
                let weight = bounded::weight(selector) + left.paths.get() + expressions * EXPRESSION;
                Ok(Self { node, weight })
            }
            _ => Err(refused("`selector` must be a JSON object.")),
        }
    }

    /// Whether a document fulfils it.
    pub fn matches(&self, document: &Value, steps: &mut Steps<'_>) -> Result<bool, UsedUp> {
        self.node.matches(document, steps)
    }

    /// The names of the members of a document that it looks at; `None` where these may be any.
    pub fn names(&self) -> Option<Vec<&str>> {
        let mut names = Vec::new();
        self.node.add_names(&mut names).then_some(names)
    }

    /// How many bytes it holds, about.
    pub fn weight(&self) -> usize {
        self.weight
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

    /// What is asked of the value at a path.
    fn field(self, path: Vec<String>, operator: Operator) -> Node {
        let bytes = path.iter().map(|name| name.len() + size_of::<String>()).sum::<usize>();
        self.left.paths.set(self.left.paths.get() + size_of::<Node>() + bytes);
        Node::Field(path, operator)
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
                Ok(self.field(path.to_vec(), Operator::read(name, value, self)?))
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
                        let operator = Operator::Compare(Comparison::Eq, value.clone());
                        Ok(self.field(path, operator.negated_if(self.is_negated)))
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
                let operator = Operator::Compare(Comparison::Eq, value.clone());
                Ok(self.field(path.to_vec(), operator.negated_if(self.is_negated)))
            }
        });
        nodes.collect()
    }
}

impl Node {
    /// Adds the names of the members that it looks at; `false` where it looks at the whole.
    fn add_names<'n>(&'n self, names: &mut Vec<&'n str>) -> bool {
        match self {
            Self::And(nodes) | Self::Or(nodes) => nodes.iter().all(|node| node.add_names(names)),
            Self::Field(path, _) => {
                names.extend(path.first().map(String::as_str));
                !path.is_empty()
            }
        }
    }

    fn matches(&self, value: &Value, steps: &mut Steps<'_>) -> Result<bool, UsedUp> {
        steps.take(1)?;
        match self {
            Self::And(nodes) => all(nodes.iter(), |node| node.matches(value, steps)),
            Self::Or(nodes) => any(nodes.iter(), |node| node.matches(value, steps)),
            Self::Field(path, operator) => match (find(value, path, steps)?, operator) {
                (Some(value), operator) => {
                    // CouchDB compares ids by their bytes.
                    let is_id = path.first().is_some_and(|name| name == "_id") && path.len() == 1;
                    operator.matches(value, is_id, steps)
                }
                (None, Operator::Exists(false)) => Ok(true),
                (None, _) => Ok(false),
            },
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
fn find<'v>(value: &'v Value, path: &[String], steps: &mut Steps<'_>) -> Result<Option<&'v Value>, UsedUp> {
    let mut found = Some(value);
    for name in path {
        steps.take_text(name)?;
        found = match found {
            Some(Value::Object(members)) => members.get(name),
            Some(Value::Array(items)) => name.parse::<usize>().ok().and_then(|index| items.get(index)),
            _ => return Ok(None),
        };
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
