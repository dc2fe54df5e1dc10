//! Undoing, batch by batch.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, StatusCode};
use tokio::time::{Instant, sleep};

use super::options::Options;
use super::step::{Step, Undoing};
use super::told::{ObjectLine, Preview, Status, Told};
use crate::access::Requester;
use crate::app::Core;
use crate::aside;
use crate::backoff::Backoff;
use crate::endpoints::batch;
use crate::endpoints::list::{TOTAL_OBJECTS, TOTAL_RECORDS};
use crate::error::Error;
use crate::history::Visible;
use crate::history::difference::{Difference, Looking};
use crate::journal::{Note, Object, ResourceName, Touched};
use crate::phase::Phase;
use crate::wire::buffers::Hold;
use crate::wire::peer::Peer;

/// Objects that are looked at together: what is seen of them is not to be old once it is written.
const TOGETHER: usize = 200;
/// A batch is sent once its requests take so many bytes.
const ENOUGH: usize = 1 << 20;
/// How often a batch is tried of which it is not known what became of it.
const TRIES: usize = 3;
/// The longest pause between two batches, and between two tries of one.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// See the module.
pub(in crate::endpoints) struct Run {
    pub(super) core: Arc<Core>,
    /// The requester's request, as that of a batch.
    pub(super) parts: Parts,
    pub(super) peer: Peer,
    pub(super) requester: Requester,
    pub(super) told: Told,
    pub(super) options: Arc<Options>,
    pub(super) user_id: Option<String>,
    /// The most requests of a batch.
    pub(super) limit: usize,
    pub(super) hold: Hold,
    pub(super) pending: Vec<Undoing>,
    pub(super) pending_bytes: usize,
}

/// What is to be done: what the selected entries of objects tell of is undone.
pub(in crate::endpoints) struct Work {
    /// Whose history it is, as the requester sees it.
    pub(in crate::endpoints) visible: Visible,
    /// The objects.
    pub(in crate::endpoints) touched: Vec<Touched>,
    /// Those of which the history does not know what was done.
    pub(in crate::endpoints) unknown: Vec<Object>,
}

/// What came of sending a batch.
enum Sent {
    /// An answer to each.
    Each(Vec<Bytes>),
    /// The upstream refused the whole.
    Refused(StatusCode, Bytes),
    /// Nobody knows what was written, for this reason.
    Unknown(String),
}

impl Run {
    /// Does the work, and tells how it ended.
    pub(super) async fn work(mut self, work: Work) {
        let reason = "it was changed elsewhere, and the history does not have that yet";
        for object in work.unknown {
            let line = ObjectLine::new(&object, Status::NotTried);
            self.told.tell(line.because(reason)).await;
        }
        self.undo(&work.visible, work.touched).await;
        self.flush().await;
        self.told.end().await;
    }

    /// Undoes what was done to these objects: a bucket or a collection is written before what is in it, and deleted after.
    pub(super) async fn undo(&mut self, visible: &Visible, mut touched: Vec<Touched>) {
        touched.sort_by_cached_key(|touched| (rank(&touched.object), touched.object.to_string()));
        let mut deletions = self.pass(visible, touched, true).await;
        self.flush().await;
        deletions.sort_by_cached_key(|touched| (Reverse(rank(&touched.object)), touched.object.to_string()));
        self.pass(visible, deletions, false).await;
    }

    /// Goes through objects. Those that are to be deleted are given back where others come first.
    async fn pass(&mut self, visible: &Visible, touched: Vec<Touched>, is_first: bool) -> Vec<Touched> {
        let mut deletions = Vec::new();
        let hold = self.core.hold(&self.parts.headers, &self.peer);
        let mut looking = Looking::at(visible, &touched, TOGETHER, hold);
        while !self.told.is_closed && self.told.stopped.is_none() {
            match looking.next().await {
                Ok(None) => break,
                Ok(Some((looked, found))) => match self.steps(visible, found).await {
                    Ok(steps) => {
                        for (difference, step) in steps {
                            if self.one(&difference, step, is_first).await {
                                let own = looked.iter().find(|touched| touched.object == difference.object);
                                deletions.extend(own.cloned());
                            }
                        }
                    }
                    Err(error) => {
                        self.stop(&error);
                        for touched in looked {
                            self.not_tried(&touched.object).await;
                        }
                    }
                },
                Err(error) => self.stop(&error),
            }
        }
        for touched in looking.rest() {
            self.not_tried(&touched.object).await;
        }
        deletions
    }

