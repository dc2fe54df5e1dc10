//! Numbers read, and values shown in error messages, the way Python does it for Kinto.

use std::fmt::Write;

use serde_json::Value;

/// Python refuses to read integers of more digits than this.
const MOST_DIGITS: usize = 4300;

/// An integer of any size, as `int()` reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Integer {
    /// The number, moved to the nearest that fits.
    pub(crate) value: i128,
    /// The number in full.
    pub(crate) digits: String,
}

impl Integer {
    /// Reads text: surrounding white space, a sign, and single underscores between digits are accepted.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (negative, digits) = match text.as_bytes().first()? {
            b'-' => (true, text.get(1..)?),
            b'+' => (false, text.get(1..)?),
            _ => (false, text),
        };
        let separated =
            digits.split('_').all(|group| !group.is_empty() && group.bytes().all(|b| b.is_ascii_digit()));
        let digits: String = digits.chars().filter(|c| *c != '_').collect();
        if !separated || digits.len() > MOST_DIGITS {
            return None;
        }
        let magnitude = digits.trim_start_matches('0');
        let magnitude = if magnitude.is_empty() { "0" } else { magnitude };
        let sign = if negative && magnitude != "0" { "-" } else { "" };
        let digits = format!("{sign}{magnitude}");
        let value = digits.parse().unwrap_or(if negative { i128::MIN } else { i128::MAX });
        Some(Self { value, digits })
    }

    /// The integer part of a number.
    pub(crate) fn truncate(number: &serde_json::Number) -> Option<Self> {
        if let Some(value) = number.as_i128() {
            return Some(Self { value, digits: value.to_string() });
        }
        let float = number.as_f64()?.trunc();
        Self::parse(&format!("{:.0}", float + 0.0))
    }
}

/// The number, if it is one that Kinto takes for a timestamp or a count: 0 to 2^63; else Kinto's complaint.
pub(crate) fn within_range(integer: &Integer) -> Result<u64, String> {
    const MOST: u64 = 1 << 63;
    match u64::try_from(integer.value) {
        Ok(value) if value <= MOST => Ok(value),
        Err(_) if integer.value < 0 => Err(format!("{} is less than minimum value 0", integer.digits)),
        _ => Err(format!("{} is greater than maximum value {MOST}", integer.digits)),
    }
}

/// A value as Python's `str()` shows it.
pub(crate) fn display(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => repr(other),
    }
}

/// A value as Python's `repr()` shows it.
pub(crate) fn repr(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => repr_text(text),
        Value::Array(items) => format!("[{}]", items.iter().map(repr).collect::<Vec<_>>().join(", ")),
        Value::Object(members) => {
            let members = members.iter().map(|(name, value)| format!("{}: {}", repr_text(name), repr(value)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
        }
    }
}

/// A list of texts as Python's `repr()` shows it.
pub(crate) fn repr_list(items: &[String]) -> String {
    format!("[{}]", items.iter().map(|item| repr_text(item)).collect::<Vec<_>>().join(", "))
}

fn repr_text(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut shown = String::with_capacity(text.len() + 2);
    shown.push(quote);
    for character in text.chars() {
        match character {
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            '\\' => shown.push_str("\\\\"),
            c if c == quote => shown.extend(['\\', c]),
            c if c.is_ascii_control() => {
                // Writing to a String cannot fail.
                let _ = write!(shown, "\\x{:02x}", u32::from(c));
            }
            c => shown.push(c),
        }
    }
    shown.push(quote);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn integers_are_read_as_python_reads_them() {
        for (text, value) in
            [("1", 1), (" 12\n", 12), ("+2", 2), ("1_000", 1000), ("-0", 0), ("007", 7), ("-5", -5)]
        {
            assert_eq!(Integer::parse(text).map(|i| i.value), Some(value), "{text}");
        }
        for text in ["", " ", "-", "1.5", "1__0", "_1", "0x1", "1e3", "- 1", "٣x"] {
            assert_eq!(Integer::parse(text), None, "{text}");
        }
        let huge = "9".repeat(60);
        assert_eq!(Integer::parse(&huge).map(|i| (i.value, i.digits)), Some((i128::MAX, huge)));
    }

    #[test]
    fn floats_lose_their_fraction() {
        let truncate = |value: Value| Integer::truncate(value.as_number().unwrap()).unwrap().digits;
        assert_eq!(truncate(json!(1.7)), "1");
        assert_eq!(truncate(json!(-1.7)), "-1");
        assert_eq!(truncate(json!(-0.2)), "0");
        assert_eq!(truncate(json!(1e22)), "10000000000000000000000");
        assert_eq!(truncate(json!(u64::MAX)), "18446744073709551615");
    }

    #[test]
    fn values_are_shown_as_python_shows_them() {
        assert_eq!(
            repr(&json!(["a", "it's", null, true, {"k": 1.5}])),
            "['a', \"it's\", None, True, {'k': 1.5}]"
        );
        assert_eq!(repr_list(&["\"1\"".into(), "b\0".into()]), "['\"1\"', 'b\\x00']");
    }
}
