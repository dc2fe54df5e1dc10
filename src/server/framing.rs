//! Where in a client's stream the parser of HTTP/1.1 stands.
//!
//! The parser is handed one head at a time, and nothing of what comes behind it until it has said what that is: no body, so
//! many bytes, or chunks. So there is one judge of where a request ends, and bytes are altered ([`target`]) only where
//! that judge begins to read a head. The one thing that is followed here as well are the chunks' own lengths. Where
//! anything is not as expected, the place is lost for the rest of the connection: all passes as it came.

use std::cmp::min;

use memchr::memchr_iter;

use super::target;

/// The place in a stream.
#[derive(Debug)]
pub(super) struct Framing {
    place: Place,
    /// How much of an unfinished head was searched for its end.
    searched: usize,
    /// A head that is longer is refused by the parser, which sees it as it came.
    longest_head: usize,
}

#[derive(Debug)]
enum Place {
    /// A head begins, or has begun and is not whole.
    Head,
    /// The parser has a whole head and has not said what follows.
    Given,
    Length(u64),
    Chunks(Chunks),
    Lost,
}

/// What may be done with the bytes at the place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// So many of them may be read by the parser.
    Give(usize),
    /// So many of them are a head, which the parser reads like this.
    Replace(usize, Vec<u8>),
    /// None of them, before there are more.
    Wait,
}

/// What follows a head, as the parser understood it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Following {
    Unknown,
    Length(u64),
    Chunks,
}

/// The way through a chunked body (RFC 9112 §7.1), byte for byte as the parser goes it.
#[derive(Debug)]
struct Chunks {
    state: Chunk,
    /// What of the chunk is still to come.
    left: u64,
}

#[derive(Debug, Clone, Copy)]
enum Chunk {
    Begin,
    Size,
    Blank,
    Extension,
    SizeEnd,
    Data,
    DataReturn,
    DataEnd,
    /// Behind the last chunk, at the beginning of a line.
    Line,
    Trailer,
    TrailerEnd,
    LastEnd,
}

/// What passing some bytes of a chunked body led to.
enum Passed {
    /// So many are within the body, or end a chunk of it.
    Within(usize),
    /// So many end the body.
    Ended(usize),
    Broken,
}

impl Framing {
    pub(super) fn new(longest_head: usize) -> Self {
        Self { place: Place::Head, searched: 0, longest_head }
    }

    /// What may be done with `bytes`, which are all that is there and not none.
    pub(super) fn step(&mut self, bytes: &[u8], following: impl FnOnce() -> Following) -> Step {
        self.advance(following);
        match &mut self.place {
            Place::Head => self.step_head(bytes),
            Place::Length(left) => {
                let count = min(*left, bytes.len() as u64);
                *left -= count;
                Step::Give(usize::try_from(count).unwrap_or(bytes.len()))
            }
            Place::Chunks(chunks) => match chunks.pass(bytes) {
                Passed::Within(count) => Step::Give(count),
                Passed::Ended(count) => {
                    self.place = Place::Head;
                    Step::Give(count)
                }
                Passed::Broken => self.pass(bytes),
            },
            Place::Given | Place::Lost => self.pass(bytes),
        }
    }

    /// From now on all passes as it came, for the parser to judge.
    pub(super) fn lose(&mut self) {
        self.place = Place::Lost;
    }

    /// Whether neither a body nor what the parser says of a head is waited for.
    pub(super) fn is_between(&mut self, following: impl FnOnce() -> Following) -> bool {
        self.advance(following);
        matches!(self.place, Place::Head)
    }

    /// Whether some of a body is still to come.
    pub(super) fn is_in_body(&self) -> bool {
        match self.place {
            Place::Head | Place::Given => false,
            Place::Length(left) => left > 0,
            Place::Chunks(_) | Place::Lost => true,
        }
    }

    fn pass(&mut self, bytes: &[u8]) -> Step {
        self.lose();
        Step::Give(bytes.len())
    }

    fn advance(&mut self, following: impl FnOnce() -> Following) {
        if matches!(self.place, Place::Given) {
            self.place = match following() {
                Following::Unknown => Place::Given,
                Following::Length(0) => Place::Head,
                Following::Length(length) => Place::Length(length),
                Following::Chunks => Place::Chunks(Chunks { state: Chunk::Begin, left: 0 }),
            };
        }
        if matches!(self.place, Place::Length(0)) {
            self.place = Place::Head;
        }
    }

    fn step_head(&mut self, bytes: &[u8]) -> Step {
        let Some(end) = self.end_of_head(bytes) else {
            return if bytes.len() < self.longest_head { Step::Wait } else { self.pass(bytes) };
        };
        self.place = Place::Given;
        self.searched = 0;
        let escaped = bytes.get(..end).and_then(target::escaped);
        escaped.map_or(Step::Give(end), |escaped| Step::Replace(end, escaped))
    }

    /// Where the first head ends: behind the first empty line that has something before it. No parser sees an earlier end.
    fn end_of_head(&mut self, bytes: &[u8]) -> Option<usize> {
        let begin = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n'))?;
        let from = self.searched.max(begin);
        let rest = bytes.get(from..)?;
        for index in memchr_iter(b'\n', rest) {
            match rest.get(index + 1..)? {
                [b'\n', ..] => return Some(from + index + 2),
                [b'\r', b'\n', ..] => return Some(from + index + 3),
                _ => {}
            }
        }
        self.searched = bytes.len().saturating_sub(2).max(begin);
        None
    }
}

