//! A list as bytes, written once and sliced for each answer.
//!
//! Rows stand newest first, so what `_since` and `_limit` select is a prefix (and, rarely, a few late rows behind it).

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::request::Parts;
use sha2::{Digest, Sha256};

use crate::wire::body::{Body, Response};
use crate::wire::compression::{self, Encoding};
use crate::wire::dictionaries::{Dictionaries, Terms};
use crate::wire::lent::Stock;
use crate::wire::tagged::Coded;
use crate::wire::variants::{self, Variant, Variants};

/// A document around a list of rows, and where each row ends in it.
#[derive(Debug)]
pub struct Document {
    bytes: Bytes,
    /// Where the first row begins.
    begin: usize,
    ends: Vec<usize>,
    digest: u64,
    /// Its name where clients may have it (see [`crate::wire::dictionaries`]).
    dictionary: Arc<OnceLock<[u8; 32]>>,
    /// Compressed, by the number of rows.
    variants: Arc<Variants<usize>>,
    /// All of it, by encoding: what most ask for is found here without a lock.
    whole: [OnceLock<Whole>; 4],
    /// What its readers are lent.
    stock: Stock,
}

/// The whole document in one encoding.
#[derive(Debug)]
struct Whole {
    body: Bytes,
    stock: Stock,
}

const CLOSING: &[u8] = b"]}";

impl Document {
    /// Writes a document: what comes before the rows, the rows, each as `write` writes it, and the end.
    pub fn new<T>(opening: &str, rows: &[T], write: impl Fn(&mut String, &T)) -> Self {
        let mut text = String::with_capacity(opening.len() + rows.len() * 200);
        text.push_str(opening);
        let mut ends = Vec::with_capacity(rows.len());
        for row in rows {
            if !ends.is_empty() {
                text.push(',');
            }
            write(&mut text, row);
            ends.push(text.len());
        }
        text.push_str("]}");
        let sha256: [u8; 32] = Sha256::digest(&text).into();
        let digest = sha256.iter().take(8).fold(0_u64, |digest, byte| digest << 8 | u64::from(*byte));
        Self {
            stock: Stock::new(text.len()),
            bytes: text.into(),
            begin: opening.len(),
            ends,
            digest,
            dictionary: Arc::new(sha256.into()),
            variants: Arc::default(),
            whole: Default::default(),
        }
    }

    /// Names this content: other rows, another digest.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The document with the first `count` rows and those at `others`, which are all behind them.
    pub fn select(&self, count: usize, others: &[usize]) -> Vec<Bytes> {
        if count >= self.ends.len() {
            return vec![self.bytes.clone()];
        }
        let end = count.checked_sub(1).and_then(|last| self.ends.get(last)).copied().unwrap_or(self.begin);
        let head = self.bytes.slice(..end);
        if others.is_empty() {
            return vec![head, Bytes::from_static(CLOSING)];
        }
        let mut tail = Vec::new();
        for index in others {
            let Some(end) = self.ends.get(*index) else { continue };
            let start = index.checked_sub(1).and_then(|before| self.ends.get(before));
            let start = start.map_or(self.begin, |comma| comma + 1);
            if count > 0 || !tail.is_empty() {
                tail.push(b',');
            }
            tail.extend_from_slice(&self.bytes.slice(start..*end));
        }
        tail.extend_from_slice(CLOSING);
        vec![head, tail.into()]
    }

    /// The same as [`Self::select`], in an encoding that the client takes.
    ///
    /// A large document is compressed aside, and given as it is until that is done.
    pub fn encode(&self, count: usize, others: &[usize], terms: &Terms) -> Coded {
        let is_whole = count >= self.ends.len();
        let accepted = terms.encoding;
        let whole = place(accepted).and_then(|place| self.whole.get(place)).filter(|_| is_whole);
        if let Some(Whole { body, stock }) = whole.and_then(OnceLock::get) {
            let variant = Variant { body: body.clone(), note: (), lent: stock.lent(body.len()) };
            return Coded::compressed(variant, accepted);
        }
        let chunks = self.select(count, others);
        let length = chunks.iter().map(Bytes::len).sum();
        let is_kept = others.is_empty() && (is_whole || length <= variants::AT_ONCE);
        if is_kept && length >= compression::WORTHWHILE && accepted != Encoding::Identity {
            let name = (count.min(self.ends.len()), accepted);
            if let Some(variant) = self.variants.get_or_begin(name, &terms.dictionary, &chunks) {
                if let Some(whole) = whole {
                    let body = variant.body.clone();
                    whole.get_or_init(|| Whole { stock: Stock::new(body.len()), body });
                }
                return Coded::compressed(variant, accepted);
            }
        }
        Coded::plain(Body::chunks(chunks), self.stock.lent(length))
    }

