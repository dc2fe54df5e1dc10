//! Of a JSON object, what stands at some paths: nothing is made of the rest, however large it is.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::Seed;

/// Reads what stands at these paths with dots (names may themselves contain dots), so many levels deep. Of more values than
/// `most`, the first are there. What is on the way to none of them is left out.
pub(crate) fn read_paths(text: &[u8], paths: &[&str], levels: usize, most: usize) -> Map<String, Value> {
    let left = Cell::new(Some(most));
    let seed = Below { paths: paths.to_vec(), values: Seed { left: &left, levels, is_cut: true } };
    match seed.deserialize(&mut serde_json::Deserializer::from_slice(text)) {
        Ok(Value::Object(members)) => members,
        _ => Map::new(),
    }
}

/// Reads all of an object, so many levels deep. Of more values than `most`, the first are there.
pub(crate) fn read_first(text: &[u8], levels: usize, most: usize) -> Map<String, Value> {
    let left = Cell::new(Some(most));
    let seed = Seed { left: &left, levels, is_cut: true };
    match seed.deserialize(&mut serde_json::Deserializer::from_slice(text)) {
        Ok(Value::Object(members)) => members,
        _ => Map::new(),
    }
}

/// Reads the members of an object that are on the way to some paths.
struct Below<'c, 'p> {
    paths: Vec<&'p str>,
    values: Seed<'c>,
}

impl<'de> DeserializeSeed<'de> for Below<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.values.levels == 0 {
            return deserializer.deserialize_ignored_any(IgnoredAny).map(|_| Value::Null);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Below<'_, '_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    // There is nothing below what is no object.

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_str<E>(self, _: &str) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Null)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut read = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let below = |path: &&'_ str| path.strip_prefix(&*name)?.strip_prefix('.').map(str::len);
            if self.paths.contains(&&*name) {
                read.insert(name, members.next_value_seed(self.values.below())?);
                continue;
            }
            let paths = self.paths.iter().filter_map(|path| path.get(path.len() - below(path)?..));
            let paths: Vec<&str> = paths.collect();
            if paths.is_empty() {
                members.next_value::<IgnoredAny>()?;
                continue;
            }
            let seed = Below { paths, values: self.values.below() };
            read.insert(name, members.next_value_seed(seed)?);
        }
        Ok(Value::Object(read))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_on_no_path_is_left_out() {
        let row = json!({"id": 1, "a": {"b": {"c": [1, 2]}, "x": [3]}, "a.b": 5, "n": null, "l": [{"c": 1}], "t": "x"});
        let read = |paths: &[&str]| Value::Object(read_paths(row.to_string().as_bytes(), paths, 100, 1_000));
        assert_eq!(read(&["id", "z"]), json!({"id": 1}));
        assert_eq!(read(&["a.b.c"]), json!({"a": {"b": {"c": [1, 2]}}, "a.b": null}));
        assert_eq!(read(&["a.x", "a.b"]), json!({"a": {"b": {"c": [1, 2]}, "x": [3]}, "a.b": 5}));
        assert_eq!(read(&["a", "a.x", "n"]), json!({"a": row["a"], "n": null}));
        assert_eq!(read(&["l.c", "t.u"]), json!({"l": null, "t": null}));
    }

    #[test]
    fn of_too_many_values_the_first_are_there() {
        let row = json!({"l": vec![7; 100], "o": {"a": [1, 2, 3], "b": 1, "c": 2}, "d": [[[1]]]}).to_string();
        let read = |path, levels, most| Value::Object(read_paths(row.as_bytes(), &[path], levels, most));
        assert_eq!(read("l", 9, 11), json!({"l": vec![7; 10]}));
        assert_eq!(read("o", 9, 4), json!({"o": {"a": [1]}}));
        assert_eq!(read("d", 3, 100), json!({"d": [[null]]}));
        assert_eq!(Value::Object(read_first(row.as_bytes(), 9, 12)), json!({"d": [[[1]]], "l": vec![7; 4]}));
        assert!(
            read_paths(b"[1]", &["a"], 3, 9).is_empty() && read_paths(b"{\"a\":", &["a"], 3, 9).is_empty()
        );
    }
}
