//! What it takes to hold a document against a filter, counted while it is done.
//!
//! How much that is cannot be said before: it is conditions times what they find in the document.

use std::fmt;

/// What may be done. A step is a comparison of two numbers, or of a few letters: some nanoseconds.
pub struct Steps<'m> {
    left: usize,
    more: Box<dyn FnMut() -> usize + 'm>,
}

/// There were no more steps, so that nothing is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("looking at the document took more than it may")]
pub struct UsedUp;

impl<'m> Steps<'m> {
    /// So many of them, and no more.
    pub fn at_most(number: usize) -> Self {
        Self::with(number, || 0)
    }

    /// As many as it takes.
    pub fn unlimited() -> Self {
        Self::with(usize::MAX, || usize::MAX)
    }

    /// So many of them; whenever they are used up, `more` says how many follow.
    pub fn with(number: usize, more: impl FnMut() -> usize + 'm) -> Self {
        Self { left: number, more: Box::new(more) }
    }

    /// Takes some, before what they stand for is done.
    pub fn take(&mut self, mut number: usize) -> Result<(), UsedUp> {
        while number > self.left {
            number -= self.left;
            self.left = (self.more)();
            if self.left == 0 {
                return Err(UsedUp);
            }
        }
        self.left -= number;
        Ok(())
    }

    /// How many are left before there have to be more.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Takes what it takes to go through a text once, as fast as that is done.
    pub(super) fn take_text(&mut self, text: &str) -> Result<(), UsedUp> {
        self.take(1 + text.len() / 16)
    }
}

impl fmt::Debug for Steps<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Steps").field("left", &self.left).finish_non_exhaustive()
    }
}

/// Whether something is so of any of some things.
pub(super) fn any<T>(
    things: impl Iterator<Item = T>,
    mut is_so: impl FnMut(T) -> Result<bool, UsedUp>,
) -> Result<bool, UsedUp> {
    for thing in things {
        if is_so(thing)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether something is so of all of some things.
pub(super) fn all<T>(
    things: impl Iterator<Item = T>,
    mut is_so: impl FnMut(T) -> Result<bool, UsedUp>,
) -> Result<bool, UsedUp> {
    any(things, |thing| is_so(thing).map(|is_so| !is_so)).map(|is_not| !is_not)
}
