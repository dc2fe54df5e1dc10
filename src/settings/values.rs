//! How the text of a setting is read: numbers, durations, sizes, lists, choices. What has a meaning on the web or in Kinto is
//! in [`meanings`](super::meanings).

use std::{path::PathBuf, str::FromStr, time::Duration};

use http::Method;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::journal_url::JournalUrl;
use super::listen_addr::ListenAddr;
use super::upstream_url::UpstreamUrl;

/// A kind of value: what is expected, and how it is read.
pub(super) struct Kind<T> {
    pub(super) expected: &'static str,
    pub(super) parse: fn(&str) -> Option<T>,
}

impl<T> Kind<T> {
    pub(super) const fn new(expected: &'static str, parse: fn(&str) -> Option<T>) -> Self {
        Self { expected, parse }
    }
}

/// What is read as a kind: one value of it, one or none, or as many as there are.
pub(super) trait Field<T>: Sized {
    /// The field; or the part of the text that is not of the kind.
    fn read<'t>(kind: &Kind<T>, text: &'t str) -> Result<Self, &'t str>;
}

impl<T> Field<T> for T {
    fn read<'t>(kind: &Kind<T>, text: &'t str) -> Result<Self, &'t str> {
        (kind.parse)(text).ok_or(text)
    }
}

impl<T> Field<T> for Option<T> {
    fn read<'t>(kind: &Kind<T>, text: &'t str) -> Result<Self, &'t str> {
        if text.is_empty() { Ok(None) } else { T::read(kind, text).map(Some) }
    }
}

impl<T> Field<T> for Vec<T> {
    fn read<'t>(kind: &Kind<T>, text: &'t str) -> Result<Self, &'t str> {
        text.split_whitespace().map(|item| T::read(kind, item)).collect()
    }
}

pub(super) const TEXT: Kind<String> = Kind::new("text", |text| Some(text.to_owned()));
pub(super) const WORD: Kind<String> = Kind::new("a name without blanks", |text| {
    (!text.contains(|c: char| c.is_whitespace() || c.is_control())).then(|| text.to_owned())
});
pub(super) const PATH: Kind<PathBuf> = Kind::new("a path", |text| Some(text.into()));
pub(super) const BOOLEAN: Kind<bool> = Kind::new("true or false (or yes, no, on, off, 1, 0)", boolean);
pub(super) const COUNT: Kind<u64> = Kind::new("a whole number from 0 to 1000000000", count);
pub(super) const POSITIVE: Kind<usize> = Kind::new("a whole number from 1 to 1000000000", |text| {
    usize::try_from(count(text)?).ok().filter(|number| *number > 0)
});
pub(super) const POSITIVE_COUNT: Kind<u64> =
    Kind::new(POSITIVE.expected, |text| count(text).filter(|number| *number > 0));
pub(super) const THREADS: Kind<usize> = Kind::new("a whole number from 1 to 1024", |text| {
    (POSITIVE.parse)(text).filter(|number| *number <= 1024)
});
pub(super) const INTEGER: Kind<i64> = Kind::new("a whole number of at most 1000000000", |text| {
    text.parse().ok().filter(|number| *number <= i64::try_from(MOST).unwrap_or(i64::MAX))
});
/// Below zero for no bound.
pub(super) const BOUND: Kind<Option<u64>> =
    Kind::new(INTEGER.expected, |text| (INTEGER.parse)(text).map(|number| u64::try_from(number).ok()));
/// Zero for no pages.
pub(super) const PAGE: Kind<Option<u64>> =
    Kind::new(COUNT.expected, |text| count(text).map(|size| Some(size).filter(|size| *size > 0)));
pub(super) const DURATION: Kind<Duration> = Kind::new(
    "a duration such as 500ms, 10s, 5m, 1h, 1d, or a number of seconds, of at most 36500d",
    duration,
);
/// For what would never come about in no time.
pub(super) const PATIENCE: Kind<Duration> = Kind::new(
    "a duration above zero such as 500ms, 10s, 5m, 1h, 1d, or a number of seconds, of at most 36500d",
    |text| duration(text).filter(|duration| !duration.is_zero()),
);
pub(super) const BYTES: Kind<u64> =
    Kind::new("a size such as 256MiB, 1GB, 64k, or a number of bytes, below a million GiB", bytes);
pub(super) const SIZE: Kind<usize> = Kind::new(BYTES.expected, |text| usize::try_from(bytes(text)?).ok());
/// For what has to hold something.
pub(super) const ROOM: Kind<usize> =
    Kind::new("a size such as 256MiB, 1GB, 64k, or a number of bytes, from 1KiB to a million GiB", |text| {
        (SIZE.parse)(text).filter(|size| *size >= 1 << 10)
    });
