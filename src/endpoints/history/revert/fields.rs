//! The fields of an object that are given back, where not all are.
//!
//! A path is followed as filters follow theirs: names may themselves contain dots, and the longest name that is there, or
//! was, is meant.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// SECURITY: how deep a chosen field may be. What is around it is read once for each level.
pub(super) const DEEPEST: usize = 20;

const UNREADABLE: &str = "how it was before cannot be read";
const IN_LIST: &str = "a field is in a list, which is given back as a whole: name the list";

/// By their names.
type Members<'j> = BTreeMap<String, &'j RawValue>;

/// Paths of fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::endpoints) struct Fields(Vec<String>);

/// What a member of an object will be.
enum Part<'p, 'j> {
    /// This.
    Whole(&'j RawValue),
    /// An object with some of its fields as they were.
    Merged { paths: Vec<&'p str>, now: &'j RawValue, before: Option<&'j RawValue> },
}

impl Fields {
    /// Those at these paths (`a.b`); `None` where one is too deep.
    pub(super) fn at(paths: Vec<String>) -> Option<Self> {
        paths.iter().all(|path| path.split('.').count() <= DEEPEST).then_some(Self(paths))
    }

    /// An object with these fields as they were, and all others as they are; or why there is none.
    pub(super) fn merged(&self, now: &RawValue, before: &RawValue) -> Result<Box<RawValue>, &'static str> {
        let mut json = String::with_capacity(now.get().len());
        let paths: Vec<&str> = self.0.iter().map(String::as_str).collect();
        write(&paths, now, Some(before), &mut json)?;
        RawValue::from_string(json).map_err(|_| UNREADABLE)
    }
}

fn write(
    paths: &[&str],
    now: &RawValue,
    before: Option<&RawValue>,
    json: &mut String,
) -> Result<(), &'static str> {
    let now = members(now).ok_or(UNREADABLE)?;
    let before = before.and_then(members).unwrap_or_default();
    // In one go, whatever the number of those that are chosen in a member.
    let mut chosen: BTreeMap<&str, Vec<Option<&str>>> = BTreeMap::new();
    for path in paths {
        let found = split(path, |name| now.contains_key(name) || before.contains_key(name));
        if let Some((name, rest)) = found {
            chosen.entry(name).or_default().push(rest);
        }
    }
    let mut parts: BTreeMap<&str, Part<'_, '_>> =
        now.iter().map(|(name, member)| (name.as_str(), Part::Whole(member))).collect();
    for (name, rests) in chosen {
        let (is, was) = (now.get(name).copied(), before.get(name).copied());
        // None where it is chosen as it is, and not for what is in it.
        let inner: Option<Vec<&str>> = rests.into_iter().collect();
        let part = match (inner, is) {
            (Some(_), _) if is.into_iter().chain(was).any(is_list) => return Err(IN_LIST),
            (Some(paths), Some(now)) if is_object(now) && was.is_none_or(is_object) => {
                Some(Part::Merged { paths, now, before: was })
            }
            // A field within what was no object, or is none, is no field by itself.
            _ => was.map(Part::Whole),
        };
        match part {
            Some(part) => _ = parts.insert(name, part),
            None => _ = parts.remove(name),
        }
    }
    json.push('{');
    for (number, (name, part)) in parts.into_iter().enumerate() {
        if number > 0 {
            json.push(',');
        }
        json.push_str(&serde_json::to_string(name).map_err(|_| UNREADABLE)?);
        json.push(':');
        match part {
            Part::Whole(member) => json.push_str(member.get()),
            Part::Merged { paths, now, before } => write(&paths, now, before, json)?,
        }
    }
    json.push('}');
    Ok(())
}

/// The longest name of a path that is there, and the path that follows it.
fn split(path: &str, is_there: impl Fn(&str) -> bool) -> Option<(&str, Option<&str>)> {
    if is_there(path) {
        return Some((path, None));
    }
    path.rmatch_indices('.').find_map(|(dot, _)| {
        let (name, rest) = path.split_at_checked(dot)?;
        is_there(name).then(|| (name, rest.strip_prefix('.')))
    })
}

