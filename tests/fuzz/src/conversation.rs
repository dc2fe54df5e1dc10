//! What a client says on one connection, read by a plain model: heads by httparse, bodies by their lengths and chunks.
//!
//! And the other way round: conversations made of a seed, of what is hard to tell apart.

use std::fmt::Write as _;

/// A request as the model reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meant {
    pub method: String,
    /// With what no target may have as its escapes.
    pub target: String,
    pub body: Vec<u8>,
    /// Whether all of the body is there.
    pub is_whole: bool,
}

/// A request as an upstream heard it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    pub method: String,
    pub target: String,
    pub body: Vec<u8>,
    pub is_whole: bool,
}

/// All requests that the bytes of one connection can be taken for; what comes behind one that cannot be read is none.
pub fn read(bytes: &[u8]) -> Vec<Meant> {
    let mut requests = Vec::new();
    let mut rest = Some(bytes);
    while let Some((meant, behind)) = rest.and_then(read_first) {
        rest = behind.filter(|_| meant.is_whole);
        requests.push(meant);
    }
    requests
}

/// The first request, and what comes behind it unless nothing may.
pub fn read_first(bytes: &[u8]) -> Option<(Meant, Option<&[u8]>)> {
    let mut fields = vec![httparse::EMPTY_HEADER; bytes.len().min(8_192) / 2];
    let mut head = httparse::Request::new(&mut fields);
    let Ok(httparse::Status::Complete(length)) = head.parse(bytes) else { return None };
    let rest = bytes.get(length..)?;
    let values = |name: &str| -> Vec<String> {
        let named = head.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| String::from_utf8_lossy(field.value).trim().to_ascii_lowercase()).collect()
    };
    let (codings, lengths) = (values("transfer-encoding"), values("content-length"));
    let mut is_last = values("connection").iter().any(|value| value.contains("close"));
    let (body, rest, is_whole) = if !codings.is_empty() {
        is_last |= !lengths.is_empty();
        if codings.last()?.rsplit(',').next()?.trim() != "chunked" {
            return None;
        }
        chunks(rest)
    } else if let Some(length) = lengths.first() {
        let is_length = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
        if !is_length || lengths.iter().any(|other| other != length) {
            return None;
        }
        let length = length.parse().ok()?;
        let body = rest.get(..length).unwrap_or(rest);
        (body.to_vec(), rest.get(length..).unwrap_or_default(), body.len() == length)
    } else {
        (Vec::new(), rest, true)
    };
    let (method, target) = (head.method?.to_owned(), escaped(origin_form(head.path?)));
    Some((Meant { method, target, body, is_whole }, (!is_last).then_some(rest)))
}