pub(super) const PERCENT: Kind<f64> = Kind::new("a percentage above 0% and up to 100%, such as 5%", percent);
pub(super) const UPSTREAM: Kind<UpstreamUrl> = Kind::new(UpstreamUrl::EXPECTED, UpstreamUrl::parse);
pub(super) const LISTEN: Kind<ListenAddr> = Kind::new(ListenAddr::EXPECTED, ListenAddr::parse);
pub(super) const JOURNAL: Kind<JournalUrl> = Kind::new(JournalUrl::EXPECTED, JournalUrl::parse);
pub(super) const FILTER: Kind<String> =
    Kind::new("a filter such as info or warn,kinto_sidecar=debug", |text| {
        // A word alone is the name of a program's part for the parser, and would let nothing else through.
        let is_level = |word: &str| LevelFilter::from_str(word).is_ok();
        let is_clear = |part: &str| part.contains(['=', ':']) || is_level(part);
        let mut parts = text.split(',').map(str::trim);
        let is_known = text.contains('[') || parts.all(|part| part.is_empty() || is_clear(part));
        (is_known && EnvFilter::builder().parse(text).is_ok()).then(|| text.to_owned())
    });
pub(super) const PURGE_METHOD: Kind<Method> = Kind::new("PURGE, BAN or POST", |text| match text {
    "PURGE" | "BAN" | "POST" => text.parse().ok(),
    _ => None,
});

/// More than this nobody means.
const MOST: u64 = 1_000_000_000;
/// The same of a duration: what is added to it is still a moment of every clock.
const LONGEST: Duration = Duration::from_secs(36_500 * 86_400);
/// The same of a size.
const LARGEST: u64 = 1_000_000 << 30;

/// A value as Kinto takes it: where the text is JSON it is what that JSON says. `null` is nothing, and a list
/// is written as one item per line.
pub(super) fn native(text: &str) -> String {
    use serde_json::Value;
    match serde_json::from_str(text) {
        Ok(Value::String(text)) => text,
        Ok(Value::Null) => String::new(),
        Ok(Value::Array(items)) => {
            let lines =
                items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned));
            lines.collect::<Vec<_>>().join("\n")
        }
        _ => text.to_owned(),
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_lowercase().as_str() {
        "true" | "yes" | "on" | "y" | "t" | "1" => Some(true),
        "false" | "no" | "off" | "n" | "f" | "0" => Some(false),
        _ => None,
    }
}

fn count(text: &str) -> Option<u64> {
    whole_number(text).filter(|number| *number <= MOST)
}

fn whole_number<T: FromStr>(text: &str) -> Option<T> {
    // `FromStr` would take a leading `+`.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Takes `1.5h` apart into a number, 0 or more, and its unit.
fn number_and_unit(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    Some((number.parse().ok()?, unit.trim_start()))
}

fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = number_and_unit(text)?;
    let unit_seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * unit_seconds).ok().filter(|duration| *duration <= LONGEST)
}

fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(text)?;
    let factor: u64 = match unit.to_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return None,
    };
    let size = match whole_number::<u64>(text.trim_end_matches(|c: char| !c.is_ascii_digit())) {
        Some(whole) => whole.checked_mul(factor),
        None => Duration::try_from_secs_f64(number * f64::from(u32::try_from(factor).ok()?))
            .ok()
            .map(|product| product.as_secs()),
    };
    size.filter(|size| *size <= LARGEST)
}

fn percent(text: &str) -> Option<f64> {
    let (number, unit) = number_and_unit(text)?;
    (unit == "%" && number > 0.0 && number <= 100.0).then_some(number / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_bare_numbers_are_seconds() {
        for (text, milliseconds) in [
            ("500ms", 500),
            ("10s", 10_000),
            ("10", 10_000),
            ("1.5m", 90_000),
            ("1h", 3_600_000),
            ("1 d", 86_400_000),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "-1s", "1x", "1s2", "1.2.3s", "1e400", "99999999999999999999d", "36501d", "1ſ"]
        {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_binary_or_decimal_by_their_unit() {
        for (text, size) in [
            ("64", 64),
            ("64k", 65_536),
            ("256MiB", 268_435_456),
            ("1GB", 1_000_000_000),
            ("1.5KiB", 1_536),
            ("0", 0),
        ] {
            assert_eq!(bytes(text), Some(size), "{text}");
        }
        for text in ["", "MiB", "-1", "1X", "99999999999G", "2000000GiB", "1..5k"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    #[test]
    fn percentages_are_shares_of_one() {
        assert_eq!(percent("100%"), Some(1.0));
        assert_eq!(percent("12.5%"), Some(0.125));
        for text in ["0%", "101%", "5", "%", "-5%"] {
            assert_eq!(percent(text), None, "{text}");
        }
    }

    #[test]
    fn booleans_are_kintos_and_nothing_else() {
        assert!(["true", "Yes", "on", "y", "T", "1"].iter().all(|text| boolean(text) == Some(true)));
        assert!(["false", "No", "off", "n", "F", "0"].iter().all(|text| boolean(text) == Some(false)));
        assert!(["", "maybe", "2"].iter().all(|text| boolean(text).is_none()));
    }

    #[test]
    fn json_is_taken_for_what_it_says() {
        assert_eq!(native("\"quoted\""), "quoted");
        assert_eq!(native("null"), "");
        assert_eq!(native("[\"/buckets/a\", \"/buckets/b\"]"), "/buckets/a\n/buckets/b");
        assert_eq!(native("[::]:8889"), "[::]:8889");
        assert_eq!(native("42"), "42");
    }
}
