//! The cursor in the URL of a long poll that many share: the number of the present interval. After an answer without rows the
//! next URL has another cursor, and it is the same one for all who wait at one seq.

use crate::kinto::Timestamp;

/// An interval is as long as such a poll waits, in milliseconds. So those who came at different moments have the same URL from
/// the next answer on.
const INTERVAL: u64 = 20_000;

/// From here on JavaScript takes neighbouring numbers for one.
const INEXACT: u64 = 1 << 53;

/// The cursor after this one.
pub(super) fn next(asked: u64, now: Timestamp) -> u64 {
    let present = now.0 / INTERVAL;
    // Clocks of several sidecars differ.
    if asked < present || asked >= INEXACT { present } else { asked + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cursor_is_followed_by_itself() {
        let now = Timestamp(INTERVAL * 50 + 7);
        for (asked, expected) in [(0, 50), (49, 50), (50, 51), (1000, 1001), (u64::MAX, 50)] {
            assert_eq!(next(asked, now), expected);
        }
    }
}
