//! What makes the URL of a shared long poll another one each time that it was answered with nothing, and the same for all who
//! wait at one seq: the number of the present interval.

use crate::kinto::Timestamp;

/// As long as such a poll waits, in milliseconds: those who came at different moments have one URL after the next answer.
const INTERVAL: u64 = 20_000;

/// What JavaScript's numbers do not tell from its neighbours.
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
