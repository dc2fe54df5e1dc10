//! One reader of a feed: the body of their answer, which is written as fast as they take it.
//!
//! ```text
//! opening ─► past: pages from the position on, until there are no more ─► closing
//!                  ▲                                        │
//!                  └── too far behind ── waiting for batches ◄┘ (live feeds)
//! ```
//!
//! A reader is no task and has no queue. It is looked at when its connection can be written to, or when its channel wakes
//! it, and holds a position and a timer in between.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body::{Body as HttpBody, Frame};
use parking_lot::Mutex;

use super::cursor;
use super::framing::Framing;
use crate::error::Error;
use crate::feeds::params::{End, Patience};
use crate::feeds::previous::AT_ONCE;
use crate::feeds::reader_options::{Admission, Memory, ReaderOptions, Supply};
use crate::feeds::snapshot::{FeedPage, Position, Room};
use crate::kinto::Timestamp;
use crate::kinto::seq::Seq;
use crate::wire::body::{BoxError, NextFrame};
use crate::wire::buffers::Hold;
use judged::Judged;
use silence::{Due, Silence};
pub use whole::Whole;

mod held;
mod judged;
mod rows;
mod silence;
mod whole;

/// How many pages in which a filter finds nothing are looked at before others have their turn.
const PAGES_IN_A_ROW: usize = 4;

/// A reader of a feed.
pub struct FeedReader {
    supply: Supply,
    admission: Option<Admission>,
    options: ReaderOptions,
    position: Position,
    /// Newest first: what is left is below this seq.
    below: Option<Seq>,
    /// Where the reader began. Rows that are there because they may not have been shown do not count.
    begin: Position,
    memory: Memory,
    stage: Stage,
    /// The rows that may still be written.
    left: Option<usize>,
    /// How many rows were not written when the feed ended.
    pending: u64,
    /// What those who share this poll ask with next.
    cursor: Option<u64>,
    has_rows: bool,
    is_silent: bool,
    silence: Silence,
    /// Whether it is written as a whole, and counted as that.
    is_whole: bool,
    /// The room for the large rows that are about to be given to the connection.
    hold: Option<Hold>,
}

