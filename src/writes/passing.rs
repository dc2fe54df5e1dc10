//! A request on its way to the upstream and back.

use std::sync::Arc;

use http::StatusCode;

use super::Writes;
use super::answer::Answer;
use super::effects::Effect;
use super::recording::Recording;
use super::write::Write;
use crate::error::Error;
use crate::upstream::Turn;

/// One request, or all sub-requests of a batch. Dropping it says that what became of them is not known.
#[derive(Debug)]
#[must_use]
pub struct Passing {
    room: Arc<Writes>,
    writes: Arc<[Write]>,
    /// Where the history is the sidecar's to keep.
    recording: Option<Recording>,
    effects: Vec<Effect>,
    _turn: Turn,
}

impl Passing {
    /// These writes may be sent: their intents are recorded.
    pub(super) fn new(
        room: Arc<Writes>,
        writes: Arc<[Write]>,
        recording: Option<Recording>,
        turn: Turn,
    ) -> Self {
        let effects = room.effects.begin(&writes);
        Self { room, writes, recording, effects, _turn: turn }
    }

    /// The upstream answered each of the writes, in their order. When this returns, the journal has what was written, and
    /// timeline and permissions know of it.
    pub async fn answered(mut self, answers: impl Into<Arc<[Answer]>>) -> Result<(), Error> {
        let answers = answers.into();
        // Kinto: after a sub-request's 409, what came before it is rolled back and what comes after it is committed, and
        // the batch is still answered with 200, and with 201s for both.
        let is_doubtful = answers.len() != self.writes.len()
            || answers.len() > 1 && answers.iter().any(|answer| answer.status == StatusCode::CONFLICT);
        if is_doubtful {
            return self.doubted(&answers).await;
        }
        let recorded = match self.recording.take() {
            Some(recording) => recording.answered(&answers).await,
            None => Ok(()),
        };
        let effects = std::mem::take(&mut self.effects);
        self.room.effects.answered(effects, &self.writes, &answers).await;
        recorded
    }

    /// The upstream answered, and what it says of the writes cannot be read.
    pub async fn doubtful(self) -> Result<(), Error> {
        self.doubted(&[]).await
    }

    /// The upstream answered the batch as a whole with this error.
    pub async fn failed(mut self, status: StatusCode) -> Result<(), Error> {
        if status.is_server_error() {
            return Ok(());
        }
        self.effects.clear();
        match self.recording.take() {
            Some(recording) => recording.refused().await,
            None => Ok(()),
        }
    }

    /// What was really written is asked of the upstream before the client hears of it.
    async fn doubted(mut self, answers: &[Answer]) -> Result<(), Error> {
        let recorded = match self.recording.take() {
            Some(recording) => recording.doubtful().await,
            None => Ok(()),
        };
        let effects = std::mem::take(&mut self.effects);
        self.room.effects.doubtful(effects, answers).await;
        recorded
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        // SECURITY: anybody can send a head. Nobody is asked what became of it.
        let was_asked = !self.writes.iter().all(Write::is_coming);
        match self.recording.take() {
            Some(recording) if was_asked => recording.dropped(),
            Some(recording) => recording.given_up(),
            None => {}
        }
        if was_asked {
            self.room.effects.unknown(&self.effects);
        }
    }
}
