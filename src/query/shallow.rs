//! Rows as they are written, however deep they nest: Kinto takes a thousand levels, and whoever looks into a row goes down
//! level by level on the stack.

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::bounded;

/// What is nested deeper cannot be told from `null`.
const DEEPEST: usize = 100;
/// SECURITY: of what is looked at in an object of a stranger's, the first so many values: each takes more than its text.
const MOST_VALUES: usize = 100_000;

/// What stands in an object; nothing where it is none.
pub fn members(json: &[u8]) -> Map<String, Value> {
    match bounded::read_levels(json, DEEPEST) {
        Some(Value::Object(members)) => members,
        _ => Map::new(),
    }
}

/// What stands in an object at these paths, or in all of it; nothing where it is none. Of more values than anybody looks at,
/// the first are there.
pub fn members_at(json: &[u8], paths: Option<&[&str]>) -> Map<String, Value> {
    match paths {
        Some(paths) => bounded::read_paths(json, paths, DEEPEST, MOST_VALUES),
        None => bounded::read_first(json, DEEPEST, MOST_VALUES),
    }
}

/// What is left of an object when only these paths are kept, as it is written and in the order of the paths.
///
/// Follows `dict_subset` of `kinto.core.utils`.
pub fn subset_of(json: &str, paths: &[&str]) -> Option<String> {
    subset_below(json, paths, DEEPEST)
}

fn subset_below(json: &str, paths: &[&str], levels: usize) -> Option<String> {
    let members: std::collections::BTreeMap<String, &RawValue> = serde_json::from_str(json).ok()?;
    let mut names: Vec<&str> = Vec::new();
    let mut wanted: std::collections::HashMap<&str, Vec<Option<&str>>> = std::collections::HashMap::new();
    for path in paths {
        let (name, rest) = path.split_once('.').map_or((*path, None), |(name, rest)| (name, Some(rest)));
        let rests = wanted.entry(name).or_default();
        if rests.is_empty() {
            names.push(name);
        }
        rests.push(rest);
    }
    let mut kept = String::from("{");
    for name in names {
        let Some(value) = members.get(name).map(|value| value.get()) else { continue };
        let rests: Option<Vec<&str>> = wanted.remove(name).unwrap_or_default().into_iter().collect();
        let part = match rests {
            Some(rests) if value.starts_with('{') && levels > 0 => subset_below(value, &rests, levels - 1),
            _ => None,
        };
        if kept.len() > 1 {
            kept.push(',');
        }
        kept.push_str(&Value::from(name).to_string());
        kept.push(':');
        kept.push_str(part.as_deref().unwrap_or(value));
    }
    kept.push('}');
    Some(kept)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What [`subset_of`] has to give, made of values.
    fn subset(object: &Map<String, Value>, paths: &[&str]) -> Map<String, Value> {
        let mut kept = Map::new();
        for path in paths {
            keep(object, path, &mut kept);
        }
        kept
    }

    fn keep(object: &Map<String, Value>, path: &str, kept: &mut Map<String, Value>) {
        let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
        let Some(value) = object.get(name) else { return };
        match (value, rest) {
            (Value::Object(inner), Some(rest)) => {
                let place = kept.entry(name).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(place) = place {
                    keep(inner, rest, place);
                }
            }
            (value, _) => {
                kept.insert(name.to_owned(), value.clone());
            }
        }
    }

    #[test]
    fn rows_are_looked_into_however_deep_they_nest() {
        let deep = format!("{}1{}", "[".repeat(2000), "]".repeat(2000));
        let row = format!(r#"{{"a":{{"b":{{"c":1.50}},"deep":{deep}}},"n":[1,-2,2.5,"x",null,true]}}"#);
        let members = members(row.as_bytes());
        assert_eq!(members["n"], json!([1, -2, 2.5, "x", null, true]));
        assert_eq!(super::super::nested(&members, "a.b.c"), Some(&json!(1.5)));
        assert_eq!(subset_of(&row, &["a.b", "a.x", "z"]), Some(r#"{"a":{"b":{"c":1.50}}}"#.to_owned()));
        assert_eq!(subset_of(&row, &["a.deep"]), Some(format!(r#"{{"a":{{"deep":{deep}}}}}"#)));
        assert!(super::members(b"[1]").is_empty());
    }

    #[test]
    fn a_subset_is_that_of_the_values() {
        let row = json!({"id": "1", "a": {"b": 1, "c": 2, "d": 3}, "x": "text"});
        for paths in [&["a.b", "a.d", "x.y", "z", "id"][..], &["a.b", "a"], &["a", "a.b"], &["id", "id"]] {
            let kept = subset(row.as_object().unwrap(), paths);
            let text: Value = serde_json::from_str(&subset_of(&row.to_string(), paths).unwrap()).unwrap();
            assert_eq!(text, Value::Object(kept), "{paths:?}");
        }
    }

    #[test]
    fn a_subset_merges_what_it_keeps_of_one_object() {
        let row = json!({"id": "1", "a": {"b": 1, "c": 2, "d": 3}, "x": "text"});
        let kept = subset(row.as_object().unwrap(), &["a.b", "a.d", "x.y", "z", "id"]);
        assert_eq!(Value::Object(kept), json!({"a": {"b": 1, "d": 3}, "x": "text", "id": "1"}));
    }
}
