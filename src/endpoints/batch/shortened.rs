//! The answer to a batch in which something was written: it is read to its end, however much of it there is.
//!
//! SECURITY: how large it is, is up to whoever asks: a batch may read what is large beside what it writes. What was written is
//! to be known all the same. So where there is no room for all of it, what the sub-answers show that is large is left out, and
//! their statuses and headers are kept.

use bytes::Bytes;
use http_body_util::BodyExt;

use crate::aside;
use crate::error::Error;
use crate::upstream::UpstreamError;
use crate::wire::body::{Body, BodyReadError, Pieces};
use crate::wire::buffers::Hold;

/// What a sub-answer shows is left out where it is longer, once there is no room.
const LARGE: usize = 64 << 10;
/// SECURITY: how much is read beyond the room, of statuses, headers and what is small.
const BEYOND: usize = 4 << 20;
/// The depth of the members of a sub-answer: `{"responses":[{`.
const SUB_ANSWER: u32 = 3;
/// The member that shows objects.
const SHOWN: &[u8] = b"body";

/// Reads an answer, and whether something of it was left out. `limit` is in bytes.
pub(super) async fn read(body: Body, limit: usize, hold: &mut Hold) -> Result<(Bytes, bool), Error> {
    let mut body = std::pin::pin!(body);
    let mut pieces = Pieces::default();
    let mut shortened: Option<Shortened> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(BodyReadError::Broken)?;
        let Ok(data) = frame.into_data() else { continue };
        if let Some(shortened) = &mut shortened {
            shortened.take(&data)?;
        } else if pieces.length() + data.len() <= limit && hold.grow(data.len()).is_ok() {
            pieces.add(data);
        } else {
            let text = std::mem::take(&mut pieces).end();
            let begin = move || Shortened::of(&text).and_then(|mut begun| begun.take(&data).map(|()| begun));
            shortened = Some(aside::for_write(limit, begin).await??);
        }
    }
    Ok(match shortened {
        Some(shortened) => (shortened.kept.into(), true),
        None => (pieces.end(), false),
    })
}

/// An answer without what is large in it.
#[derive(Debug)]
struct Shortened {
    kept: Vec<u8>,
    /// How long that may become.
    most: usize,
    depth: u32,
    is_in_text: bool,
    is_escaped: bool,
    /// The first letters of the last name in a sub-answer.
    name: Vec<u8>,
    /// Whether what follows that name is read.
    is_after_name: bool,
    /// Where what a sub-answer shows begins.
    shown: Option<usize>,
    /// Whether that is left out.
    is_left_out: bool,
}

impl Shortened {
    /// What was read so far.
    fn of(text: &[u8]) -> Result<Self, Error> {
        let mut shortened = Self {
            kept: Vec::new(),
            most: text.len() + BEYOND,
            depth: 0,
            is_in_text: false,
            is_escaped: false,
            name: Vec::new(),
            is_after_name: false,
            shown: None,
            is_left_out: false,
        };
        shortened.take(text)?;
        Ok(shortened)
    }

    fn take(&mut self, text: &[u8]) -> Result<(), Error> {
        for byte in text {
            self.step(*byte);
            if !self.is_left_out {
                self.kept.push(*byte);
            }
            if let Some(start) = self.shown.filter(|start| self.kept.len() - start > LARGE) {
                self.kept.truncate(start);
                self.kept.extend_from_slice(b"null");
                self.is_left_out = true;
                self.shown = None;
            }
        }
        if self.kept.len() > self.most { Err(UpstreamError::TooLarge.into()) } else { Ok(()) }
    }

    /// Sees where in the JSON a byte is.
    fn step(&mut self, byte: u8) {
        if self.is_in_text {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => self.is_in_text = false,
                _ if self.depth == SUB_ANSWER && !self.is_after_name && self.name.len() <= SHOWN.len() => {
                    self.name.push(byte);
                }
                _ => {}
            }
            return;
        }
        let is_member = self.depth == SUB_ANSWER;
        match byte {
            b'"' => {
                self.is_in_text = true;
                if is_member && !self.is_after_name {
                    self.name.clear();
                }
            }
            b':' if is_member => {
                self.is_after_name = true;
                // What it shows follows this byte.
                self.shown = (self.name == SHOWN).then_some(self.kept.len() + 1);
            }
            b',' if is_member => self.end(),
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                if is_member {
                    self.end();
                }
                self.depth = self.depth.saturating_sub(1);
            }
            _ => {}
        }
    }

    /// A member of a sub-answer has ended.
    fn end(&mut self) {
        (self.is_after_name, self.shown, self.is_left_out) = (false, None, false);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_is_large_is_left_out_wherever_the_text_is_cut() {
        let large = json!({"data": {"t": format!("\\\"}},]{}", "x".repeat(LARGE)), "body": {"a": [1]}}});
        let small = json!({"data": {"id": "r", "body": "b", "t": "{[\\"}});
        let each = |body: &Value| json!({"status": 200, "headers": {"ETag": "\"5\"", "body": "x"}, "path": "/b", "body": body});
        let whole = json!({"responses": [each(&small), each(&large), each(&small), each(&large), each(&json!(null))]});
        let expected = json!({
            "responses": [each(&small), each(&json!(null)), each(&small), each(&json!(null)), each(&json!(null))]
        });
        for text in [whole.to_string(), serde_json::to_string_pretty(&whole).unwrap()] {
            for cut in (0..text.len()).step_by(997) {
                let (first, rest) = text.as_bytes().split_at(cut);
                let mut shortened = Shortened::of(first).unwrap();
                shortened.take(rest).unwrap();
                let read: Value = serde_json::from_slice(&shortened.kept).unwrap();
                assert_eq!(read, expected, "{cut}");
            }
        }
    }

    #[test]
    fn more_than_is_of_use_is_not_kept() {
        let mut shortened = Shortened::of(b"{\"responses\":[").unwrap();
        let many = "{\"status\":200,\"body\":1},".repeat(BEYOND / 20);
        assert!(shortened.take(many.as_bytes()).is_err());
    }
}