/// The members of an object; `None` where it is none.
pub(super) fn members(json: &RawValue) -> Option<Members<'_>> {
    serde_json::from_str(json.get()).ok()
}

fn is_object(json: &RawValue) -> bool {
    json.get().starts_with('{')
}

fn is_list(json: &RawValue) -> bool {
    json.get().starts_with('[')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn at(paths: &[&str]) -> Option<Fields> {
        Fields::at(paths.iter().map(|path| (*path).to_owned()).collect())
    }

    #[test]
    fn fields_that_are_chosen_are_as_they_were_and_all_others_as_they_are() {
        let now = raw(r#"{"a":1,"b":{"x":1,"y":2},"c":3,"n":1e400}"#);
        let before = raw(r#"{"a":9.50,"b":{"x":9,"z":8},"d":7}"#);
        for (fields, expected) in [
            (&["a"][..], r#"{"a":9.50,"b":{"x":1,"y":2},"c":3,"n":1e400}"#),
            (&["b.x", "c"], r#"{"a":1,"b":{"x":9,"y":2},"n":1e400}"#),
            (&["b.y", "b.z", "d"], r#"{"a":1,"b":{"x":1,"z":8},"c":3,"d":7,"n":1e400}"#),
            (&["none", "b.none.x"], r#"{"a":1,"b":{"x":1,"y":2},"c":3,"n":1e400}"#),
            (&["b.y", "b"], r#"{"a":1,"b":{"x":9,"z":8},"c":3,"n":1e400}"#),
            (&["a.x", "c.x"], r#"{"a":9.50,"b":{"x":1,"y":2},"n":1e400}"#),
        ] {
            assert_eq!(at(fields).unwrap().merged(&now, &before).unwrap().get(), expected, "{fields:?}");
        }
    }

    #[test]
    fn the_longest_name_that_is_there_or_was_is_meant() {
        let now = raw(r#"{"a":{"b":2,"c.d":{"e":4}},"a.b":1,"x":5}"#);
        let before = raw(r#"{"a":{"b":8,"c.d":{"e":6}},"a.b":9,"x.y":{"z":7}}"#);
        for (fields, expected) in [
            (&["a.b"][..], r#"{"a":{"b":2,"c.d":{"e":4}},"a.b":9,"x":5}"#),
            (&["a.c.d.e"], r#"{"a":{"b":2,"c.d":{"e":6}},"a.b":1,"x":5}"#),
            (&["a"], r#"{"a":{"b":8,"c.d":{"e":6}},"a.b":1,"x":5}"#),
            (&["x.y.z"], r#"{"a":{"b":2,"c.d":{"e":4}},"a.b":1,"x":5,"x.y":{"z":7}}"#),
            (&["a.", ".", ""], now.get()),
        ] {
            assert_eq!(at(fields).unwrap().merged(&now, &before).unwrap().get(), expected, "{fields:?}");
        }
    }

    #[test]
    fn what_is_in_a_list_is_not_given_back_by_itself() {
        let (list, other) = (raw(r#"{"a":{"l":[1,2]}}"#), raw(r#"{"a":{"l":{"0":1}}}"#));
        for (now, before) in [(&list, &list), (&list, &other), (&other, &list)] {
            assert_eq!(at(&["a.l.0"]).unwrap().merged(now, before).unwrap_err(), IN_LIST);
            assert_eq!(at(&["a.l"]).unwrap().merged(now, before).unwrap().get(), before.get());
        }
    }

    #[test]
    fn fields_that_are_deeper_than_anybody_needs_are_none() {
        let path = |depth: usize| vec!["a"; depth].join(".");
        assert!(at(&[&path(DEEPEST)]).is_some());
        assert_eq!(at(&["a", &path(DEEPEST + 1)]), None);
    }
}