/// A chunked body, what comes behind it, and whether it is whole.
fn chunks(mut bytes: &[u8]) -> (Vec<u8>, &[u8], bool) {
    let mut body = Vec::new();
    loop {
        let Ok(httparse::Status::Complete((begin, size))) = httparse::parse_chunk_size(bytes) else {
            return (body, &[], false);
        };
        let rest = bytes.get(begin..).unwrap_or_default();
        if size == 0 {
            let mut fields = vec![httparse::EMPTY_HEADER; 1_024];
            return match httparse::parse_headers(rest, &mut fields) {
                Ok(httparse::Status::Complete((end, _))) => (body, rest.get(end..).unwrap_or_default(), true),
                _ => (body, &[], false),
            };
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        body.extend_from_slice(rest.get(..size).unwrap_or(rest));
        match rest.get(size..).and_then(|rest| rest.strip_prefix(b"\r\n")) {
            Some(rest) => bytes = rest,
            None => return (body, &[], false),
        }
    }
}

/// A target without what only a gateway needs: the host before it, the fragment behind it.
fn origin_form(target: &str) -> &str {
    let target = target.split('#').next().unwrap_or_default();
    let Some((_, behind)) = target.split_once("://").filter(|(scheme, _)| !scheme.contains(['/', '?']))
    else {
        return target;
    };
    behind.find(['/', '?']).and_then(|begin| behind.get(begin..)).unwrap_or("/")
}

/// A target as it goes upstream.
pub fn escaped(target: &str) -> String {
    let query = target.find('?').unwrap_or(target.len());
    let mut escaped = String::with_capacity(target.len());
    for (index, letter) in target.char_indices() {
        match letter {
            '<' => escaped.push_str("%3C"),
            '>' => escaped.push_str("%3E"),
            '"' if index > query => escaped.push_str("%22"),
            letter => escaped.push(letter),
        }
    }
    escaped
}

impl Heard {
    /// Whether it was said in the conversation of another seed than this.
    pub fn is_of_another(&self, seed: u64) -> bool {
        let said = self.target.split_once("?of=").and_then(|(_, said)| said.split_once('-'));
        said.and_then(|(said, _)| said.parse::<u64>().ok()).is_some_and(|said| said != seed)
    }
}

/// Why what an upstream heard is not what its client said; none where it is. Not all that was said has to be heard, and
/// a read may be heard again.
pub fn difference(said: &[Meant], heard: &[Heard]) -> Option<String> {
    let mut rest = said.iter();
    let mut last: Option<&Meant> = None;
    for heard in heard {
        let is_it = |said: &Meant| {
            said.method == heard.method
                && said.target == escaped(&heard.target)
                && if heard.is_whole {
                    said.is_whole && said.body == heard.body
                } else {
                    said.body.starts_with(&heard.body)
                }
        };
        if !heard.is_whole || heard.target.starts_with(EAGER) {
            // What was answered early, or broke off, may be heard to its end when its client is further on.
            if !said.iter().any(is_it) {
                return Some(unsaid(heard));
            }
            continue;
        }
        let is_repeated = last.is_some_and(|last| last.body.is_empty() && is_it(last));
        match rest.clone().position(is_it) {
            Some(index) => last = rest.nth(index),
            None if is_repeated => {}
            None => return Some(unsaid(heard)),
        }
    }
    None
}

fn unsaid(heard: &Heard) -> String {
    let Heard { method, target, body, is_whole } = heard;
    let beginning: String = String::from_utf8_lossy(body).chars().take(200).collect();
    format!("nobody said {method} {target} (whole: {is_whole}, {} bytes) {beginning:?}", body.len())
}

/// Numbers that a seed gives.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x1234_5678_9ABC_DEF1)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(number).unwrap_or(0) % bound.max(1)
    }

    pub fn one_in(&mut self, number: usize) -> bool {
        self.below(number) == 0
    }
}

/// A conversation: what is sent, in which pieces, and which answers have to come.
#[derive(Debug, Clone)]
pub struct Conversation {
    pub bytes: Vec<u8>,
    /// Where a piece ends.
    pub cuts: Vec<usize>,
    /// The statuses that have to come first.
    pub statuses: Vec<u16>,
    /// Whether these answers are read before the client ends its side.
    pub is_patient: bool,
}

/// Paths to which an upstream of [`Conversation`]s answers before it has read the body: and closes, or reads on.
pub const HASTY: &str = "/v1/hasty";
pub const EAGER: &str = "/v1/eager";
/// Paths to which it answers with a body that is broken from its beginning, or coded for the connection in another way than
/// by chunks, or with more fields than most parsers take.
pub const BROKEN: &str = "/v1/broken";
pub const CODED: &str = "/v1/coded";
pub const FIELDS: &str = "/v1/fields";
/// A path of the sidecar's own that takes no `POST`.
pub const OWN: &str = "/v1/buckets/a/collections/b/changeset";

