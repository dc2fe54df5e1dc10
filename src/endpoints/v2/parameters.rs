//! The parameters of both changesets, read and refused as `FastAPI` and `Pydantic` do it for `git-reader`.

use std::cmp::Ordering;

use super::refusal::{Fault, V2Refusal};
use crate::endpoints::changeset_params::ChangesetParams;
use crate::kinto::Timestamp;

/// Python reads no integer of more digits than this.
const MOST_DIGITS: usize = 4300;

const MISSING: &str = "Field required";
const NO_INTEGER: &str = "Input should be a valid integer, unable to parse string as an integer";
const TOO_LONG: &str = "Unable to parse input string as an integer, exceeded maximum size";
const NEGATIVE: &str = "Input should be greater than or equal to 0";

/// An integer of any size, 0 or more: its digits, without zeros in front.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Natural(String);

/// Reads a request's query. The last of several values counts.
pub(super) fn read(query: Option<&str>) -> Result<ChangesetParams, V2Refusal> {
    let (mut expected, mut since, mut bucket, mut collection) = (None, None, None, None);
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        let place = match &*name {
            "_expected" => &mut expected,
            "_since" => &mut since,
            "bucket" => &mut bucket,
            "collection" => &mut collection,
            _ => continue,
        };
        *place = Some(value.into_owned());
    }
    let expected = expected.ok_or_else(|| Fault::new("missing", "_expected", MISSING, None));
    let expected = expected.and_then(|text| Natural::read("_expected", &text));
    let since = since.map(|text| Natural::read("_since", &text)).transpose();
    let (expected, since) = match (expected, since) {
        (Ok(expected), Ok(since)) => (expected, since),
        (expected, since) => {
            return Err(V2Refusal::Invalid(expected.err().into_iter().chain(since.err()).collect()));
        }
    };
    if let Some(since) = &since
        && !since.is_zero()
        && !expected.is_zero()
        && expected.cmp(since) == Ordering::Less
    {
        return Err(V2Refusal::Superseded);
    }
    let since = since.map(|since| since.timestamp());
    Ok(ChangesetParams { expected: expected.0, since, limit: None, bucket, collection })
}

impl Natural {
    /// Reads a text: white space around it, a sign, single underscores between digits and zeros behind a point are taken.
    fn read(name: &'static str, text: &str) -> Result<Self, Fault> {
        let fault = |kind, msg| Err(Fault::new(kind, name, msg, Some(text)));
        // Pydantic: the text is first read as JSON has integers, which ends with a digit too many. What comes of that is the
        // only word of it; from then on it is an integer or none.
        let plain = text.strip_prefix('-').unwrap_or(text);
        let run = plain.bytes().take_while(u8::is_ascii_digit).count();
        if run > MOST_DIGITS && !plain.starts_with('0') {
            return fault("int_parsing_size", TOO_LONG);
        }
        let trimmed = text.trim();
        let (is_negative, unsigned) = match trimmed.strip_prefix('-') {
            Some(unsigned) => (true, unsigned),
            None => (false, trimmed.strip_prefix('+').unwrap_or(trimmed)),
        };
        let whole = match unsigned.split_once('.') {
            Some((whole, zeros)) if !zeros.is_empty() && zeros.bytes().all(|zero| zero == b'0') => whole,
            Some(_) => return fault("int_parsing", NO_INTEGER),
            None => unsigned,
        };
        // Pydantic skips what a number begins with, underscores and all.
        let whole = match whole.strip_prefix('0').map(|rest| rest.trim_start_matches(['0', '_'])) {
            None => whole,
            Some("") if whole.ends_with('0') => "0",
            Some(rest) => rest,
        };
        let is_group = |group: &str| !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_digit());
        if !whole.split('_').all(is_group) {
            return fault("int_parsing", NO_INTEGER);
        }
        let digits = whole.replace('_', "");
        let digits = digits.trim_start_matches('0');
        if digits.len() > MOST_DIGITS {
            return fault("int_parsing", NO_INTEGER);
        }
        match digits {
            "" => Ok(Self("0".to_owned())),
            _ if is_negative => fault("greater_than_equal", NEGATIVE),
            digits => Ok(Self(digits.to_owned())),
        }
    }

    fn is_zero(&self) -> bool {
        self.0 == "0"
    }

    fn cmp(&self, other: &Self) -> Ordering {
        self.0.len().cmp(&other.0.len()).then_with(|| self.0.cmp(&other.0))
    }

    fn timestamp(&self) -> Timestamp {
        Timestamp(self.0.parse().unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(query: &str) -> String {
        let params = read(Some(query)).unwrap();
        format!("{} {:?}", params.expected, params.since.map(|since| since.0))
    }

    #[test]
    fn integers_are_taken_as_pydantic_takes_them() {
        for (text, digits) in [
            ("1.0", "1"),
            ("1.00", "1"),
            ("%2B5", "5"),
            ("+%205", "5"),
            ("1_000", "1000"),
            ("1_000.0", "1000"),
            ("-0_0", "0"),
            ("-0.0", "0"),
            ("00012", "12"),
            ("0__70", "70"),
            ("00_1_2", "12"),
            ("-0__0", "0"),
            ("09999", "9999"),
            ("%20%2012%0A", "12"),
            ("%C2%A012%E2%80%A8", "12"),
            ("x&_expected=7", "7"),
        ] {
            assert_eq!(taken(&format!("_expected={text}")), format!("{digits} None"), "{text}");
        }
        let huge = format!("_expected=0&_since=0{}", "9".repeat(4300));
        assert_eq!(taken(&huge), format!("0 {:?}", Some(u64::MAX)), "any size is taken");
    }
}
