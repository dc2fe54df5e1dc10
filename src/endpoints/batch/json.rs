//! The JSON of a batch, one level at a time and no more of it than is taken: how deep a body nests does not matter.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// SECURITY: more requests than Kinto takes in any batch that somebody means.
pub(super) const MOST_REQUESTS: usize = 5_000;
/// SECURITY: more members than stand in anything here that Kinto takes.
const MOST_MEMBERS: usize = 100;
/// Longer data are not put together here.
const LONGEST_MERGED: usize = 1 << 20;

/// The requests of a batch, and no more of them than one too many.
#[derive(Deserialize, Default)]
pub(super) struct Requests<'a>(#[serde(borrow, deserialize_with = "bounded")] pub(super) Vec<&'a RawValue>);

/// What stands directly in an object.
pub(super) type Members<'a> = BTreeMap<String, &'a RawValue>;

/// What stands in an object; `None` where it is none, or holds more than is looked at.
pub(super) fn members(raw: &RawValue) -> Option<Members<'_>> {
    struct Object;

    impl<'de> Visitor<'de> for Object {
        type Value = Option<Members<'de>>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
            let mut read = Members::new();
            while let Some((name, value)) = members.next_entry()? {
                read.insert(name, value);
                if read.len() > MOST_MEMBERS {
                    while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                    return Ok(None);
                }
            }
            Ok(Some(read))
        }
    }

    serde_json::Deserializer::from_str(raw.get()).deserialize_map(Object).ok()?
}

pub(super) fn text(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

/// What Python takes for false.
pub(super) fn is_empty(raw: &RawValue) -> bool {
    let raw = raw.get();
    let is_bare = |open: char, close: char| {
        raw.strip_prefix(open)
            .and_then(|raw| raw.strip_suffix(close))
            .is_some_and(|raw| raw.trim().is_empty())
    };
    let is_zero = raw.parse::<f64>().is_ok_and(|number| number == 0.0);
    matches!(raw, "null" | "false" | "\"\"") || is_zero || is_bare('[', ']') || is_bare('{', '}')
}

/// The `data` that is sent: the default fills what is missing in it.
pub(super) fn sent(body: Option<&RawValue>, default: Option<&RawValue>) -> Option<Box<RawValue>> {
    let data = |body: Option<&RawValue>| members(body?)?.get("data").map(|data| (*data).to_owned());
    let (own, default) = (data(body), data(default));
    match (&own, &default) {
        (Some(own), Some(default)) if default.get().starts_with('{') => {
            if own.get().len() + default.get().len() > LONGEST_MERGED {
                return None;
            }
            let mut merged: BTreeMap<String, Box<RawValue>> = serde_json::from_str(default.get()).ok()?;
            let own: BTreeMap<String, Box<RawValue>> = serde_json::from_str(own.get()).ok()?;
            let both_nest = own.iter().any(|(name, own)| {
                own.get().starts_with('{')
                    && merged.get(name).is_some_and(|default| default.get().starts_with('{'))
            });
            merged.extend(own);
            // What they make together is seen in the answer.
            if both_nest { None } else { serde_json::value::to_raw_value(&merged).ok() }
        }
        _ => own.or(default),
    }
}

fn bounded<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<&'a RawValue>, D::Error> {
    struct List;

    impl<'de> Visitor<'de> for List {
        type Value = Vec<&'de RawValue>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut requests = Vec::new();
            while requests.len() <= MOST_REQUESTS
                && let Some(request) = items.next_element()?
            {
                requests.push(request);
            }
            while items.next_element::<IgnoredAny>()?.is_some() {}
            Ok(requests)
        }
    }

    deserializer.deserialize_seq(List)
}
