//! Feeds that are written as a whole, once all of it is known.

use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;

use super::{FeedReader, Stage};
use crate::error::Error;
use crate::feeds::snapshot::Position;
use crate::wire::buffers::Hold;

/// After how many bytes an answer that many share ends.
const LONGEST_SHARED: usize = 1 << 20;

/// A feed that has ended.
#[derive(Debug)]
pub struct Whole {
    /// All of it.
    pub text: Bytes,
    /// Where its reader is then.
    pub position: Position,
    /// Of a poll that many share, what they ask with next.
    pub cursor: Option<u64>,
}

impl FeedReader {
    /// All that is written, once that is known.
    pub async fn whole(mut self, hold: &mut Hold) -> Result<Whole, Error> {
        self.is_whole = true;
        let mut whole = Vec::new();
        poll_fn(|context| {
            while let Some(text) = self.turn(context)? {
                hold.grow(text.len())?;
                whole.extend_from_slice(&text);
                self.cut(whole.len());
            }
            if matches!(self.stage, Stage::Done) { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
        .map(|()| Whole {
            text: whole.into(),
            position: self.position.clone(),
            cursor: self.cursor,
        })
    }

    /// Ends what many share where it has become long: they ask again for what is left.
    fn cut(&mut self, length: usize) {
        let may_end = matches!(self.stage, Stage::Past)
            && self.known().is_some_and(|seq| seq.is_beyond(self.begin.seq));
        if self.options.cursor.is_some() && length >= LONGEST_SHARED && may_end {
            self.stage = Stage::Closing;
        }
    }
}
