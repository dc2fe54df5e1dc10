//! What the list language asks of a row.
//!
//! Follows `find_nested_value` of `kinto.core.utils`.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::MODIFIED;
use crate::kinto::Timestamp;

/// A row that filters and sorting can look into.
pub trait Fields {
    /// The value at a path with dots, if there is one.
    fn field(&self, path: &str) -> Option<Cow<'_, Value>>;

    /// How many bytes it holds.
    fn weight(&self) -> usize {
        0
    }

    /// Lets go of what was made to look into it.
    fn forget(&mut self) {}

    /// Whether `_since` of this timestamp selects the row.
    fn is_newer_than(&self, since: Timestamp) -> bool {
        let modified = self.field(MODIFIED);
        modified.is_some_and(|modified| modified.as_u64().is_some_and(|modified| modified > since.0))
    }
}

impl<F: Fields + ?Sized> Fields for &F {
    fn field(&self, path: &str) -> Option<Cow<'_, Value>> {
        (**self).field(path)
    }

    fn weight(&self) -> usize {
        (**self).weight()
    }

    fn is_newer_than(&self, since: Timestamp) -> bool {
        (**self).is_newer_than(since)
    }
}

impl Fields for Map<String, Value> {
    fn field(&self, path: &str) -> Option<Cow<'_, Value>> {
        nested(self, path).map(Cow::Borrowed)
    }
}

/// The value at a path. Names may themselves contain dots: the longest name that is there is followed.
pub fn nested<'o>(object: &'o Map<String, Value>, path: &str) -> Option<&'o Value> {
    let (mut object, mut path) = (object, path);
    loop {
        if let Some(value) = object.get(path) {
            return Some(value);
        }
        let mut candidates = path.rmatch_indices('.');
        let (inner, rest) = candidates.find_map(|(dot, _)| {
            let (name, rest) = path.split_at_checked(dot)?;
            Some((object.get(name)?, rest.strip_prefix('.')?))
        })?;
        (object, path) = (inner.as_object()?, rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: &Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn names_with_dots_are_found() {
        let row = object(&json!({"a": {"b": 1, "c.d": {"e": 2}}, "a.b": 3, "x": "text", "n": null}));
        assert_eq!(nested(&row, "a.b"), Some(&json!(3)));
        assert_eq!(nested(&row, "a.c.d.e"), Some(&json!(2)));
        assert_eq!(nested(&row, "n"), Some(&Value::Null));
        for path in ["a.z", "x.y", "", ".", "a.", "a..b", "z.b"] {
            assert_eq!(nested(&row, path), None, "{path}");
        }
    }
}
