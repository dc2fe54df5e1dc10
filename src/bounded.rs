//! JSON of strangers: its values are counted while it is read, before anything is made of them.
//!
//! A value takes many times the room that its text does: a body of a few MiB becomes a GiB.

use std::cell::Cell;
use std::fmt;
use std::io::{ErrorKind, Read};

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

mod paths;

pub(crate) use paths::{read_first, read_paths};

/// Members of an object are kept by nodes, of so many bytes, which may be half empty.
const NODE: usize = 12 * (size_of::<String>() + size_of::<Value>());
const IN_A_NODE: usize = 6;

/// Why a text was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It has more values than it may.
    #[error("it has too many values")]
    TooMany,
    /// It is no JSON.
    #[error("it is not JSON")]
    Malformed,
    /// It could not be had.
    #[error("it cannot be read: {0}")]
    Unread(ErrorKind),
}

/// Reads a text of at most so many values, names of members among them.
pub fn read(text: &[u8], most: usize) -> Result<Value, Refused> {
    value(serde_json::Deserializer::from_slice(text), most)
}

/// As [`read`], of a text that is never there as a whole.
pub fn read_from(text: impl Read, most: usize) -> Result<Value, Refused> {
    value(serde_json::Deserializer::from_reader(text), most)
}

/// Reads a text down to so many levels: what is nested deeper becomes `null`. It may have any number of values. What follows
/// the first one is not looked at.
pub(crate) fn read_levels(text: &[u8], levels: usize) -> Option<Value> {
    let left = Cell::new(Some(usize::MAX));
    Seed { left: &left, levels, is_cut: false }
        .deserialize(&mut serde_json::Deserializer::from_slice(text))
        .ok()
}

fn value<'de, R: serde_json::de::Read<'de>>(
    mut deserializer: serde_json::Deserializer<R>,
    most: usize,
) -> Result<Value, Refused> {
    let left = Cell::new(Some(most));
    let value = Seed { left: &left, levels: usize::MAX, is_cut: false }.deserialize(&mut deserializer);
    let whole = value.and_then(|value| deserializer.end().map(|()| value));
    whole.map_err(|error| match error.io_error_kind() {
        _ if left.get().is_none() => Refused::TooMany,
        Some(kind) => Refused::Unread(kind),
        None => Refused::Malformed,
    })
}

/// How many bytes a value holds, about.
pub fn weight(value: &Value) -> usize {
    let inner = match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(weight).sum(),
        Value::Object(members) => {
            let named = |(name, value): (&String, &Value)| name.len() + weight(value);
            members.len().div_ceil(IN_A_NODE) * NODE + members.iter().map(named).sum::<usize>()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    };
    size_of::<Value>() + inner
}

/// Reads a value, and counts it down.
#[derive(Clone, Copy)]
struct Seed<'c> {
    /// How many values may follow; `None` where there were too many.
    left: &'c Cell<Option<usize>>,
    /// How many levels may.
    levels: usize,
    /// Whether the first of too many are read.
    is_cut: bool,
}

impl Seed<'_> {
    fn count<E: serde::de::Error>(self) -> Result<(), E> {
        let least = self.is_cut.then_some(0);
        self.left.set(self.left.get().and_then(|left| left.checked_sub(1).or(least)));
        self.left.get().map(drop).ok_or_else(|| E::custom(Refused::TooMany))
    }

    fn below(self) -> Self {
        Self { levels: self.levels - 1, ..self }
    }

    /// Whether what follows is left out.
    fn is_full(self) -> bool {
        self.is_cut && self.left.get() == Some(0)
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.count()?;
        if self.levels == 0 {
            // However deep it nests: nothing of it is on the stack.
            return deserializer.deserialize_ignored_any(IgnoredAny).map(|_| Value::Null);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut read = Vec::new();
        while !self.is_full()
            && let Some(item) = items.next_element_seed(self.below())?
        {
            read.push(item);
        }
        while self.is_full() && items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Array(read))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut read = Map::new();
        while !self.is_full()
            && let Some(name) = members.next_key::<String>()?
        {
            self.count().map_err(|error: serde_json::Error| A::Error::custom(error))?;
            read.insert(name, members.next_value_seed(self.below())?);
        }
        while self.is_full() && members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Value::Object(read))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_counted_before_they_are_made() {
        assert_eq!(read(b"[1,2,3]", 4), Ok(serde_json::json!([1, 2, 3])));
        assert_eq!(read(b"[1,2,3]", 3), Err(Refused::TooMany));
        assert_eq!(read(b"{\"a\":{\"b\":null}}", 5), Ok(serde_json::json!({"a": {"b": null}})));
        assert_eq!(read(b"{\"a\":{\"b\":null}}", 4), Err(Refused::TooMany));
        for text in ["", "[1,2", "[1]x", "{1:2}", "nul", "\"\\x\""] {
            assert_eq!(read(text.as_bytes(), 100), Err(Refused::Malformed), "{text}");
        }
        // What comes after too many is not looked at.
        assert_eq!(read(b"[1,1,1,x", 3), Err(Refused::TooMany));
    }

    #[test]
    fn a_value_weighs_what_was_made_of_it() {
        let objects = read(format!("[{}{{}}]", "{\"x\":1},".repeat(1_000)).as_bytes(), 10_000).unwrap();
        assert!((600_000..1_000_000).contains(&weight(&objects)), "{}", weight(&objects));
        assert!((1_000..1_100).contains(&weight(&"x".repeat(1_000).into())));
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_serde_json_reads(text in "[\\[\\]{}:,\"a1.e-]{0,12}|-?[0-9]{1,25}(\\.[0-9]{1,20})?(e[0-9]{1,3})?") {
            prop_assert_eq!(read(text.as_bytes(), 100).ok(), serde_json::from_str::<Value>(&text).ok());
        }
    }
}
