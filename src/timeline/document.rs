//! A list as bytes, written once and sliced for each answer.
//!
//! Rows stand newest first, so what `_since` and `_limit` select is a prefix (and, rarely, a few late rows behind it).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::wire::compression::{self, Encoding};
use crate::wire::lent::Stock;

/// Up to this length, in bytes, compressing takes less than handing it over to another thread.
const AT_ONCE: usize = 32 * 1024;

/// How many compressed prefixes are kept of one document.
const MOST_PREFIXES: usize = 64;

/// A document around a list of rows, and where each row ends in it.
#[derive(Debug)]
pub struct Document {
    bytes: Bytes,
    /// Where the first row begins.
    begin: usize,
    ends: Vec<usize>,
    digest: u64,
    gzip: Variant,
    brotli: Variant,
    zstd: Variant,
    prefixes: Mutex<HashMap<(usize, Encoding), Bytes>>,
    /// What its readers are lent.
    pub stock: Stock,
}

/// The whole document in one encoding, made once.
#[derive(Debug, Default)]
struct Variant {
    bytes: OnceLock<Bytes>,
    is_being_made: AtomicBool,
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
        let digest = Sha256::digest(&text);
        let digest = digest.iter().take(8).fold(0_u64, |digest, byte| digest << 8 | u64::from(*byte));
        Self {
            stock: Stock::new(text.len()),
            bytes: text.into(),
            begin: opening.len(),
            ends,
            digest,
            gzip: Variant::default(),
            brotli: Variant::default(),
            zstd: Variant::default(),
            prefixes: Mutex::default(),
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
}

impl Document {
    /// The same as [`Self::select`], in an encoding that the client takes; and which one that is.
    ///
    /// A large document is compressed aside, and given as it is until that is done.
    pub fn encode(
        self: &Arc<Self>,
        count: usize,
        others: &[usize],
        accepted: Encoding,
    ) -> (Vec<Bytes>, Encoding) {
        let chunks = self.select(count, others);
        let length: usize = chunks.iter().map(Bytes::len).sum();
        if length < compression::WORTHWHILE || !others.is_empty() {
            return (chunks, Encoding::Identity);
        }
        let compressed = if count >= self.ends.len() {
            self.variant(accepted).and_then(|variant| {
                let made = variant.bytes.get().cloned();
                made.or_else(|| self.make(variant, accepted))
            })
        } else {
            self.prefix(count, &chunks, length, accepted)
        };
        compressed.map_or((chunks, Encoding::Identity), |compressed| (vec![compressed], accepted))
    }

    fn variant(&self, encoding: Encoding) -> Option<&Variant> {
        match encoding {
            Encoding::Identity => None,
            Encoding::Gzip => Some(&self.gzip),
            Encoding::Brotli => Some(&self.brotli),
            Encoding::Zstd => Some(&self.zstd),
        }
    }

    /// Compresses the whole document: at once where that is quick, else aside.
    fn make(self: &Arc<Self>, variant: &Variant, encoding: Encoding) -> Option<Bytes> {
        if self.bytes.len() <= AT_ONCE {
            let compressed = compression::compress(encoding, std::slice::from_ref(&self.bytes)).ok()?;
            return Some(variant.bytes.get_or_init(|| compressed).clone());
        }
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        if !variant.is_being_made.swap(true, Ordering::AcqRel) {
            let document = Arc::clone(self);
            runtime.spawn_blocking(move || {
                let compressed = compression::compress(encoding, std::slice::from_ref(&document.bytes));
                if let (Some(variant), Ok(compressed)) = (document.variant(encoding), compressed) {
                    variant.bytes.get_or_init(|| compressed);
                }
            });
        }
        None
    }

    fn prefix(&self, count: usize, chunks: &[Bytes], length: usize, encoding: Encoding) -> Option<Bytes> {
        if encoding == Encoding::Identity || length > AT_ONCE {
            return None;
        }
        let name = (count, encoding);
        if let Some(made) = self.prefixes.lock().get(&name) {
            return Some(made.clone());
        }
        let compressed = compression::compress(encoding, chunks).ok()?;
        let mut prefixes = self.prefixes.lock();
        if prefixes.len() >= MOST_PREFIXES {
            prefixes.clear();
        }
        prefixes.insert(name, compressed.clone());
        Some(compressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    fn many(count: u64) -> Arc<Document> {
        let rows: Vec<_> =
            (0..count).map(|n| format!("{{\"id\":\"x\",\"last_modified\":{n},\"bucket\":\"a\"}}")).collect();
        Arc::new(document(&rows.iter().map(String::as_str).collect::<Vec<_>>()))
    }

    #[test]
    fn what_is_compressed_is_kept() {
        let document = many(100);
        let (whole, encoding) = document.encode(100, &[], Encoding::Zstd);
        assert_eq!(encoding, Encoding::Zstd);
        assert_eq!(zstd::decode_all(&*whole.concat()).unwrap(), document.select(100, &[]).concat());
        assert_eq!(document.encode(100, &[], Encoding::Zstd).0[0].as_ptr(), whole[0].as_ptr());
        let (prefix, encoding) = document.encode(20, &[], Encoding::Gzip);
        assert_eq!(encoding, Encoding::Gzip);
        assert_eq!(document.encode(20, &[], Encoding::Gzip).0[0].as_ptr(), prefix[0].as_ptr());
        assert_eq!(document.encode(1, &[], Encoding::Gzip).1, Encoding::Identity, "too short to be worth it");
        assert_eq!(document.encode(100, &[], Encoding::Identity).1, Encoding::Identity);
    }

    #[tokio::test]
    async fn a_large_document_is_compressed_aside() {
        let document = many(2000);
        assert_eq!(document.encode(2000, &[], Encoding::Gzip).1, Encoding::Identity);
        while document.encode(2000, &[], Encoding::Gzip).1 == Encoding::Identity {
            tokio::task::yield_now().await;
        }
    }
}
