//! Filters: which rows a parameter selects.
//!
//! Follows `Resource._extract_filters` of `kinto.core.resource` and `apply_filters` of `kinto.core.storage.memory`.
//! Where Kinto's two backends differ, what cannot fail is taken: `like_` knows `*` and nothing else, and is false for
//! a field that is not there.

use std::cmp::Ordering;

use serde_json::Value;

use super::fields::Fields;
use super::invalid::Invalid;
use super::order::{compare, compare_with_text, same};
use super::{MODIFIED, Rules};
use crate::kinto::{Timestamp, unquoted};
use crate::query::schema::GivenFilter;

const ID: &str = "id";

/// One condition on a field.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    /// The path of the field, with dots.
    pub field: String,
    /// How the field's value is compared with `value`.
    pub operator: Operator,
    /// What it is compared with; an array for `In`, `Exclude`, `Contains`, `ContainsAny` and `InLike`, of all but the last in
    /// order.
    pub value: Value,
}

/// How a field is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "these are Kinto's prefixes, as documented there")]
pub enum Operator {
    Lt,
    Min,
    Max,
    Not,
    Eq,
    Gt,
    In,
    Exclude,
    Like,
    Has,
    ContainsAny,
    Contains,
    /// `in_like_`: any of several patterns; only where [`Rules::in_like`] allows it.
    InLike,
    /// `_since`: what the row itself takes for newer, see [`Fields::is_newer_than`].
    Since,
}

/// Prefixes in the order in which they are tried: `contains_any_` before `contains_`.
const PREFIXES: [(&str, Operator); 12] = [
    ("lt_", Operator::Lt),
    ("min_", Operator::Min),
    ("max_", Operator::Max),
    ("not_", Operator::Not),
    ("eq_", Operator::Eq),
    ("gt_", Operator::Gt),
    ("in_", Operator::In),
    ("exclude_", Operator::Exclude),
    ("like_", Operator::Like),
    ("has_", Operator::Has),
    ("contains_any_", Operator::ContainsAny),
    ("contains_", Operator::Contains),
];

// === impl Filter ===

impl Filter {
    /// What a parameter says; `None` for one that Kinto ignores.
    pub(super) fn read(given: &GivenFilter, rules: &Rules<'_>) -> Result<Option<Self>, Invalid> {
        let name = given.name.trim();
        match name {
            "_since" => return Self::bound(name, Operator::Since, given, rules).map(Some),
            "_to" | "_before" => return Self::bound(name, Operator::Lt, given, rules).map(Some),
            _ if name.starts_with('_') => return Ok(None),
            _ => {}
        }
        let (operator, field) = Operator::split(name, rules);
        if !rules.knows(field) {
            return Err(Invalid::query(name, format!("Unknown filter field '{name}'")));
        }
        let filter = Self { field: field.to_owned(), operator, value: given.value.clone() };
        filter.check(name, rules)?;
        Ok(Some(filter.with_texts(given, rules).with_order()))
    }

    /// `_since`, `_before` and `_to`.
    fn bound(
        name: &str,
        operator: Operator,
        given: &GivenFilter,
        rules: &Rules<'_>,
    ) -> Result<Self, Invalid> {
        if !given.value.is_null() && timestamp(&given.value, rules.now).is_none() {
            return Err(Invalid::query(name, format!("Invalid value for {name}")));
        }
        Ok(Self { field: MODIFIED.to_owned(), operator, value: given.value.clone() })
    }