    /// What is to be done about these. It fails where they were read after the requester could see less: their answer may be
    /// read for long.
    async fn steps(
        &self,
        visible: &Visible,
        found: Vec<Difference>,
    ) -> Result<Vec<(Difference, Step)>, Error> {
        let history = &self.core.app.history;
        let journal = history.journal(&self.core.upstream).await?.ok_or(Error::NotFound)?;
        visible.check_within(&history.visible(journal, visible.bucket(), &self.requester).await?)?;
        let (options, user_id) = (Arc::clone(&self.options), self.user_id.clone());
        let bytes = found.iter().map(Difference::weight).sum();
        let step = move |difference| {
            let step = Step::of(&difference, &options, user_id.as_deref());
            (difference, step)
        };
        aside::run(bytes, move || found.into_iter().map(step).collect()).await
    }

    /// Undoes one difference; says whether that is left for later, as it is a deletion.
    async fn one(&mut self, difference: &Difference, mut step: Step, is_first: bool) -> bool {
        let object = &difference.object;
        if self.told.stopped.is_some() {
            self.not_tried(object).await;
            return false;
        }
        if let Step::Write(undoing) = &step
            && undoing.data.is_none()
        {
            if is_first {
                return true;
            }
            if let Some(conflict) = self.holds_others(object).await {
                step = Step::Conflict(conflict);
            }
        }
        let line = |status| ObjectLine::new(object, status);
        match step {
            Step::Unchanged => self.told.tell(line(Status::Unchanged)).await,
            Step::Conflict(reason) => self.told.tell(line(Status::Conflict).because(reason)).await,
            Step::Refused(reason) => self.told.tell(line(Status::Refused).because(reason)).await,
            Step::Write(undoing) if self.options.dry_run => {
                let preview = Some(Preview::of(difference, &undoing));
                let (action, reason) = (Some(undoing.action()), undoing.lacks_permissions(&self.options));
                let line = ObjectLine { action, reason, preview, ..line(Status::Planned) };
                self.told.tell(line).await;
            }
            Step::Write(undoing) => {
                self.pending_bytes += undoing.data.as_ref().map_or(0, |data| data.get().len()) + 512;
                self.pending.push(*undoing);
                if self.pending.len() >= self.limit || self.pending_bytes >= ENOUGH {
                    self.flush().await;
                }
            }
        }
        false
    }

