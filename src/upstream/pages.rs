//! Following `Next-Page`, which must not lead on for ever.
//!
//! Each page of a list begins with another row than those before. A page that was there already, whatever its address is,
//! a page of nothing that leads on, and more than any list takes are not followed.

use std::hash::{DefaultHasher, Hash, Hasher};

/// SECURITY: the most pages of one list.
const MOST: u32 = 1_000_000;

/// SECURITY: the most that a list of names may come to on all pages, in bytes.
const MOST_NAMES: usize = 64 << 20;

/// How far a list was followed.
#[derive(Debug, Clone, Default)]
pub struct Pages {
    count: u32,
    /// How one of the pages began, which is another one ever more seldom: so whatever is repeated is found, and little is
    /// kept.
    mark: u64,
    /// How many bytes all pages had.
    bytes: usize,
}

/// Why a list is not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Endless {
    /// A page came again.
    #[error("Next-Page leads to a page that was there before")]
    Again,
    /// A page has no rows, and a next page.
    #[error("Next-Page leads on from a page without rows")]
    Empty,
    /// There are too many.
    #[error("Next-Page leads on for longer than any list")]
    TooMany,
}

impl Pages {
    /// A page of so many bytes whose first row is this one has a next page.
    pub fn lead_on(&mut self, first: Option<&str>, bytes: usize) -> Result<(), Endless> {
        let first = first.ok_or(Endless::Empty)?;
        self.bytes = self.bytes.saturating_add(bytes);
        self.count += 1;
        if self.count > MOST {
            return Err(Endless::TooMany);
        }
        let mut hasher = DefaultHasher::new();
        first.hash(&mut hasher);
        let first = hasher.finish();
        if self.count > 1 && self.mark == first {
            return Err(Endless::Again);
        }
        if self.count.is_power_of_two() {
            self.mark = first;
        }
        Ok(())
    }

    /// As [`Self::lead_on`], of a list that is kept.
    pub fn lead_on_names(&mut self, first: Option<&str>, bytes: usize) -> Result<(), Endless> {
        self.lead_on(first, bytes)?;
        if self.bytes > MOST_NAMES { Err(Endless::TooMany) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_come_again_are_found() {
        for (before, cycle) in [(0_usize, 1), (0, 7), (5, 1), (100, 33)] {
            let mut pages = Pages::default();
            let names = (0..before).map(|number| format!("b{number}"));
            let again = (0..cycle).map(|number| format!("c{number}")).cycle();
            let found = names.chain(again).take(4 * (before + cycle)).find_map(|name| {
                let led = pages.lead_on(Some(&name), 1);
                led.err()
            });
            assert_eq!(found, Some(Endless::Again), "{before} {cycle}");
        }
    }

    #[test]
    fn what_has_no_end_is_not_followed() {
        let mut pages = Pages::default();
        for number in 0..10_000 {
            assert_eq!(pages.lead_on_names(Some(&number.to_string()), 1_000), Ok(()));
        }
        assert_eq!(pages.lead_on_names(Some("x"), MOST_NAMES), Err(Endless::TooMany));
        assert_eq!(pages.lead_on(None, 1), Err(Endless::Empty));
    }
}
