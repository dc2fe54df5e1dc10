//! The parameters of a list once they have passed Kinto's schema: numbers are numbers, lists are lists.
//!
//! Follows `PluralGetQuerySchema` of `kinto.core.resource.schema` and the fields of `kinto.core.schema`. Values that
//! the schema takes for none (an empty text, `null`, `{}`) are left to the filters, as Kinto does.

use serde_json::Value;

use crate::kinto::Timestamp;
use crate::kinto::python::{self, Integer};
use crate::query::invalid::{Fault, Invalid};
use crate::query::parameters::Parameters;

/// Parameters that passed the schema; what they mean is not looked at yet.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// What may be a filter, by first occurrence.
    pub(super) filters: Vec<GivenFilter>,
    /// `_limit`, where it names a number above zero.
    pub(super) limit: Option<u64>,
    /// Whether `_limit` was there at all.
    pub(super) has_limit: bool,
    /// The parts of `_sort`.
    pub(super) sort: Vec<String>,
    /// The parts of `_fields`.
    pub(super) fields: Vec<String>,
    /// `_token`.
    pub(super) token: Option<String>,
}

/// A parameter that is not one of the list's own.
#[derive(Debug, Clone)]
pub(super) struct GivenFilter {
    pub(super) name: String,
    pub(super) value: Value,
    /// The texts that `value` was read from.
    pub(super) texts: Vec<String>,
}

impl GivenFilter {
    /// How many values are looked for one by one.
    pub(super) fn patterns(&self) -> usize {
        let is_looked_for =
            ["contains_", "in_like_"].iter().any(|prefix| self.name.trim().starts_with(prefix));
        self.value.as_array().filter(|_| is_looked_for).map_or(0, Vec::len)
    }
}

impl Given {
    /// Reads all parameters; `faults` are those already found elsewhere in the same request.
    pub fn read(parameters: &Parameters, mut faults: Vec<Fault>) -> Result<Self, Invalid> {
        let mut given = Self::default();
        for (name, values) in parameters.iter() {
            if let Err(description) = given.take(name, values) {
                faults.push(Fault::query(name, description));
            }
        }
        if faults.is_empty() { Ok(given) } else { Err(Invalid::faults(faults)) }
    }

    /// The same without `_fields`, which means nothing where rows are deleted.
    #[must_use]
    pub fn without_fields(mut self) -> Self {
        self.fields.clear();
        self
    }

    /// How many conditions are held against each row, and how many of its fields are looked at otherwise.
    pub fn conditions(&self) -> usize {
        let patterns: usize = self.filters.iter().map(GivenFilter::patterns).sum();
        1 + self.filters.len() + patterns + self.sort.len() + self.fields.len()
    }

    /// The timestamp of `_since`, where it names one.
    pub fn since(&self) -> Option<Timestamp> {
        let since = self.filters.iter().find(|filter| filter.name == "_since")?;
        since.value.as_u64().map(Timestamp)
    }

    fn take(&mut self, name: &str, values: &[String]) -> Result<(), String> {
        match name {
            "_limit" => {
                self.has_limit = true;
                self.limit = integer(values)?.filter(|limit| *limit > 0);
            }
            "_sort" => self.sort = list(values),
            "_fields" => self.fields = list(values),
            "_token" => self.token = text(name, values)?,
            "_since" | "_to" | "_before" | "last_modified" => {
                let value = integer(values)?.map_or_else(|| native_all(values), Value::from);
                self.filter(name, value, values);
            }
            "id" => {
                let value = text(name, values)?.map_or_else(|| native_all(values), Value::from);
                self.filter(name, value, values);
            }
            _ if name.starts_with("contains_") => {
                let value = match native_all(values) {
                    Value::Array(items) => items,
                    other => vec![other],
                };
                self.filter(name, value.into(), values);
            }
            _ if name.starts_with("in_") || name.starts_with("exclude_") => {
                let texts = list(values);
                let value = texts.iter().map(|text| native(text)).collect();
                self.filter(name, Value::Array(value), &texts);
            }
            _ => {
                for value in values {
                    self.filter(name, native(value), std::slice::from_ref(value));
                }
            }
        }
        Ok(())
    }

    fn filter(&mut self, name: &str, value: Value, texts: &[String]) {
        self.filters.push(GivenFilter { name: name.to_owned(), value, texts: texts.to_vec() });
    }
}

/// A text read as JSON where it is JSON, else taken as it is.
pub(super) fn native(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

fn native_all(values: &[String]) -> Value {
    match values {
        [value] => native(value),
        values => values.iter().map(|value| Value::String(value.clone())).collect(),
    }
}

/// A number from 0 to 2^63; `None` for what the schema takes for none.
fn integer(values: &[String]) -> Result<Option<u64>, String> {
    let native = match (native_all(values), values) {
        // Booleans are numbers in Python; Kinto leaves them as text so that they are refused.
        (Value::Bool(_), [text]) => Value::String(text.clone()),
        (native, _) => native,
    };
    if is_none(&native) {
        return Ok(None);
    }
    let read = match &native {
        Value::String(text) => Integer::parse(text),
        Value::Number(number) => Integer::truncate(number),
        _ => None,
    };
    let integer = read.ok_or_else(|| format!("\"{}\" is not a number", python::display(&native)))?;
    python::within_range(&integer).map(Some)
}

/// A text; `None` for what the schema takes for none.
fn text(name: &str, values: &[String]) -> Result<Option<String>, String> {
    let native = match (native_all(values), values) {
        (Value::Bool(_), [text]) => Value::String(text.clone()),
        (native, _) => native,
    };
    match native {
        Value::Number(number) if number.as_f64() == Some(0.0) => Ok(None),
        native if is_none(&native) => Ok(None),
        Value::String(text) => Ok(Some(text)),
        other => Err(format!("{} is not a string: {{'{name}': ''}}", python::repr(&other))),
    }
}

/// Parts between commas, without the empty ones; a repeated parameter adds up.
fn list(values: &[String]) -> Vec<String> {
    let parts = values.iter().flat_map(|value| value.split(','));
    parts.filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

fn is_none(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}
