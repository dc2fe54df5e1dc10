//! The parameters of every changeset, monitor's included, in both compatibility modes.
//!
//! Follows `ChangeSetQuerystring` of kinto-changes 4.1.2 and of its later life in remote-settings. Unknown parameters
//! are ignored.

use crate::kinto::{Timestamp, python, unquoted};
use crate::query::{Fault, Invalid, Parameters};
use crate::settings::Compat;

/// remote-settings refuses a `_since` from 2100 on.
const YEAR_2100: u64 = 4_102_444_800_000;
const NOT_QUOTED: &str = "The value should be integer between double quotes.";

/// What a changeset is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangesetParams {
    /// `_expected`, as it came once decoded: any text but the empty one.
    pub expected: String,
    /// `_since`: only what is newer.
    pub since: Option<Timestamp>,
    /// `_limit`: the most changes; `None` for all of them.
    pub limit: Option<u64>,
    /// `bucket`, which only monitor/changes heeds.
    pub bucket: Option<String>,
    /// `collection`, which only monitor/changes heeds.
    pub collection: Option<String>,
}

impl ChangesetParams {
    /// Reads a request's query.
    pub fn parse(query: Option<&str>, compat: Compat) -> Result<Self, Invalid> {
        let parameters = Parameters::parse(query)?;
        let mut faults = Vec::new();
        let mut text = |name| match text(&parameters, name) {
            Ok(value) => value,
            Err(fault) => {
                faults.push(fault);
                None
            }
        };
        let (since, expected) = (text("_since"), text("_expected"));
        let (bucket, collection) = (text("bucket"), text("collection"));
        if expected.is_none() && !faults.iter().any(|fault| fault.name.as_deref() == Some("_expected")) {
            faults.push(Fault::query("_expected", "Required"));
        }
        let since = since.and_then(|since| match read_since(since, compat) {
            Ok(since) => Some(since),
            Err(description) => {
                faults.push(Fault::query("_since", description));
                None
            }
        });
        let limit = read_limit(&parameters).unwrap_or_else(|description| {
            faults.push(Fault::query("_limit", description));
            None
        });
        if !faults.is_empty() {
            return Err(Invalid::faults(faults));
        }
        let owned = |value: Option<&str>| value.map(str::to_owned);
        Ok(Self {
            expected: expected.unwrap_or_default().to_owned(),
            since,
            limit,
            bucket: owned(bucket),
            collection: owned(collection),
        })
    }

    /// How many changes to give at most, where an operator's `paginate_by` bounds what was asked for.
    pub fn limit_within(&self, paginate_by: Option<u64>) -> Option<u64> {
        let limit = self.limit?;
        Some(paginate_by.filter(|bound| *bound > 0).map_or(limit, |bound| bound.min(limit)))
    }
}

/// Digits, between double quotes or not, as a timestamp.
pub(crate) fn timestamp(text: &str) -> Option<Timestamp> {
    Timestamp::from_digits(unquoted(text).unwrap_or(text))
}

/// A parameter that is a text; an empty one counts as none.
fn text<'a>(parameters: &'a Parameters, name: &str) -> Result<Option<&'a str>, Fault> {
    match parameters.values(name) {
        None => Ok(None),
        Some([value]) => Ok(Some(value.as_str()).filter(|value| !value.is_empty())),
        Some(values) => Err(Fault::query(
            name,
            format!("{} is not a string: {{'{name}': ''}}", python::repr_list(values)),
        )),
    }
}

fn read_since(text: &str, compat: Compat) -> Result<Timestamp, String> {
    let digits = match (unquoted(text), compat) {
        (Some(digits), _) => digits,
        (None, Compat::RemoteSettings) => text,
        (None, Compat::KintoChanges) => return Err(NOT_QUOTED.to_owned()),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NOT_QUOTED.to_owned());
    }
    let since = digits.parse().unwrap_or(u64::MAX);
    match compat {
        Compat::RemoteSettings if since > YEAR_2100 => {
            Err(format!("{digits} is greater than maximum value {YEAR_2100}"))
        }
        _ => Ok(Timestamp(since)),
    }
}

fn read_limit(parameters: &Parameters) -> Result<Option<u64>, String> {
    let text = match parameters.values("_limit") {
        None => return Ok(None),
        Some([text]) if text.is_empty() => return Ok(None),
        Some([text]) => text,
        Some(texts) => return Err(format!("\"{}\" is not a number", python::repr_list(texts))),
    };
    let Some(limit) = python::Integer::parse(text) else {
        return Err(format!("\"{text}\" is not a number"));
    };
    let limit = python::within_range(&limit)?;
    Ok(Some(limit).filter(|limit| *limit > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str, compat: Compat) -> Result<ChangesetParams, String> {
        ChangesetParams::parse(Some(query), compat).map_err(|invalid| invalid.message())
    }

    #[test]
    fn an_expected_timestamp_may_stand_between_quotes() {
        let expected = |query| timestamp(&parse(query, Compat::KintoChanges).unwrap().expected);
        assert_eq!(expected("_expected=%22123%22"), Some(Timestamp(123)));
        assert_eq!(expected("_expected=%22123"), None);
        assert_eq!(expected("_expected=99999999999999999999999999"), None);
    }

    #[test]
    fn since_of_remote_settings_needs_no_quotes_and_ends_in_2100() {
        let since = |text: &str| parse(&format!("_expected=1&_since={text}"), Compat::RemoteSettings);
        assert_eq!(since("12").unwrap().since, Some(Timestamp(12)));
        assert_eq!(since("%224102444800000%22").unwrap().since, Some(Timestamp(YEAR_2100)));
        assert!(since("4102444800001").is_err());
        assert!(since("12%0A").is_err());
        assert!(since("%2212").is_err());
    }

    #[test]
    fn a_limit_is_bounded_by_the_operators() {
        let params = parse("_expected=1&_limit=5", Compat::KintoChanges).unwrap();
        assert_eq!(
            [Some(2), Some(0), None].map(|bound| params.limit_within(bound)),
            [Some(2), Some(5), Some(5)]
        );
    }
}
