//! The body of a `POST _changes`: an object, possibly compressed, or nothing.

use std::io::Read;

use bytes::Bytes;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::Value;

use super::params::refused;
use crate::body::{self, Body};
use crate::error::Error;

/// SECURITY: the most that a body may hold, in bytes, also once it is decompressed.
const MOST: usize = 8 << 20;

/// Reads the object that a request carries; `None` where there is none.
pub async fn read(request: &Parts, body: Body, max_body: usize) -> Result<Option<Value>, Error> {
    if request.method != Method::POST {
        return Ok(None);
    }
    let text = |name| request.headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let body = body::read_limited(body, max_body.min(MOST)).await?;
    let body = match text(CONTENT_ENCODING).map(str::to_ascii_lowercase).as_deref() {
        None | Some("" | "identity") => body,
        Some("gzip" | "x-gzip") => inflate(MultiGzDecoder::new(&body[..]))?,
        Some("deflate") => inflate(ZlibDecoder::new(&body[..]))?,
        Some("zstd") => inflate(zstd::Decoder::new(&body[..]).map_err(|_| broken())?)?,
        Some(_) => {
            return Err(Error::Feed {
                status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
                reason: "The body has a Content-Encoding that is not known here.".to_owned(),
            });
        }
    };
    if body.trim_ascii().is_empty() {
        return Ok(None);
    }
    let is_json = text(CONTENT_TYPE).is_some_and(|media_type| {
        let media_type = media_type.split(';').next().unwrap_or_default().trim();
        media_type.eq_ignore_ascii_case("application/json")
    });
    if !is_json {
        return Err(Error::Feed {
            status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
            reason: "Content-Type must be application/json".to_owned(),
        });
    }
    match serde_json::from_slice(&body) {
        Ok(object @ Value::Object(_)) => Ok(Some(object)),
        Ok(_) => Err(refused("Request body must be a JSON object")),
        Err(_) => Err(refused("invalid UTF-8 JSON")),
    }
}

fn inflate(reader: impl Read) -> Result<Bytes, Error> {
    let mut text = Vec::new();
    let most = u64::try_from(MOST).unwrap_or(u64::MAX);
    let read = reader.take(most + 1).read_to_end(&mut text).map_err(|_| broken())?;
    if read > MOST { Err(Error::TooLarge) } else { Ok(text.into()) }
}

fn broken() -> Error {
    refused("The body is not what its Content-Encoding says.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn parts(headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::post("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    async fn outcome(headers: &[(&str, &str)], body: Vec<u8>) -> Result<Option<Value>, u16> {
        let read = read(&parts(headers), Body::full(body), usize::MAX).await;
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
    }
}
