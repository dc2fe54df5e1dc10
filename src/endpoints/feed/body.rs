//! The body of a request in CouchDB's words: an object, possibly compressed, or nothing.

use std::io::{self, BufRead, BufReader, ErrorKind, Read};

use flate2::read::{MultiGzDecoder, ZlibDecoder};
use http::header::CONTENT_ENCODING;
use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::Value;

use crate::aside::{self, Turn};
use crate::bounded::{self, Refused};
use crate::endpoints::media_type::{is_json, not_json};
use crate::error::Error;
use crate::feeds::params::{MOST_VALUES, refused};
use crate::wire::body::{self, Body};
use crate::wire::buffers::Hold;

/// SECURITY: the most that a body may hold, in bytes, also once it is decompressed.
const MOST: usize = 8 << 20;

/// SECURITY: the largest window of zstd, as a power of two.
const ZSTD_WINDOW: u32 = 23;

/// Reads the object that a request carries; `None` where there is none.
/// What is held for it is what it weighs.
pub async fn read(
    request: &Parts,
    body: Body,
    max_body: usize,
    hold: &mut Hold,
) -> Result<Option<Value>, Error> {
    if !matches!(request.method, Method::POST | Method::PUT) {
        return Ok(None);
    }
    let text = |name| request.headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let body = body::read_held(body, max_body.min(MOST), hold).await?;
    let coding = text(CONTENT_ENCODING).map(str::to_ascii_lowercase).unwrap_or_default();
    let is_json = is_json(&request.headers);
    let is_plain = matches!(&*coding, "" | "identity");
    // What is compressed may become much.
    let object = if is_plain && body.len() <= aside::LITTLE {
        parse(&*body, is_json)?
    } else {
        let read = move |turn: &mut Turn| parse(InTurns { text: decoded(&body, &coding)?, turn }, is_json);
        aside::in_turns(hold.client(), read).await??
    };
    let weight = object.as_ref().map_or(0, bounded::weight);
    if let Err(error) = hold.set(weight) {
        aside::let_go(weight, object);
        return Err(error.into());
    }
    Ok(object)
}

/// The text of a body, which is never made as a whole.
fn decoded<'b>(body: &'b [u8], coding: &str) -> Result<Box<dyn Read + 'b>, Error> {
    Ok(match coding {
        "" | "identity" => Box::new(body),
        "gzip" | "x-gzip" => Box::new(MultiGzDecoder::new(body)),
        "deflate" => Box::new(ZlibDecoder::new(body)),
        "zstd" => {
            let mut decoder = zstd::Decoder::new(body).map_err(|_| broken())?;
            decoder.window_log_max(ZSTD_WINDOW).map_err(|_| broken())?;
            Box::new(decoder)
        }
        _ => {
            return Err(Error::Feed {
                status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
                reason: "The body has a Content-Encoding that is not known here.".to_owned(),
            });
        }
    })
}

fn parse(text: impl Read, is_json: bool) -> Result<Option<Value>, Error> {
    let mut text = BufReader::new(Limited { text, left: MOST });
    loop {
        let read = text.fill_buf().map_err(|error| unread(error.kind()))?;
        if read.is_empty() {
            return Ok(None);
        }
        let blank = read.len() - read.trim_ascii_start().len();
        if blank < read.len() {
            break;
        }
        text.consume(blank);
    }
    if !is_json {
        return Err(not_json());
    }
    match bounded::read_from(text, MOST_VALUES) {
        Ok(object @ Value::Object(_)) => Ok(Some(object)),
        Ok(_) => Err(refused("Request body must be a JSON object")),
        Err(Refused::TooMany) => Err(Error::TooLarge),
        Err(Refused::Malformed) => Err(refused("invalid UTF-8 JSON")),
        Err(Refused::Unread(kind)) => Err(unread(kind)),
    }
}

/// A text that must not be longer than this.
struct Limited<R> {
    text: R,
    left: usize,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.text.read(buffer)?;
        self.left = self.left.checked_sub(read).ok_or(ErrorKind::FileTooLarge)?;
        Ok(read)
    }
}

/// A text that gives way to what others have to do.
struct InTurns<'t, R> {
    text: R,
    turn: &'t mut Turn,
}

impl<R: Read> Read for InTurns<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.turn.share();
        self.text.read(buffer)
    }
}

fn unread(kind: ErrorKind) -> Error {
    if kind == ErrorKind::FileTooLarge { Error::TooLarge } else { broken() }
}

fn broken() -> Error {
    refused("The body is not what its Content-Encoding says.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::InForce;
    use crate::wire::buffers::Buffers;
    use std::io::Write;

    fn parts(headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::post("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    async fn outcome(headers: &[(&str, &str)], body: Vec<u8>) -> Result<Option<Value>, u16> {
        let mut hold =
            Buffers::new(InForce::with(|settings| settings.limits.buffered_bytes = 64 << 20)).hold(None);
        let read = read(&parts(headers), Body::full(body), usize::MAX, &mut hold).await;
        read.map_err(|error| error.status().as_u16())
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[tokio::test]
    async fn bodies_may_be_compressed_or_missing() {
        let json = ("content-type", "application/json; charset=utf-8");
        let object = Ok(Some(serde_json::json!({"a": 1})));
        assert_eq!(outcome(&[json], b"{\"a\":1}".to_vec()).await, object);
        assert_eq!(outcome(&[json, ("content-encoding", "gzip")], gzip(b"{\"a\":1}")).await, object);
        assert_eq!(outcome(&[], Vec::new()).await, Ok(None));
    }

    #[tokio::test]
    async fn what_is_no_object_is_refused() {
        let json = ("content-type", "application/json");
        assert_eq!(outcome(&[], b"{}".to_vec()).await, Err(415));
        assert_eq!(outcome(&[json, ("content-encoding", "br")], b"{}".to_vec()).await, Err(415));
        assert_eq!(outcome(&[json, ("content-encoding", "gzip")], b"{}".to_vec()).await, Err(400));
        assert_eq!(outcome(&[json], b"[]".to_vec()).await, Err(400));
        assert_eq!(outcome(&[json], b"{".to_vec()).await, Err(400));
        let bomb = gzip(&vec![b' '; MOST + 1]);
        assert_eq!(outcome(&[json, ("content-encoding", "gzip")], bomb).await, Err(413));
        let many = format!("{{\"selector\":{{\"$and\":[{}{{}}]}}}}", "{\"x\":1},".repeat(MOST_VALUES / 3));
        assert_eq!(outcome(&[json], many.clone().into()).await, Err(413));
        assert_eq!(outcome(&[json, ("content-encoding", "gzip")], gzip(many.as_bytes())).await, Err(413));
        let window = [&[0x28, 0xb5, 0x2f, 0xfd, 0, 0x88][..], &[1, 0, 0]].concat();
        assert_eq!(outcome(&[json, ("content-encoding", "zstd")], window).await, Err(400));
    }
}
