//! Room in memory for what is read of the journal, taken as it is read: nobody keeps others from theirs by what they might read,
//! nor while Kinto is asked who may see it.

use crate::wire::buffers::{Hold, NoRoom};

/// So much is taken at once.
const STEP: usize = 16 << 10;

/// The room of one answer; without bounds where nothing counts it.
#[derive(Debug, Default)]
pub(super) struct Room {
    hold: Option<Hold>,
    has_ended: bool,
}

// === impl Room ===

impl Room {
    /// Room for the client of another hold.
    pub(super) fn beside(hold: Option<&Hold>) -> Self {
        Self { hold: hold.map(Hold::another), has_ended: false }
    }

    /// Has room for so many bytes. An error, which is none to anybody else, where there is none.
    pub(super) fn fit(&mut self, bytes: usize) -> sqlx::Result<()> {
        let Some(hold) = &mut self.hold else { return Ok(()) };
        if bytes > hold.bytes() && hold.set(bytes.saturating_add(STEP)).is_err() {
            self.has_ended = true;
            return Err(sqlx::Error::BeginFailed);
        }
        Ok(())
    }

    /// What came of something that was read into it.
    pub(super) fn filled<T>(&self, answer: sqlx::Result<T>) -> sqlx::Result<Result<T, NoRoom>> {
        if self.has_ended { Ok(Err(NoRoom)) } else { answer.map(Ok) }
    }

    /// What is held, for as long as the answer is there.
    pub(super) fn into_hold(self) -> Option<Hold> {
        self.hold
    }
}
