//! The last warnings and errors of the log, for those who look at the process and not at its log.

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::kinto::Timestamp;

/// How many are kept, and how long each may be.
const KEPT: usize = 50;
const LONGEST: usize = 500;

static LAST: Mutex<VecDeque<Trouble>> = Mutex::new(VecDeque::new());

/// Something that was told to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// When, in milliseconds since 1970.
    pub time: u64,
    /// Whether it was an error, and no warning.
    pub is_error: bool,
    /// What was told.
    pub words: String,
}

/// Something is told to the log.
pub fn note(is_error: bool, mut words: String) {
    if words.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|end| words.is_char_boundary(*end));
        words.truncate(end.unwrap_or_default());
        words.push('…');
    }
    let time = Timestamp::now().0;
    let mut last = LAST.lock();
    if last.len() == KEPT {
        last.pop_front();
    }
    last.push_back(Trouble { time, is_error, words });
}

/// What was told last, newest first.
pub fn last() -> Vec<Trouble> {
    LAST.lock().iter().rev().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_short_ones_are_kept() {
        for number in 0..100 {
            note(false, format!("{number}{}", "é".repeat(1000)));
        }
        let last = last();
        assert_eq!(last.len(), KEPT);
        // Other tests may log meanwhile.
        assert!(last.iter().any(|last| last.words.starts_with("99é") && last.words.ends_with("é…")));
        assert!(last.iter().all(|trouble| trouble.words.len() <= LONGEST + 3));
    }
}