impl Conversation {
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let mut bytes = Vec::new();
        let mut statuses = Vec::new();
        let mut is_open = true;
        for number in 0..=dice.below(6) {
            let has_body = !dice.one_in(3);
            let is_coded = has_body && dice.one_in(16);
            let (path, status) = match dice.below(16) {
                _ if is_coded => ("/v1/plain", 501),
                0 | 1 => (HASTY, 413),
                2 | 3 => (EAGER, 404),
                4..8 if has_body => (OWN, 405),
                8 => (BROKEN, 502),
                9 => (CODED, 502),
                10 => (FIELDS, 200),
                _ => ("/v1/plain", 200),
            };
            let method = match (has_body, status) {
                (true, 405) => "POST",
                (true, _) => ["PUT", "POST", "GET"].get(dice.below(3)).copied().unwrap_or("PUT"),
                (false, _) => ["GET", "DELETE"].get(dice.below(2)).copied().unwrap_or("GET"),
            };
            let mut head = format!("{method} {path}?of={seed}-{number}&");
            for _ in 0..dice.below(4) {
                head.push_str(["\"", "<", ">", "x=1"].get(dice.below(4)).copied().unwrap_or_default());
            }
            head.push_str(" HTTP/1.1\r\nHost: h\r\n");
            if dice.one_in(4) {
                let _ = write!(head, "X-Pad: {}\r\n", "p".repeat(dice.below(5_000)));
            }
            if dice.one_in(12) {
                (0..100 + dice.below(300)).for_each(|number| _ = write!(head, "X-{number}: <\r\n"));
            }
            let mut body = if has_body { body(&mut dice) } else { Vec::new() };
            let is_growing = status == 405 && dice.one_in(3);
            if is_growing {
                body = growing_body(&mut dice);
                // What is read first ends with the head.
                let framing = format!("Content-Length: {}\r\n\r\n", body.len());
                let rest = 4_096_usize.saturating_sub((head.len() + "X: \r\n".len() + framing.len()) % 4_096);
                let _ = write!(head, "X: {}\r\n", "p".repeat(rest));
            }
            let is_early = has_body && matches!(status, 404 | 405 | 413 | 501);
            if is_early && dice.one_in(8) {
                // More than stands anywhere between the two.
                let length = (1 << 20) + dice.below(3 << 20);
                body.resize(body.len() + length, b'<');
            }
            if is_open {
                statuses.push(status);
                // An answer that does not wait for the body may be the last one.
                is_open = !is_early;
            }
            bytes.extend_from_slice(head.as_bytes());
            if !has_body {
                bytes.extend_from_slice(b"\r\n");
            } else if is_coded {
                let coding = ["gzip, chunked", "chunked, chunked", "gzip\r\nTransfer-Encoding: chunked"]
                    .get(dice.below(3));
                let coding = coding.copied().unwrap_or_default();
                bytes.extend_from_slice(format!("Transfer-Encoding: {coding}\r\n\r\n").as_bytes());
                push_chunks(&mut dice, &body, &mut bytes);
            } else if is_growing || dice.one_in(2) {
                bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
                bytes.extend_from_slice(&body);
            } else {
                if dice.one_in(10) {
                    // Which of the two counts is one thing, and that nothing may follow another.
                    bytes.extend_from_slice(format!("Content-Length: {}\r\n", dice.below(40)).as_bytes());
                    is_open = false;
                }
                bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                push_chunks(&mut dice, &body, &mut bytes);
            }
        }
        if dice.one_in(6) {
            // What is left out ends one of the requests, at an unknown place.
            bytes.truncate(dice.below(bytes.len()));
            statuses.clear();
        }
        let mut cuts: Vec<usize> = (0..dice.below(5)).map(|_| dice.below(bytes.len())).collect();
        cuts.push(bytes.len());
        cuts.sort_unstable();
        Self { bytes, cuts, statuses, is_patient: dice.one_in(2) }
    }

    /// What is sent, piece by piece.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let begins = std::iter::once(0).chain(self.cuts.iter().copied());
        begins.zip(&self.cuts).filter_map(|(begin, end)| self.bytes.get(begin..*end))
    }
}

/// A body of what could be taken for something else.
fn body(dice: &mut Dice) -> Vec<u8> {
    let mut body = Vec::new();
    for _ in 0..dice.below(8) {
        match dice.below(7) {
            0 => body.extend_from_slice(b"GET /v1/SMUGGLED HTTP/1.1\r\nHost: h\r\n\r\n"),
            1 => body.extend_from_slice(b"\r\n"),
            2 => body.extend_from_slice(b"0\r\n\r\n"),
            3 => body.extend_from_slice(b"x <\">\r\n"),
            4 => body.extend(std::iter::repeat_n(b'<', dice.below(9_000))),
            5 => body.extend(std::iter::repeat_n(b'f', 4_096 * (1 + dice.below(4)))),
            _ => body.extend_from_slice(b"\nPOST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n\"\"\""),
        }
    }
    body
}

/// A body with room for what stands behind it, should some of it be read as a target and escaped.
fn growing_body(dice: &mut Dice) -> Vec<u8> {
    let mut body = vec![b'f'; 4_096 * (1 + dice.below(4))];
    body.extend_from_slice(b"x ");
    body.extend(std::iter::repeat_n(b'<', 100 + dice.below(3_000)));
    body.extend_from_slice(b"\r\nGET /v1/SMUGGLED HTTP/1.1\r\nHost: h\r\nX-I: ");
    body
}

fn push_chunks(dice: &mut Dice, mut body: &[u8], bytes: &mut Vec<u8>) {
    while !body.is_empty() {
        let (chunk, rest) = body.split_at((1 + dice.below(3_000)).min(body.len()));
        let extension = if dice.one_in(5) { ";x=\"<\"" } else { "" };
        bytes.extend_from_slice(format!("{:x}{extension}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
        body = rest;
    }
    bytes.extend_from_slice(if dice.one_in(4) { b"0\r\nX-T: <\r\n\r\n" } else { b"0\r\n\r\n" });
}