enum Stage {
    Opening,
    Past,
    Reading(Mutex<BoxFuture<'static, Result<FeedPage, Error>>>),
    /// A page is held against the filter, and looked for in the history.
    Judging(Mutex<BoxFuture<'static, Result<Judged, Error>>>),
    Waiting,
    /// A batch is written for all readers.
    Writing(Mutex<BoxFuture<'static, Result<(), Error>>>),
    Closing,
    Done,
}

/// What came of a look at the channel.
enum Waited {
    /// Changes, written for all readers.
    Shared(Bytes),
    /// Another stage, or another look.
    Moved,
    /// Nothing, for now.
    Idle,
}

impl FeedReader {
    /// A reader who goes on from a position.
    pub fn new(
        supply: Supply,
        admission: Option<Admission>,
        options: ReaderOptions,
        position: Position,
        memory: Memory,
    ) -> Self {
        // Nothing comes before what many share.
        let is_silent = options.cursor.is_none();
        let after = |until: Seq| Seq::of(Timestamp(until.at.0.saturating_add(1)));
        let below = options.until.filter(|_| options.is_descending).map(after);
        Self {
            supply,
            admission,
            left: options.limit,
            silence: Silence::new(options.patience),
            options,
            begin: position.clone(),
            memory,
            position,
            below,
            stage: Stage::Opening,
            pending: 0,
            cursor: None,
            has_rows: false,
            is_silent,
            is_whole: false,
            hold: None,
        }
    }

    /// What is to be written next; `None` where nothing is.
    fn turn(&mut self, context: &mut Context<'_>) -> Result<Option<Bytes>, Error> {
        let mut text = Vec::new();
        let mut idle_pages = 0;
        loop {
            if self.is_held_back(context) {
                if text.is_empty() {
                    self.look_at_clock(context, &mut text);
                }
                if matches!(self.stage, Stage::Past | Stage::Waiting) {
                    break;
                }
            }
            match &mut self.stage {
                Stage::Opening => {
                    let begin = self.known().filter(|seq| *seq > Seq::ZERO);
                    text.extend_from_slice(self.options.layout.framing.opening(begin).as_bytes());
                    self.stage = Stage::Past;
                }
                Stage::Past => self.read_past(context),
                Stage::Reading(page) => {
                    let page = page.get_mut();
                    let Poll::Ready(page) = page.as_mut().poll(context) else {
                        self.beat(context, &mut text);
                        break;
                    };
                    self.judge(page?, &mut text);
                    if text.len() >= Room::PIECE.bytes {
                        break;
                    }
                }
                Stage::Judging(judged) => {
                    let judged = judged.get_mut();
                    let Poll::Ready(judged) = judged.as_mut().poll(context) else {
                        self.beat(context, &mut text);
                        break;
                    };
                    self.take(judged?, &mut text);
                    self.hold = self.hold.take().filter(|_| !text.is_empty());
                    if text.len() >= Room::PIECE.bytes {
                        break;
                    }
                    if text.is_empty() {
                        idle_pages += 1;
                        self.beat(context, &mut text);
                    }
                    if idle_pages >= PAGES_IN_A_ROW && matches!(self.stage, Stage::Past) {
                        context.waker().wake_by_ref();
                        break;
                    }
                }
                Stage::Waiting => match self.wait(context, &mut text) {
                    Waited::Shared(shared) if text.is_empty() => {
                        self.note_sent();
                        return Ok(Some(shared));
                    }
                    Waited::Shared(shared) => text.extend_from_slice(&shared),
                    Waited::Moved => {}
                    Waited::Idle => break,
                },
                Stage::Writing(written) => {
                    let written = written.get_mut();
                    let Poll::Ready(written) = written.as_mut().poll(context) else {
                        self.beat(context, &mut text);
                        break;
                    };
                    written?;
                    self.stage = Stage::Waiting;
                }
                Stage::Closing => {
                    let (seq, framing) = (self.position.seq, self.options.layout.framing);
                    // Whoever reads backwards has no place to go on from.
                    if !(self.options.is_descending && framing == Framing::Events) {
                        self.cursor = self.options.cursor.map(|asked| cursor::next(asked, Timestamp::now()));
                        text.extend_from_slice(framing.closing(seq, self.pending, self.cursor).as_bytes());
                    }
                    self.stage = Stage::Done;
                }
                Stage::Done => break,
            }
        }
        if text.is_empty() {
            return Ok(None);
        }
        self.note_sent();
        // A connection may have it for as long as its other end takes nothing.
        Ok(Some(match self.hold.take() {
            Some(hold) => hold.filled(text),
            None => text.into(),
        }))
    }

    /// Begins to read what the reader has not seen.
    fn read_past(&mut self, context: &Context<'_>) {
        if self.is_over() {
            self.stage = Stage::Closing;
            return;
        }
        let snapshot = match &self.supply {
            Supply::Fixed(snapshot) => Some(Arc::clone(snapshot)),
            Supply::Live(spot) => {
                spot.register(context.waker());
                let latest = spot.channel.latest();
                if latest.as_ref().is_some_and(|latest| !self.is_open(latest)) {
                    return;
                }
                latest.map(|latest| Arc::clone(&latest.snapshot))
            }
        };
        let waits = !matches!(self.options.end, End::Now);
        let mut room = Room { until: self.options.until, waits, ..Room::PIECE };
        if self.left == Some(0) {
            (room.rows, room.bytes) = (0, 0);
        } else if self.options.previous.is_some() {
            room.rows = AT_ONCE;
        }
        if self.options.filter.is_none() {
            room.rows = room.rows.min(self.left.unwrap_or(usize::MAX));
        }
        self.stage = match snapshot {
            Some(snapshot) if self.options.is_descending => {
                Stage::Reading(Mutex::new(snapshot.before(self.below, room)))
            }
            Some(snapshot) => Stage::Reading(Mutex::new(snapshot.page(self.position.clone(), room))),
            None => Stage::Waiting,
        };
    }

    fn caught_up(&self) -> Stage {
        let is_complete = self.options.until.is_some_and(|until| self.position.seq >= until);
        match self.options.end {
            End::Now => Stage::Closing,
            // Whoever went on from the very seq that they came with would be told the same at once, for ever.
            End::Changes if (self.has_rows || is_complete) && self.position.seq.is_beyond(self.begin.seq) => {
                Stage::Closing
            }
            End::Never if is_complete => Stage::Closing,
            End::Changes | End::Never => Stage::Waiting,
        }
    }

    /// Up to where everything was told or was not wanted, if that can be said.
    fn known(&self) -> Option<Seq> {
        let is_told = !self.options.is_descending && self.position.doubt.is_none();
        is_told.then_some(self.position.seq)
    }

    fn heartbeat(&self) -> String {
        self.options.layout.framing.heartbeat(self.known(), self.options.heartbeat_seq)
    }

    /// Looks for changes.
    fn wait(&mut self, context: &mut Context<'_>, text: &mut Vec<u8>) -> Waited {
        let Supply::Live(spot) = &self.supply else {
            self.stage = Stage::Closing;
            return Waited::Moved;
        };
        spot.register(context.waker());
        if self.is_over() {
            self.stage = Stage::Closing;
            return Waited::Moved;
        }
        if spot.channel.is_beyond(self.position.serial)
            && let Some(latest) = spot.channel.latest()
            && !latest.is_known_at(self.position.serial)
        {
            if !self.is_open(&latest) {
                return Waited::Moved;
            }
            return self.take_batch(&latest, text);
        }
        if std::mem::take(&mut self.is_silent) && text.is_empty() {
            // The reader is shown at once that it was understood.
            text.extend_from_slice(self.heartbeat().as_bytes());
        }
        if text.is_empty() {
            self.look_at_clock(context, text);
        }
        if matches!(self.stage, Stage::Waiting) { Waited::Idle } else { Waited::Moved }
    }

    fn look_at_clock(&mut self, context: &mut Context<'_>, text: &mut Vec<u8>) {
        match self.silence.look(context) {
            Some(Due::End) => self.stage = Stage::Closing,
            Some(Due::Heartbeat) => text.extend_from_slice(self.heartbeat().as_bytes()),
            None => {}
        }
    }

    /// A sign of life while a page is waited for, or a filter finds nothing.
    fn beat(&mut self, context: &mut Context<'_>, text: &mut Vec<u8>) {
        if text.is_empty() && matches!(self.options.patience, Patience::Heartbeat(_)) {
            self.look_at_clock(context, text);
        }
    }

    /// Whether the feed has to end, whatever there is.
    fn is_over(&self) -> bool {
        let has_ended = match &self.supply {
            Supply::Fixed(_) => false,
            Supply::Live(spot) => spot.channel.has_ended(),
        };
        has_ended || self.admission.as_ref().is_some_and(|admission| admission.grant.is_lost())
    }

    fn note_sent(&mut self) {
        self.is_silent = false;
        self.silence.end();
    }
}

impl Drop for FeedReader {
    fn drop(&mut self) {
        // Whoever reads backwards has seen nothing from a seq on.
        if self.options.is_descending {
            return;
        }
        let is_whole = matches!(self.stage, Stage::Done) && self.options.layout.framing == Framing::List;
        if is_whole {
            self.memory.presence.note(&self.begin, &self.position, true);
            return;
        }
        // How much of it was read is not known. Of what there was at first, somebody who goes on in the middle is taken to
        // have read the rest here, too: else they would be given a lot again. Whoever comes back with the seq that they had
        // may have read nothing of what was told again at that seq.
        let seq = self.position.seq.min(self.memory.began);
        if seq > self.begin.seq || seq == self.begin.seq && self.begin.doubt.is_none() {
            let reached = Position { seq, ..self.position.clone() };
            self.memory.presence.note(&self.begin, &reached, false);
        }
    }
}

impl HttpBody for FeedReader {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<NextFrame> {
        match self.turn(context) {
            Ok(Some(text)) => Poll::Ready(Some(Ok(Frame::data(text)))),
            Ok(None) if matches!(self.stage, Stage::Done) => Poll::Ready(None),
            Ok(None) => Poll::Pending,
            Err(error) => {
                self.stage = Stage::Done;
                Poll::Ready(Some(Err(error.into())))
            }
        }
    }
}

impl std::fmt::Debug for FeedReader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("FeedReader").field("position", &self.position).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
