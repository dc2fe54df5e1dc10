//! Raw frames of HTTP/2, for a stub that behaves as no library would.

use std::io::Read;

use super::stub::Upstream;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const GOAWAY: u8 = 7;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A frame as it came.
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub id: u32,
    pub payload: Vec<u8>,
}

/// A frame to be written.
pub fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags], &id.to_be_bytes()[..], payload].concat()
}

/// The head of a 200.
pub fn ok(id: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, id, &[0x88])
}

/// Ends the connection but for what was begun up to the stream `last`.
pub fn goaway(last: u32, error: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), error.to_be_bytes()].concat())
}

/// Reads how the client begins, and answers that.
pub fn greet(upstream: &mut Upstream) {
    const PREFACE: usize = 24;
    let _ = upstream.stream.read_exact(&mut [0; PREFACE]);
    upstream.write(frame(SETTINGS, 0, 0, &[]));
}

/// The next frame; `None` where the connection ends.
pub fn next(upstream: &mut Upstream) -> Option<Frame> {
    let mut head = [0; 9];
    upstream.stream.read_exact(&mut head).ok()?;
    let [_, high, low, kind, flags, id @ ..] = head;
    let mut payload = vec![0; usize::from(high) << 8 | usize::from(low)];
    upstream.stream.read_exact(&mut payload).ok()?;
    Some(Frame { kind, flags, id: u32::from_be_bytes(id), payload })
}
