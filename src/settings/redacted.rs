//! What of a setting is shown to whoever looks at settings, complaints and logs: nothing that lets anybody in.

use std::borrow::Cow;

const HIDDEN: &str = "…";

/// A text that its setting takes.
pub(super) fn shown(text: &str, is_secret: bool) -> Cow<'_, str> {
    match text {
        "" => "".into(),
        _ if is_secret => HIDDEN.into(),
        address if address.contains("://") => of_address(address),
        // A user id may well have an `@`.
        other => other.into(),
    }
}

/// A text that its setting does not take, and that may be an address all the same.
pub(super) fn complained_of(text: &str, is_secret: bool) -> String {
    // A secret that cannot be read is still a secret.
    if is_secret { HIDDEN.to_owned() } else { format!("{:?}", of_address(text)) }
}

/// Of an address, what stands before an `@` and behind a `?` is hidden: a password, or a key.
fn of_address(text: &str) -> Cow<'_, str> {
    let is_web = text.starts_with("http://") || text.starts_with("https://");
    let (address, query) = match text.split_once('?').filter(|_| is_web) {
        Some((address, _)) => (address, "?…"),
        None => (text, ""),
    };
    let (before, host) = match address.rsplit_once('@') {
        Some((before, host)) => {
            let scheme = before.find("://").and_then(|at| before.get(..at + 3)).unwrap_or_default();
            (format!("{scheme}{HIDDEN}@"), host)
        }
        None if query.is_empty() => return text.into(),
        None => (String::new(), address),
    };
    format!("{before}{host}{query}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_what_lets_somebody_in() {
        for (text, expected) in [
            ("", ""),
            ("7s", "7s"),
            ("http://h/purge", "http://h/purge"),
            ("http://h/purge?key=hush", "http://h/purge?…"),
            ("https://me:hush@h/purge?key=hush@h", "https://…@h/purge?…"),
            ("http://h/?key=http://me@h", "http://h/?…"),
            ("me:hu@sh@h/v1", "…@h/v1"),
            ("sqlite:a?b.db", "sqlite:a?b.db"),
        ] {
            assert_eq!(of_address(text), expected);
        }
        assert_eq!(shown("http://h/purge?key=hush", false), "http://h/purge?…");
        assert_eq!(shown("account:me@h", false), "account:me@h");
        assert_eq!((shown("hush", true), shown("", true)), ("…".into(), "".into()));
    }
}
