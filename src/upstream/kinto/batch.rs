//! Several questions in one request, and the answers to them.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::{KintoError, Source, parse};
use crate::kinto::batch_path;
use crate::upstream::UpstreamError;

#[derive(Deserialize)]
struct Batch<'b> {
    #[serde(borrow)]
    responses: Vec<SubAnswer<'b>>,
}

#[derive(Deserialize)]
struct SubAnswer<'b> {
    status: u16,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(borrow, default)]
    body: Option<&'b RawValue>,
}

impl Source {
    /// Asks all paths the same in one batch. What its answer says of each is read by [`answers_of_batch`].
    pub async fn batch(&self, method: &Method, paths: &[String]) -> Result<Response<Bytes>, UpstreamError> {
        let requests: Vec<_> = paths.iter().map(|path| json!({"path": batch_path(path)})).collect();
        let body = json!({"defaults": {"method": method.as_str()}, "requests": requests}).to_string();
        let json = HeaderValue::from_static("application/json");
        self.send(Method::POST, "/batch", HeaderMap::from_iter([(CONTENT_TYPE, json)]), body.into()).await
    }
}

/// The answers to so many questions of a batch, as each would be by itself.
pub fn answers_of_batch(body: &[u8], questions: usize) -> Result<Vec<Response<Bytes>>, KintoError> {
    let Batch { responses } = parse(body)?;
    if responses.len() != questions {
        return Err(KintoError::Unreadable("another number of answers than questions".into()));
    }
    responses.iter().map(SubAnswer::single).collect()
}

impl SubAnswer<'_> {
    fn single(&self) -> Result<Response<Bytes>, KintoError> {
        let body = self.body.map_or_else(Bytes::new, |body| Bytes::copy_from_slice(body.get().as_bytes()));
        let mut single = Response::new(body);
        *single.status_mut() = StatusCode::from_u16(self.status)
            .map_err(|_| KintoError::Unreadable(format!("a sub-answer of status {}", self.status)))?;
        let pairs = self.headers.iter().filter_map(|(name, value)| {
            Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))
        });
        *single.headers_mut() = pairs.collect();
        Ok(single)
    }
}
