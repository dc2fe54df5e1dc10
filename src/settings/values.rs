//! How the text of a setting is read: numbers, durations, sizes, lists, choices.

use std::{path::PathBuf, str::FromStr, time::Duration};

use http::{Method, Uri};
use ipnet::IpNet;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::journal_url::JournalUrl;
use super::listen_addr::ListenAddr;
use super::upstream_url::UpstreamUrl;
use crate::kinto::Resource;

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
pub(super) const NAME: Kind<String> =
    Kind::new("an id as Kinto has them", |text| crate::kinto::is_segment(text).then(|| text.to_owned()));
pub(super) const PATH: Kind<PathBuf> = Kind::new("a path", |text| Some(text.into()));
pub(super) const BOOLEAN: Kind<bool> = Kind::new("true or false (or yes, no, on, off, 1, 0)", boolean);
pub(super) const COUNT: Kind<u64> = Kind::new("a whole number, 0 or more", whole_number);
pub(super) const POSITIVE: Kind<usize> =
    Kind::new("a whole number, 1 or more", |text| whole_number(text).filter(|number| *number > 0));
pub(super) const POSITIVE_COUNT: Kind<u64> =
    Kind::new("a whole number, 1 or more", |text| whole_number(text).filter(|number| *number > 0));
pub(super) const INTEGER: Kind<i64> = Kind::new("a whole number", |text| text.parse().ok());
/// Below zero for no bound.
pub(super) const BOUND: Kind<Option<u64>> =
    Kind::new(INTEGER.expected, |text| (INTEGER.parse)(text).map(|number| u64::try_from(number).ok()));
/// Zero for no pages.
pub(super) const PAGE: Kind<Option<u64>> =
    Kind::new(COUNT.expected, |text| whole_number(text).map(|size| Some(size).filter(|size| *size > 0)));
pub(super) const DURATION: Kind<Duration> =
    Kind::new("a duration such as 500ms, 10s, 5m, 1h, 1d, or a number of seconds", duration);
pub(super) const BYTES: Kind<u64> = Kind::new("a size such as 256MiB, 1GB, 64k, or a number of bytes", bytes);
pub(super) const SIZE: Kind<usize> = Kind::new(BYTES.expected, |text| usize::try_from(bytes(text)?).ok());
pub(super) const PERCENT: Kind<f64> = Kind::new("a percentage above 0% and up to 100%, such as 5%", percent);
pub(super) const UPSTREAM: Kind<UpstreamUrl> = Kind::new(UpstreamUrl::EXPECTED, UpstreamUrl::parse);
pub(super) const LISTEN: Kind<ListenAddr> = Kind::new(ListenAddr::EXPECTED, ListenAddr::parse);
pub(super) const JOURNAL: Kind<JournalUrl> = Kind::new(JournalUrl::EXPECTED, JournalUrl::parse);
pub(super) const HTTP_URL: Kind<Uri> = Kind::new("an http:// or https:// URL", http_url);
pub(super) const FILTER: Kind<String> =
    Kind::new("a filter such as info or warn,kinto_sidecar=debug", |text| {
        // A word alone is the name of a program's part for the parser, and would let nothing else through.
        let is_level = |word: &str| LevelFilter::from_str(word).is_ok();
        let is_clear = |part: &str| part.contains(['=', ':']) || is_level(part);
        let mut parts = text.split(',').map(str::trim);
        let is_known = text.contains('[') || parts.all(|part| part.is_empty() || is_clear(part));
        (is_known && EnvFilter::builder().parse(text).is_ok()).then(|| text.to_owned())
    });
pub(super) const NETWORK: Kind<IpNet> = Kind::new("addresses or networks such as 10.0.0.0/8 ::1", |text| {
    text.parse().ok().or_else(|| text.parse::<std::net::IpAddr>().map(IpNet::from).ok())
});
pub(super) const MONITORED: Kind<String> =
    Kind::new("URIs such as /buckets/main or /buckets/main/collections/articles", |text| {
        matches!(Resource::of(text), Resource::Bucket(_) | Resource::Collection(..)).then(|| text.to_owned())
    });
pub(super) const RESOURCE: Kind<String> =
    Kind::new("URIs such as /buckets/main/collections/articles", |text| {
        (Resource::of(text) != Resource::Other).then(|| text.to_owned())
    });

pub(super) const PURGE_METHOD: Kind<Method> = Kind::new("PURGE, BAN or POST", |text| match text {
    "PURGE" | "BAN" | "POST" => text.parse().ok(),
    _ => None,
});

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
    Duration::try_from_secs_f64(number * unit_seconds).ok()
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
    match whole_number::<u64>(text.trim_end_matches(|c: char| !c.is_ascii_digit())) {
        Some(whole) => whole.checked_mul(factor),
        None => Duration::try_from_secs_f64(number * f64::from(u32::try_from(factor).ok()?))
            .ok()
            .map(|product| product.as_secs()),
    }
}

fn percent(text: &str) -> Option<f64> {
    let (number, unit) = number_and_unit(text)?;
    (unit == "%" && number > 0.0 && number <= 100.0).then_some(number / 100.0)
}

fn http_url(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    // SECURITY: credentials in it would end up in logs.
    let is_plain = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    (is_http && is_plain).then_some(uri)
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
        for text in ["", "s", "-1s", "1x", "1s2", "1.2.3s", "1e400", "99999999999999999999d", "1ſ"] {
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
        for text in ["", "MiB", "-1", "1X", "99999999999G", "1..5k"] {
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