impl Chunks {
    /// Passes bytes up to the end of a chunk. The parser reads the next one when somebody wants it.
    fn pass(&mut self, bytes: &[u8]) -> Passed {
        let mut index = 0;
        while let Some(byte) = bytes.get(index).copied() {
            if let Chunk::Data = self.state {
                let count = min(self.left, (bytes.len() - index) as u64);
                self.left -= count;
                index += usize::try_from(count).unwrap_or(0);
                if self.left == 0 {
                    self.state = Chunk::DataReturn;
                }
                continue;
            }
            index += 1;
            self.state = match (self.state, byte) {
                (Chunk::Begin | Chunk::Size, _) if byte.is_ascii_hexdigit() => {
                    let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                    let Some(left) = self.left.checked_mul(16) else { return Passed::Broken };
                    self.left = left + digit;
                    Chunk::Size
                }
                (Chunk::Size | Chunk::Blank, b' ' | b'\t') => Chunk::Blank,
                (Chunk::Size | Chunk::Blank, b';') => Chunk::Extension,
                (Chunk::Size | Chunk::Blank | Chunk::Extension, b'\r') => Chunk::SizeEnd,
                (Chunk::Extension, _) if byte != b'\n' => Chunk::Extension,
                (Chunk::SizeEnd, b'\n') if self.left == 0 => Chunk::Line,
                (Chunk::SizeEnd, b'\n') => Chunk::Data,
                (Chunk::DataReturn, b'\r') => Chunk::DataEnd,
                (Chunk::DataEnd, b'\n') => {
                    self.state = Chunk::Begin;
                    return Passed::Within(index);
                }
                (Chunk::Line, b'\r') => Chunk::LastEnd,
                (Chunk::Trailer, b'\r') => Chunk::TrailerEnd,
                (Chunk::Line | Chunk::Trailer, _) => Chunk::Trailer,
                (Chunk::TrailerEnd, b'\n') => Chunk::Line,
                (Chunk::LastEnd, b'\n') => return Passed::Ended(index),
                _ => return Passed::Broken,
            };
        }
        Passed::Within(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNKNOWN: fn() -> Following = || Following::Unknown;

    /// What is handed over of `bytes`, with what the parser says after each head.
    fn pieces(bytes: &str, followings: &[Following]) -> Vec<String> {
        let mut framing = Framing::new(1_000);
        let mut followings = followings.iter().copied();
        let mut rest = bytes.as_bytes().to_vec();
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let (count, piece) = match framing.step(&rest, || followings.next().unwrap_or(Following::Unknown))
            {
                Step::Give(count) => (count, rest[..count].to_vec()),
                Step::Replace(count, piece) => (count, piece),
                Step::Wait => break,
            };
            rest.drain(..count);
            pieces.push(String::from_utf8(piece).unwrap());
        }
        pieces
    }

    #[test]
    fn each_head_is_handed_over_alone() {
        let none = Following::Length(0);
        assert_eq!(
            pieces("GET /?\"1\" HTTP/1.1\r\nA: b\r\n\r\nGET /?\"2\" HTTP/1.1\n\nGET /?\"3", &[none, none]),
            ["GET /?%221%22 HTTP/1.1\r\nA: b\r\n\r\n", "GET /?%222%22 HTTP/1.1\n\n"]
        );
    }

    #[test]
    fn a_body_passes_as_it_is_and_ends_where_the_parser_says() {
        assert_eq!(
            pieces("POST /?< HTTP/1.1\r\n\r\nx <<\r\n\r\nGET /?> HTTP/1.1\r\n\r\n", &[Following::Length(8)]),
            ["POST /?%3C HTTP/1.1\r\n\r\n", "x <<\r\n\r\n", "GET /?%3E HTTP/1.1\r\n\r\n"]
        );
    }

    #[test]
    fn a_chunked_body_is_handed_over_by_the_chunk() {
        let chunks = ["4;x=\"<\"\r\n<<\r\n\r\n", "1 \r\n\"\r\n", "0\r\nT: <\r\n\r\n"];
        let given = pieces(
            &format!("PUT / HTTP/1.1\r\n\r\n{}GET /?> HTTP/1.1\r\n\r\n", chunks.concat()),
            &[Following::Chunks],
        );
        assert_eq!(given[1..4], chunks);
        assert_eq!(given[4..], ["GET /?%3E HTTP/1.1\r\n\r\n"]);
    }

    #[test]
    fn all_passes_unaltered_where_the_parser_was_not_understood() {
        let heads = "GET /?< HTTP/1.1\r\n\r\nGET /?> HTTP/1.1\r\n\r\n";
        assert_eq!(pieces(heads, &[])[1..], ["GET /?> HTTP/1.1\r\n\r\n"]);
        let chunks = "PUT / HTTP/1.1\r\n\r\n3\nabc\r\n0\r\n\r\nGET /?> HTTP/1.1\r\n\r\n";
        assert!(pieces(chunks, &[Following::Chunks])[1].ends_with("GET /?> HTTP/1.1\r\n\r\n"));
    }

    #[test]
    fn a_head_may_come_byte_by_byte_and_is_refused_by_the_parser_when_it_is_too_long() {
        let head = b"\r\nGET /?\"42\" HTTP/1.1\r\nHost: h\r\n\r\n";
        let mut framing = Framing::new(1_000);
        for end in 1..head.len() {
            assert_eq!(framing.step(&head[..end], UNKNOWN), Step::Wait, "{end}");
        }
        assert!(matches!(framing.step(head, UNKNOWN), Step::Replace(count, _) if count == head.len()));
        assert_eq!(Framing::new(10).step(b"GET /?\"423", UNKNOWN), Step::Give(10));
    }
}
