//! What the upstream's answers to a batch mean for each object, and what is told of it.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::value::RawValue;

use super::run::Run;
use super::shown::{Answered, Shown};
use super::step::Undoing;
use super::told::{ObjectLine, Status};
use crate::aside;
use crate::history::difference::Side;
use crate::upstream::UpstreamError;
use crate::upstream::kinto::answers_of_batch;

impl Run {
    /// Tells of each what its answer says; gives back those of which no answer says it.
    pub(super) async fn judge(&mut self, undoings: Vec<Undoing>, answers: &[Bytes]) -> Vec<Undoing> {
        let read: Vec<Option<Answered<'_>>> =
            answers.iter().map(|answer| serde_json::from_slice(answer).ok()).collect();
        // Kinto: after a 409, nothing that is said of the batch is true.
        let is_conflict = |answer: &Option<Answered<'_>>| answer.as_ref().is_some_and(|a| a.status == 409);
        if read.len() != undoings.len() || read.iter().any(is_conflict) {
            return undoings;
        }
        let mut doubtful = Vec::new();
        for (undoing, answer) in undoings.into_iter().zip(read) {
            let Some(answer) = answer else {
                doubtful.push(undoing);
                continue;
            };
            let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            match status {
                _ if status.is_success() => {
                    let shown = answer.body.and_then(|body| serde_json::from_str(body.get()).ok());
                    self.done(&undoing, shown).await;
                }
                StatusCode::PRECONDITION_FAILED if self.options.overwrite => doubtful.push(undoing),
                StatusCode::PRECONDITION_FAILED => self.conflict(&undoing).await,
                StatusCode::NOT_FOUND if undoing.data.is_none() => {
                    self.told.tell(ObjectLine::new(&undoing.object, Status::Unchanged)).await;
                }
                _ if status.is_server_error() || status.is_redirection() => doubtful.push(undoing),
                _ => self.refused(&undoing, status, answer.body).await,
            }
        }
        doubtful
    }

    /// Whether an object is as it shall be. Where nobody can say it is not.
    async fn is_done(&self, undoing: &Undoing, now: Side) -> bool {
        let (undoing, user_id) = (undoing.clone(), self.user_id.clone());
        let bytes = undoing.data.as_ref().map_or(0, |data| data.get().len());
        aside::run(bytes, move || undoing.is_done(&now, user_id.as_deref())).await.unwrap_or_default()
    }

    async fn done(&mut self, undoing: &Undoing, shown: Option<Shown<'_>>) {
        let version = shown.as_ref().and_then(Shown::version);
        let is_permitted = undoing.permissions.is_some() || undoing.version.is_none();
        let line = ObjectLine {
            action: Some(undoing.action()),
            last_modified: version.map(|version| version.0),
            permissions: shown.and_then(|shown| shown.permissions).filter(|_| is_permitted),
            reason: undoing.lacks_permissions(&self.options),
            ..ObjectLine::new(&undoing.object, Status::Done)
        };
        self.told.tell(line).await;
    }

    async fn conflict(&mut self, undoing: &Undoing) {
        let line = ObjectLine::new(&undoing.object, Status::Conflict);
        self.told.tell(line.because("it was changed since")).await;
    }

    pub(super) async fn refused(&mut self, undoing: &Undoing, status: StatusCode, error: Option<&RawValue>) {
        let line = ObjectLine {
            action: Some(undoing.action()),
            code: Some(status.as_u16()),
            error,
            ..ObjectLine::new(&undoing.object, Status::Refused)
        };
        self.told.tell(line).await;
    }

    /// Reads how objects are now. Tells of those that are as they should be, and of those that somebody else changed; gives
    /// back those that are as they were.
    pub(super) async fn read_again(
        &mut self,
        undoings: Vec<Undoing>,
    ) -> Result<Vec<Undoing>, (Vec<Undoing>, UpstreamError)> {
        let paths: Vec<String> = undoings.iter().map(|undoing| undoing.object.to_string()).collect();
        let asked = self.requester.source().batch(&Method::GET, &paths).await;
        let answer = match asked {
            Ok(answer) => answer,
            Err(error) => return Err((undoings, error)),
        };
        let Ok(answers) = answers_of_batch(answer.body(), paths.len()) else {
            let error = UpstreamError::of_status(answer.status(), "what was written by a batch");
            return Err((undoings, error));
        };
        let mut left = Vec::new();
        for (mut undoing, answer) in undoings.into_iter().zip(answers) {
            let shown: Option<Shown<'_>> = serde_json::from_slice(answer.body()).ok();
            let shown = match answer.status().as_u16() {
                200 if shown.as_ref().is_some_and(|shown| shown.data.is_some()) => shown,
                404 | 410 => None,
                _ => {
                    left.push(undoing);
                    continue;
                }
            };
            let version = shown.as_ref().and_then(Shown::version);
            if version == undoing.version {
                // Nothing was written, though it may be as it should be but for its permissions.
                left.push(undoing);
            } else if self.is_done(&undoing, Shown::side(shown.as_ref())).await {
                self.done(&undoing, shown).await;
            } else if self.options.overwrite {
                undoing.version = version;
                left.push(undoing);
            } else {
                self.conflict(&undoing).await;
            }
        }
        Ok(left)
    }
}