    /// Kinto's checks of a value, in Kinto's order.
    fn check(&self, name: &str, rules: &Rules<'_>) -> Result<(), Invalid> {
        let refused = |description: String| Err(Invalid::query(name, description));
        let invalid = || refused(format!("Invalid value for {name}"));
        let all = |of_type: fn(&Value) -> bool| self.items().iter().all(of_type);
        match self.operator {
            Operator::Like if !self.value.is_string() => return invalid(),
            Operator::In | Operator::Exclude if self.field == ID && !all(Value::is_string) => {
                return invalid();
            }
            Operator::In | Operator::Exclude if self.field == MODIFIED && !all(Value::is_i64) => {
                return invalid();
            }
            Operator::InLike if !all(Value::is_string) => return invalid(),
            _ => {}
        }
        if self.field.contains('\0') || has_null_character(&self.value) {
            return refused("Invalid character 0x00".to_owned());
        }
        // Kinto: a list is no timestamp, so `in_last_modified` is always refused.
        if self.field == MODIFIED && timestamp(&self.value, rules.now).is_none() {
            return invalid();
        }
        let array = matches!(self.operator, Operator::Contains | Operator::ContainsAny);
        if array && (self.field == ID || self.field == MODIFIED) {
            return refused(format!("Field '{}' is not an array", self.field));
        }
        Ok(())
    }

    /// Ids are texts, also where they look like numbers; timestamps are numbers, also between quotes.
    fn with_texts(mut self, given: &GivenFilter, rules: &Rules<'_>) -> Self {
        if matches!(self.operator, Operator::Has | Operator::Contains | Operator::ContainsAny) {
            return self;
        }
        if self.field == ID || rules.text_fields.contains(&self.field.as_str()) {
            let as_text = |value: &Value, text: Option<&String>| match (value, text) {
                (Value::Number(_) | Value::Bool(_), Some(text)) => Value::String(text.clone()),
                (value, _) => value.clone(),
            };
            self.value = match &self.value {
                Value::Array(items) => {
                    let texts = given.texts.iter().map(Some).chain(std::iter::repeat(None));
                    items.iter().zip(texts).map(|(item, text)| as_text(item, text)).collect()
                }
                value => as_text(value, given.texts.first()),
            };
        } else if self.field == MODIFIED && self.operator != Operator::Like && self.value.is_string() {
            self.value =
                timestamp(&self.value, rules.now).map_or(Value::Null, |timestamp| timestamp.0.into());
        }
        self
    }

    /// Long lists are looked into as sets.
    fn with_order(mut self) -> Self {
        if let Operator::In | Operator::Exclude | Operator::Contains | Operator::ContainsAny = self.operator
            && let Value::Array(items) = &mut self.value
        {
            items.sort_by(|left, right| compare(Some(left), Some(right)));
            items.dedup_by(|left, right| same(left, right));
        }
        self
    }

    /// Whether a row is selected.
    pub fn matches(&self, row: &(impl Fields + ?Sized)) -> bool {
        if self.operator == Operator::Since {
            return self.value.as_u64().is_none_or(|since| row.is_newer_than(Timestamp(since)));
        }
        let field = row.field(&self.field);
        let left = field.as_deref();
        let order = || compare(left, Some(&self.value));
        match self.operator {
            Operator::Lt => order() == Ordering::Less,
            Operator::Max => order() != Ordering::Greater,
            Operator::Eq => order() == Ordering::Equal,
            Operator::Not => order() != Ordering::Equal,
            Operator::Min => order() != Ordering::Less,
            Operator::Gt => order() == Ordering::Greater,
            Operator::In => left.is_some_and(|left| self.has(left)),
            Operator::Exclude => !left.is_some_and(|left| self.has(left)),
            Operator::Has => left.is_some() == is_true(&self.value),
            Operator::Like => left.is_some_and(|left| like(left, std::slice::from_ref(&self.value))),
            Operator::InLike => left.is_some_and(|left| like(left, self.items())),
            Operator::Contains => left.is_some_and(|left| self.are_among(left)),
            Operator::ContainsAny => {
                left.is_some_and(|left| any_part(left, |part| self.place_of(part).is_some()))
            }
            Operator::Since => true,
        }
    }

    /// Whether a value is among the items, which are in order.
    fn has(&self, value: &Value) -> bool {
        self.place_of(Part::Value(value)).is_some()
    }

