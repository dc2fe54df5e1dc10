//! The fields of an object that are given back, where not all are.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// SECURITY: how deep a chosen field may be. What is around it is read once for each level.
pub(super) const DEEPEST: usize = 20;

/// By their names.
type Members<'j> = BTreeMap<String, &'j RawValue>;

/// Fields, each once, whatever the number of those that are chosen in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::endpoints) struct Fields {
    /// Chosen as it is, and not for what is in it.
    is_whole: bool,
    inner: BTreeMap<String, Self>,
}

/// What a member of an object will be.
enum Part<'f, 'j> {
    /// This.
    Whole(&'j RawValue),
    /// An object with some of its fields as they were.
    Merged { fields: &'f Fields, now: &'j RawValue, before: Option<&'j RawValue> },
}

impl Fields {
    /// Those at these paths (`a.b`); `None` where one is too deep.
    pub(super) fn at(paths: &[String]) -> Option<Self> {
        let mut all = Self::default();
        for path in paths {
            let mut field = &mut all;
            for (depth, name) in path.split('.').enumerate() {
                if depth == DEEPEST {
                    return None;
                }
                field = field.inner.entry(name.to_owned()).or_default();
            }
            field.is_whole = true;
        }
        Some(all)
    }

    /// An object with these fields as they were, and all others as they are.
    pub(super) fn merged(&self, now: &RawValue, before: &RawValue) -> Option<Box<RawValue>> {
        let mut json = String::with_capacity(now.get().len());
        self.write(now, Some(before), &mut json)?;
        RawValue::from_string(json).ok()
    }

    fn write(&self, now: &RawValue, before: Option<&RawValue>, json: &mut String) -> Option<()> {
        let before = before.and_then(members).unwrap_or_default();
        let mut parts: BTreeMap<String, Part<'_, '_>> =
            members(now)?.into_iter().map(|(name, member)| (name, Part::Whole(member))).collect();
        for (name, fields) in &self.inner {
            let was = before.get(name).copied();
            match (parts.get_mut(name), was) {
                (Some(Part::Whole(now)), was)
                    if !fields.is_whole && is_object(now) && was.is_none_or(is_object) =>
                {
                    let now = *now;
                    parts.insert(name.clone(), Part::Merged { fields, now, before: was });
                }
                // A field within what was no object, or is none, is no field by itself.
                (_, Some(was)) => _ = parts.insert(name.clone(), Part::Whole(was)),
                (_, None) => _ = parts.remove(name),
            }
        }
        json.push('{');
        for (number, (name, part)) in parts.into_iter().enumerate() {
            if number > 0 {
                json.push(',');
            }
            json.push_str(&serde_json::to_string(&name).ok()?);
            json.push(':');
            match part {
                Part::Whole(member) => json.push_str(member.get()),
                Part::Merged { fields, now, before } => fields.write(now, before, json)?,
            }
        }
        json.push('}');
        Some(())
    }
}

/// The members of an object; `None` where it is none.
pub(super) fn members(json: &RawValue) -> Option<Members<'_>> {
    serde_json::from_str(json.get()).ok()
}

fn is_object(json: &RawValue) -> bool {
    json.get().starts_with('{')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn at(paths: &[&str]) -> Option<Fields> {
        Fields::at(&paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>())
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
    fn fields_that_are_deeper_than_anybody_needs_are_none() {
        let path = |depth: usize| vec!["a"; depth].join(".");
        assert!(at(&[&path(DEEPEST)]).is_some());
        assert_eq!(at(&["a", &path(DEEPEST + 1)]), None);
    }
}
