//! Content codings of answers: which one a client takes (RFC 9110 §12.5.3), and the compressing.
//!
//! Answers are compressed once and served many times, so a small body is worth some time. A client that still has an earlier
//! answer may be sent what is new against it (RFC 9842, [`super::dictionaries`]).

use std::io::{self, Write};

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};

use super::headers;

/// Bodies shorter than this fit into one packet as they are, in bytes.
pub const WORTHWHILE: usize = 860;

/// How a body is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// As it is.
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 7932.
    Brotli,
    /// RFC 8878.
    Zstd,
    /// RFC 9842 §4: zstd against a dictionary, of which this is the SHA-256.
    Dcz([u8; 32]),
}

/// What a body begins with that is compressed against a dictionary, before the dictionary's SHA-256 (RFC 9842 §4).
const DCZ: [u8; 8] = [0x5e, 0x2a, 0x4d, 0x18, 0x20, 0, 0, 0];

impl Encoding {
    /// The name in `Content-Encoding`.
    pub const fn token(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Dcz(_) => "dcz",
        }
    }
}

/// The coding that the client of a request likes best; of those that it likes alike, the one that makes the smallest body.
pub fn accepted(request: &HeaderMap) -> Encoding {
    negotiate(request.get_all(ACCEPT_ENCODING).iter())
}

fn negotiate<'a>(accept_encoding: impl Iterator<Item = &'a HeaderValue>) -> Encoding {
    // Not mentioned: unacceptable, but for identity, which is acceptable as a last resort.
    let mut liked = [
        (Encoding::Zstd, None),
        (Encoding::Brotli, None),
        (Encoding::Gzip, None),
        (Encoding::Identity, None),
    ];
    let mut others = None;
    for (name, weight) in codings(accept_encoding) {
        if name == "*" {
            others = Some(weight);
        }
        let is_named = |encoding: Encoding| {
            name.eq_ignore_ascii_case(encoding.token())
                || (encoding == Encoding::Gzip && name.eq_ignore_ascii_case("x-gzip"))
        };
        for (_, liking) in liked.iter_mut().filter(|(encoding, _)| is_named(*encoding)) {
            *liking = Some(weight);
        }
    }
    let mut best = (Encoding::Identity, 0);
    for (encoding, liking) in liked {
        let fallback = if encoding == Encoding::Identity { None } else { others };
        let weight = liking.or(fallback).unwrap_or(0);
        if weight > best.1 {
            best = (encoding, weight);
        }
    }
    best.0
}

/// The codings that are named, each with its weight in thousandths.
pub(super) fn codings<'a>(
    accept_encoding: impl Iterator<Item = &'a HeaderValue>,
) -> impl Iterator<Item = (&'a str, u16)> {
    let items = accept_encoding.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    items.map(|item| {
        let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
        (name.trim(), headers::weight(parameters))
    })
}

/// Compresses the pieces of a body as one; `dictionary` is what [`Encoding::Dcz`] names, and nothing to the others.
///
/// # Errors
///
/// None that these encoders are known to give for memory.
pub fn compress(encoding: Encoding, dictionary: &[u8], chunks: &[Bytes]) -> io::Result<Bytes> {
    let length: usize = chunks.iter().map(Bytes::len).sum();
    let output = Vec::with_capacity(length / 2);
    let body = match encoding {
        Encoding::Identity => chunks.concat(),
        Encoding::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(output, flate2::Compression::new(6));
            write(&mut encoder, chunks)?;
            encoder.finish()?
        }
        Encoding::Brotli => {
            let mut encoder = brotli::CompressorWriter::new(output, 32 * 1024, 5, 22);
            write(&mut encoder, chunks)?;
            encoder.into_inner()
        }
        Encoding::Zstd => {
            let mut encoder = zstd::Encoder::new(output, 9)?;
            encoder.set_pledged_src_size(u64::try_from(length).ok())?;
            write(&mut encoder, chunks)?;
            encoder.finish()?
        }
        Encoding::Dcz(digest) => {
            let output = [&DCZ[..], &digest].concat();
            let mut encoder = zstd::Encoder::with_ref_prefix(output, 3, dictionary)?;
            // Repetitions are looked for in all of the dictionary, and what is far behind may still be named at the end.
            encoder.long_distance_matching(true)?;
            encoder.window_log(window_log(length.max(dictionary.len())))?;
            encoder.set_pledged_src_size(u64::try_from(length).ok())?;
            write(&mut encoder, chunks)?;
            encoder.finish()?
        }
    };
    Ok(body.into())
}

/// The logarithm of the least window of zstd that has room for so many bytes.
fn window_log(bytes: usize) -> u32 {
    bytes.max(1 << 10).next_power_of_two().ilog2()
}

fn write(encoder: &mut impl Write, chunks: &[Bytes]) -> io::Result<()> {
    chunks.iter().try_for_each(|chunk| encoder.write_all(chunk))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn negotiated(values: &[&'static str]) -> Encoding {
        let values: Vec<_> = values.iter().map(|value| HeaderValue::from_static(value)).collect();
        negotiate(values.iter())
    }

    #[test]
    fn clients_get_the_smallest_body_that_they_take() {
        assert_eq!(negotiated(&[]), Encoding::Identity);
        assert_eq!(negotiated(&["gzip, deflate"]), Encoding::Gzip);
        assert_eq!(negotiated(&["gzip, deflate, br"]), Encoding::Brotli);
        assert_eq!(negotiated(&["gzip", "br, ZSTD"]), Encoding::Zstd);
        assert_eq!(negotiated(&["*"]), Encoding::Zstd);
    }

    #[test]
    fn qualities_are_heeded() {
        assert_eq!(negotiated(&["zstd;q=0, br;q=0.5, gzip;q=0.8"]), Encoding::Gzip);
        assert_eq!(negotiated(&["*;q=0"]), Encoding::Identity);
        assert_eq!(negotiated(&["identity, gzip;q=0.5"]), Encoding::Identity);
        assert_eq!(negotiated(&["gzip;q=0.001"]), Encoding::Gzip);
        assert_eq!(negotiated(&["gzip;q=0.000"]), Encoding::Identity);
    }

    #[test]
    fn what_is_compressed_can_be_read_again() {
        let chunks = [Bytes::from("a".repeat(3000)), Bytes::from("b".repeat(10))];
        let plain = chunks.concat();
        let gzip = compress(Encoding::Gzip, &[], &chunks).unwrap();
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(&gzip[..]).read_to_end(&mut text).unwrap();
        assert_eq!(text, plain);
        let mut text = Vec::new();
        let brotli = compress(Encoding::Brotli, &[], &chunks).unwrap();
        brotli::Decompressor::new(&brotli[..], 4096).read_to_end(&mut text).unwrap();
        assert_eq!(text, plain);
        assert_eq!(zstd::decode_all(&compress(Encoding::Zstd, &[], &chunks).unwrap()[..]).unwrap(), plain);
    }
}