    /// Whether each of the items, which are in order, is among the parts of a value. They are gone over once.
    fn are_among(&self, value: &Value) -> bool {
        let mut missing = self.items().len();
        if missing == 0 {
            return matches!(value, Value::Array(_) | Value::String(_) | Value::Object(_));
        }
        let mut met = vec![false; missing];
        any_part(value, |part| {
            let met = self.place_of(part).and_then(|place| met.get_mut(place));
            if met.is_some_and(|met| !std::mem::replace(met, true)) {
                missing -= 1;
            }
            missing == 0
        })
    }

    fn place_of(&self, part: Part<'_>) -> Option<usize> {
        let place = match part {
            Part::Value(value) => self.items().binary_search_by(|item| compare(Some(item), Some(value))),
            Part::Text(text) => self.items().binary_search_by(|item| compare_with_text(item, text)),
        };
        place.ok()
    }

    fn items(&self) -> &[Value] {
        match &self.value {
            Value::Array(items) => items,
            other => std::slice::from_ref(other),
        }
    }
}

// === impl Operator ===

impl Operator {
    /// The operator and the field that a parameter names.
    fn split<'n>(name: &'n str, rules: &Rules<'_>) -> (Self, &'n str) {
        let is_path = |path: &str| {
            !path.is_empty() && path.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.'))
        };
        if let Some(field) = name.strip_prefix("in_like_").filter(|field| rules.in_like && rules.knows(field))
        {
            return (Self::InLike, field);
        }
        for (prefix, operator) in PREFIXES {
            if let Some(field) = name.strip_prefix(prefix).filter(|field| is_path(field)) {
                return (operator, field);
            }
        }
        (Self::Eq, name)
    }
}

/// The timestamp that a value names, if Kinto accepts it for one: not negative, and less than a day ahead.
fn timestamp(value: &Value, now: Timestamp) -> Option<Timestamp> {
    let timestamp = match value {
        Value::String(text) => Timestamp::from_digits(unquoted(text).unwrap_or(text)),
        Value::Number(number) => {
            crate::kinto::python::Integer::truncate(number)?.value.try_into().ok().map(Timestamp)
        }
        _ => None,
    };
    timestamp.filter(|timestamp| timestamp.is_near(now))
}

fn has_null_character(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_null_character),
        Value::Object(members) => {
            members.iter().any(|(name, value)| name.contains('\0') || has_null_character(value))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// What Python takes for true.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
    }
}

/// Something that a value contains.
#[derive(Clone, Copy)]
enum Part<'v> {
    Value(&'v Value),
    Text(&'v str),
}

/// Whether one of what a value contains is it: an array's items, a text's characters, an object's names. They are looked at one
/// by one: a long text has many.
fn any_part(value: &Value, mut is_it: impl FnMut(Part<'_>) -> bool) -> bool {
    match value {
        Value::Array(items) => items.iter().any(|item| is_it(Part::Value(item))),
        Value::String(text) => {
            let mut buffer = [0; 4];
            text.chars().any(|character| is_it(Part::Text(character.encode_utf8(&mut buffer))))
        }
        Value::Object(members) => members.keys().any(|name| is_it(Part::Text(name))),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn like(value: &Value, patterns: &[Value]) -> bool {
    let text = match value {
        Value::String(text) => text.to_lowercase(),
        Value::Null => return false,
        other => other.to_string(),
    };
    patterns.iter().filter_map(Value::as_str).any(|pattern| glob(&text, &pattern.to_lowercase()))
}

/// Like [`wildcard`], but a pattern without `*` may be anywhere in the text.
fn glob(text: &str, pattern: &str) -> bool {
    if pattern.contains('*') { wildcard(text, pattern) } else { text.contains(pattern) }
}

/// Whether each `*` in a pattern can stand for something that makes it the text.
pub fn wildcard(text: &str, pattern: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return text == pattern };
    let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(inner) = text.strip_prefix(head).and_then(|text| text.strip_suffix(tail)) else { return false };
    let mut remaining = Some(inner);
    for part in middle.split('*') {
        remaining = remaining.and_then(|text| text.split_once(part)).map(|(_, after)| after);
    }
    remaining.is_some()
}
