//! The queries that most clients send, read without the whole list language.

use crate::endpoints::changeset_params::timestamp;
use crate::kinto::Timestamp;
use crate::query::pairs;

/// The query of a request that wants rows as they are rendered.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plain<'q> {
    pub(super) since: Option<Timestamp>,
    pub(super) expected: Option<&'q str>,
}

impl<'q> Plain<'q> {
    /// Reads a query without decoding it; `None` where it asks for more than a plain list, or is not quite right.
    pub(super) fn read(query: Option<&'q str>, now: Timestamp) -> Option<Self> {
        let mut plain = Self::default();
        for (name, value) in pairs(query.unwrap_or_default()) {
            match name {
                "_since" if plain.since.is_none() => {
                    let quoted = value.strip_prefix("%22").and_then(|value| value.strip_suffix("%22"));
                    let since = timestamp(quoted.unwrap_or(value))?;
                    plain.since = Some(since).filter(|since| since.is_near(now));
                    plain.since?;
                }
                "_expected" if plain.expected.is_none() && !value.contains(['%', '+']) => {
                    plain.expected = Some(value);
                }
                "_sort" if value == "-last_modified" => {}
                _ => return None,
            }
        }
        Some(plain)
    }
}
