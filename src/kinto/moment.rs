//! Moments as people write them: a timestamp in milliseconds, between quotes or not, or a date of RFC 3339.

use super::{Timestamp, unquoted};

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// Reads a moment; of a date what is smaller than a millisecond is left out. `None` for what is none, or before 1970.
pub fn moment(text: &str) -> Option<Timestamp> {
    let text = unquoted(text).unwrap_or(text);
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Timestamp(text.parse().unwrap_or(u64::MAX)));
    }
    date(text).and_then(|date| u64::try_from(date).ok()).map(Timestamp)
}

/// Milliseconds since 1970.
fn date(text: &str) -> Option<i64> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    // In a query, a `+` that is not escaped is read as a space.
    let at = time.find(['Z', 'z', '+', '-', ' '])?;
    let (time, offset) = time.split_at_checked(at)?;
    let (time, fraction) = match time.split_once('.') {
        Some((time, fraction)) => (time, milliseconds(fraction)?),
        None => (time, 0),
    };
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    // A leap second is the first of the next minute.
    let fits = (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day)
        && (hour, minute, second) <= (23, 59, 60)
        && minute <= 59
        && second <= 60;
    let moment = days(year, month, day) * DAY + hour * HOUR + minute * MINUTE + second * SECOND + fraction;
    fits.then_some(moment)?.checked_sub(offset_of(offset)?)
}

/// How far a clock is ahead of that of UTC.
fn offset_of(text: &str) -> Option<i64> {
    let sign = match text.as_bytes().first()? {
        b'Z' | b'z' => return (text.len() == 1).then_some(0),
        b'-' => -1,
        _ => 1,
    };
    let [hours, minutes] = numbers(text.get(1..)?, ':', [2, 2])?;
    (hours <= 23 && minutes <= 59).then_some(sign * (hours * HOUR + minutes * MINUTE))
}

fn milliseconds(fraction: &str) -> Option<i64> {
    let is_number = !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let digits: String = fraction.chars().chain("00".chars()).take(3).collect();
    digits.parse().ok().filter(|_| is_number)
}

/// Numbers of so many digits each.
fn numbers<const N: usize>(text: &str, separator: char, digits: [usize; N]) -> Option<[i64; N]> {
    let (mut read, mut parts) = ([0; N], text.split(separator));
    for (number, digits) in read.iter_mut().zip(digits) {
        let part = parts.next()?;
        let is_number = part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit());
        *number = part.parse().ok().filter(|_| is_number)?;
    }
    parts.next().is_none().then_some(read)
}

fn days_of(year: i64, month: i64) -> i64 {
    let (next_year, next) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    days(next_year, next, 1) - days(year, month, 1)
}

/// Days since 1970-01-01 in the Gregorian calendar: years are counted from March on, so that a leap day comes last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    365 * year + leap_days + (153 * month + 2) / 5 + day - 719_469
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_timestamps_or_dates() {
        for (text, moment) in [
            ("0", 0),
            ("1700000000123", 1_700_000_000_123),
            ("\"1700000000123\"", 1_700_000_000_123),
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:34:56.789Z", 951_827_696_789),
            ("2023-11-14T22:13:20.1239Z", 1_700_000_000_123),
            ("2023-11-14T23:13:20.5+01:00", 1_700_000_000_500),
            ("2023-11-14t17:43:20-04:30", 1_700_000_000_000),
            ("2023-11-14T23:13:20 01:00", 1_700_000_000_000),
            ("2024-12-31T23:59:60Z", 1_735_689_600_000),
            ("2026-11-27 02:00:00z", 1_795_744_800_000),
        ] {
            assert_eq!(super::moment(text), Some(Timestamp(moment)), "{text}");
        }
    }

    #[test]
    fn what_is_no_moment_is_none() {
        for text in [
            "", "\"\"", "now", "-1", "1.5", "12x", "2023-02-29T00:00:00Z", "2023-11-14",
            "2023-11-14T22:13:20", "2023-11-14T24:00:00Z", "2023-11-14T22:60:00Z", "2023-11-14T22:13:20.Z",
            "2023-13-01T00:00:00Z", "1969-12-31T23:59:59Z", "2023-11-14T22:13:20+1:00",
            "2023-11-14T22:13:20 ", "2023-11-14T22:13:20 Z", "2023-11-14T22:13:20Zx", "+023-11-14T22:13:20Z",
        ] {
            assert_eq!(moment(text), None, "{text}");
        }
    }
}