    /// As [`Dictionaries::offer`], in an answer that has the whole document or a part of it.
    pub fn offer(
        &self,
        dictionaries: &Dictionaries,
        terms: &Terms,
        is_whole: bool,
        request: &Parts,
        response: &mut Response,
    ) {
        let bytes = || vec![self.bytes.clone()];
        dictionaries.offer(terms, request, response, is_whole.then_some((&self.dictionary, bytes)));
    }
}

/// Where the whole document is kept in an encoding that does not depend on the client.
fn place(encoding: Encoding) -> Option<usize> {
    match encoding {
        Encoding::Identity => Some(0),
        Encoding::Gzip => Some(1),
        Encoding::Brotli => Some(2),
        Encoding::Zstd => Some(3),
        Encoding::Dcz(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use http::header::CONTENT_ENCODING;

    use super::*;
    use crate::wire::body::read_limited;

    fn document(rows: &[&str]) -> Document {
        Document::new("{\"data\":[", rows, |text, row| text.push_str(row))
    }

    fn text(chunks: &[Bytes]) -> String {
        String::from_utf8(chunks.concat()).unwrap()
    }

    #[test]
    fn any_selection_is_a_document() {
        let [x, y, z] = ["{\"id\":\"x\"}", "{\"id\":\"y\"}", "{\"id\":\"z\"}"];
        let (document, empty) = (document(&[x, y, z]), document(&[]));
        assert_eq!(text(&document.select(3, &[])), format!("{{\"data\":[{x},{y},{z}]}}"));
        assert_eq!(text(&document.select(2, &[])), format!("{{\"data\":[{x},{y}]}}"));
        assert_eq!(text(&document.select(0, &[])), "{\"data\":[]}");
        assert_eq!(text(&document.select(1, &[2])), format!("{{\"data\":[{x},{z}]}}"));
        assert_eq!(text(&document.select(0, &[1, 2])), format!("{{\"data\":[{y},{z}]}}"));
        assert_eq!(text(&empty.select(0, &[])), "{\"data\":[]}");
    }

    fn many(count: u64) -> Document {
        let rows: Vec<_> =
            (0..count).map(|n| format!("{{\"id\":\"x\",\"last_modified\":{n},\"bucket\":\"a\"}}")).collect();
        document(&rows.iter().map(String::as_str).collect::<Vec<_>>())
    }

    async fn encoded(document: &Document, count: usize, accepted: Encoding) -> (Option<String>, Bytes) {
        let (head, body) = document.encode(count, &[], &Terms::plain(accepted)).answer(None).into_parts();
        let encoding =
            head.headers.get(CONTENT_ENCODING).map(|encoding| encoding.to_str().unwrap().to_owned());
        (encoding, read_limited(body, usize::MAX).await.unwrap())
    }

    #[tokio::test]
    async fn what_is_worth_it_is_compressed() {
        let document = many(100);
        let (encoding, whole) = encoded(&document, 100, Encoding::Zstd).await;
        assert_eq!(encoding.as_deref(), Some("zstd"));
        assert_eq!(zstd::decode_all(&*whole).unwrap(), document.select(100, &[]).concat());
        let (encoding, some) = encoded(&document, 20, Encoding::Zstd).await;
        assert_eq!(encoding.as_deref(), Some("zstd"));
        assert_eq!(zstd::decode_all(&*some).unwrap(), document.select(20, &[]).concat());
        let (encoding, few) = encoded(&document, 1, Encoding::Gzip).await;
        assert_eq!(
            (encoding, few),
            (None, document.select(1, &[]).concat().into()),
            "too short to be worth it"
        );
        assert_eq!(encoded(&document, 100, Encoding::Identity).await.0, None);
    }

    #[tokio::test]
    async fn a_large_document_is_compressed_aside() {
        let document = many(2000);
        assert_eq!(encoded(&document, 2000, Encoding::Gzip).await.0, None);
        while encoded(&document, 2000, Encoding::Gzip).await.0.is_none() {
            tokio::task::yield_now().await;
        }
        assert_eq!(encoded(&document, 1999, Encoding::Gzip).await.0, None, "few ask for the same large part");
    }
}