    /// Why a collection is not deleted: what it holds would go with it.
    async fn holds_others(&mut self, object: &Object) -> Option<&'static str> {
        if !matches!(object, Object::Collection(..)) || self.options.overwrite || self.options.dry_run {
            return None;
        }
        self.flush().await;
        let path = format!("{object}/records");
        let headers = self.requester.credentials.headers();
        let asked = self.core.upstream.ask_as(Method::HEAD, &path, headers, Bytes::new()).await;
        let total = asked.ok().and_then(|answer| {
            let headers = answer.headers();
            let total = headers.get(TOTAL_OBJECTS).or_else(|| headers.get(TOTAL_RECORDS))?;
            total.to_str().ok()?.parse::<usize>().ok()
        });
        (total != Some(0)).then_some("it holds records that are not undone, or nobody knows")
    }

    fn stop(&mut self, error: &Error) {
        self.told.stopped.get_or_insert_with(|| error.to_string());
    }

    async fn not_tried(&mut self, object: &Object) {
        let reason = self.told.stopped.clone().unwrap_or_default();
        self.told.tell(ObjectLine::new(object, Status::NotTried).because(reason)).await;
    }

    /// Writes what is pending.
    pub(in crate::endpoints) async fn flush(&mut self) {
        self.pending_bytes = 0;
        let mut todo = std::mem::take(&mut self.pending);
        if *self.core.app.phase.borrow() >= Phase::Leaving && !todo.is_empty() {
            self.told.stopped.get_or_insert_with(|| "the server is about to stop".to_owned());
        }
        let mut backoff = Backoff::new(Duration::from_millis(100), LONGEST_PAUSE);
        let mut tries = 0;
        while !todo.is_empty() && self.told.stopped.is_none() && !self.told.is_closed {
            let begun = Instant::now();
            let sent = self.send(&todo).await;
            self.told.batches += 1;
            let (doubtful, reason) = match sent {
                Sent::Each(answers) => {
                    (self.judge(todo, &answers).await, "the upstream did not write it".to_owned())
                }
                // The whole may be refused for what one of them says.
                Sent::Refused(StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE, _)
                    if todo.len() > 1 =>
                {
                    for undoing in todo {
                        self.pending.push(undoing);
                        Box::pin(self.flush()).await;
                    }
                    return;
                }
                Sent::Refused(status, body) => {
                    for undoing in todo {
                        self.refused(&undoing, status, serde_json::from_slice(&body).ok()).await;
                    }
                    (Vec::new(), String::new())
                }
                Sent::Unknown(reason) => (todo, reason),
            };
            if doubtful.is_empty() {
                // Others have their turn, too.
                sleep((begun.elapsed() / 2).min(LONGEST_PAUSE).max(self.asked_pause())).await;
                return;
            }
            tries += 1;
            if tries == TRIES {
                self.told.stopped = Some(reason);
            }
            backoff.wait().await;
            todo = match self.read_again(doubtful).await {
                Ok(left) => left,
                Err((left, error)) => {
                    tracing::debug!(%error, "what became of a batch that undoes is not known yet");
                    left
                }
            };
        }
        for undoing in todo {
            self.not_tried(&undoing.object).await;
        }
    }

    /// How long the upstream wants to be left alone, within reason.
    fn asked_pause(&self) -> Duration {
        let backoff = self.core.upstream.advice().and_then(|advice| advice.backoff());
        Duration::from_secs(backoff.unwrap_or_default().min(60))
    }

    async fn send(&mut self, undoings: &[Undoing]) -> Sent {
        let writes: Vec<(String, Arc<Note>)> =
            undoings.iter().map(|undoing| (undoing.request(), Arc::clone(&undoing.note))).collect();
        let held = self.hold.bytes();
        let written = batch::write(&self.core, &self.parts, &writes, &self.peer, &mut self.hold).await;
        // What the answer took is let go with it. To hold less always succeeds.
        let _ = self.hold.set(held.min(self.hold.bytes()));
        match written {
            Ok(exchanged) if exchanged.answer.status == StatusCode::OK => Sent::Each(exchanged.each),
            Ok(exchanged) if exchanged.answer.status.is_server_error() => {
                Sent::Unknown(format!("the upstream answered with {}", exchanged.answer.status))
            }
            Ok(exchanged) => Sent::Refused(exchanged.answer.status, exchanged.body),
            Err(error) if error.status().is_client_error() => {
                let status = error.status();
                let text = serde_json::json!({"code": status.as_u16(), "message": error.to_string()});
                Sent::Refused(status, text.to_string().into())
            }
            Err(error) => Sent::Unknown(error.to_string()),
        }
    }
}

/// What holds others comes before them.
fn rank(object: &Object) -> u8 {
    match object.resource() {
        ResourceName::Bucket => 0,
        ResourceName::Group => 1,
        ResourceName::Collection => 2,
        ResourceName::Record => 3,
    }
}
