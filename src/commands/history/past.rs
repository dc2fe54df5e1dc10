//! `history diff`, `history revert` and `history restore`: what was done, and undoing it, by a running sidecar and with
//! credentials of one's own. What it answers is printed, a line of JSON for each object.

use std::io::{self, Write};

use bytes::Bytes;
use form_urlencoded::Serializer;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::{Failure, failed};
use crate::cli::{Past, PastKind};
use crate::journal::Object;
use crate::kinto::segment;
use crate::settings::{InForce, Settings};
use crate::upstream::Upstream;
use crate::wire::body::Body;

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct End {
    end: EndOfRun,
}

#[derive(Deserialize)]
struct EndOfRun {
    complete: bool,
    counts: Map<String, Value>,
}

/// Asks, and prints the answer; gives what is said in the end.
pub(super) async fn run(settings: &Settings, past: &Past) -> Result<String, Failure> {
    let sidecar = Upstream::new(&InForce::from(settings.clone()))
        .map_err(|error| Failure::Problem(error.to_string()))?;
    let asking = Asking { sidecar, settings, past };
    match past.kind {
        PastKind::Diff => asking.diff().await,
        PastKind::Revert | PastKind::Restore => asking.write().await,
    }
}

struct Asking<'a> {
    sidecar: Upstream,
    settings: &'a Settings,
    past: &'a Past,
}

impl Asking<'_> {
    async fn diff(&self) -> Result<String, Failure> {
        let mut query = Serializer::new(String::new());
        query.extend_pairs(self.selection());
        let bucket = Object::Bucket(self.past.bucket.clone());
        let mut path = format!("{bucket}/history/diff?{}", query.finish());
        let mut number = 0;
        loop {
            let answer = self.ask(Method::GET, &path, HeaderMap::new(), Bytes::new()).await?;
            let (parts, body) = answer.into_parts();
            let body = body.collect().await.map_err(|error| Failure::Problem(error.to_string()))?.to_bytes();
            let page: Page<'_> =
                serde_json::from_slice(&body).map_err(|error| Failure::Problem(error.to_string()))?;
            let mut output = io::stdout().lock();
            for row in &page.data {
                writeln!(output, "{row}").map_err(|error| failed(None, &error))?;
            }
            number += page.data.len();
            let next = parts.headers.get("next-page").and_then(|next| next.to_str().ok());
            match next.and_then(|next| self.sidecar.relative(next)) {
                Some(next) => path = next,
                None => return Ok(format!("{number} objects are not as they were")),
            }
        }
    }

    async fn write(&self) -> Result<String, Failure> {
        let Past { bucket, collection, kind, is_meant, .. } = self.past;
        let object = Object::Bucket(bucket.clone());
        let mut body = self.options();
        let restored = collection.as_ref().zip(self.past.from.as_ref());
        let path = if let (PastKind::Restore, Some((collection, moment))) = (kind, restored) {
            format!("{object}/snapshot/collections/{}@{}/restore", segment(collection), segment(moment))
        } else {
            if self.past.entries.is_empty() {
                body.extend(self.selection().map(|(name, value)| (name.to_owned(), value.into())));
            } else {
                body.insert("entries".to_owned(), self.past.entries.clone().into());
            }
            format!("{object}/history/revert")
        };
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        let body = Value::Object(body).to_string();
        let answer = self.ask(Method::POST, &path, headers, body.into()).await?;
        let end = print(answer.into_body()).await?;
        let counts: Vec<String> = end
            .counts
            .iter()
            .map(|(status, number)| format!("{number} {}", status.replace('_', " ")))
            .collect();
        let told = if counts.is_empty() { "nothing is to be done".to_owned() } else { counts.join(", ") };
        if !end.complete || ["conflict", "refused"].iter().any(|status| end.counts.contains_key(*status)) {
            return Err(Failure::Problem(told));
        }
        let hint = if *is_meant { "" } else { "; nothing was written: add --yes to do it" };
        Ok(told + hint)
    }

    /// The parameters of a selection.
    fn selection(&self) -> impl Iterator<Item = (&str, &str)> {
        let moments = [("from", &self.past.from), ("to", &self.past.to)];
        let moments = moments.into_iter().filter_map(|(name, moment)| Some((name, moment.as_deref()?)));
        let filters = self.past.filters.iter();
        moments.chain(filters.map(|filter| filter.split_once('=').unwrap_or((filter, ""))))
    }

    fn options(&self) -> Map<String, Value> {
        let Past { fields, reason, overwrites, gives_permissions, is_meant, .. } = self.past;
        let mut options = Map::new();
        let mut insert = |name: &str, value: Value| _ = options.insert(name.to_owned(), value);
        insert("dry_run", (!is_meant).into());
        if *overwrites {
            insert("conflicts", "overwrite".into());
        }
        if *gives_permissions {
            insert("permissions", true.into());
        }
        if !fields.is_empty() {
            insert("fields", json!(fields));
        }
        if let Some(reason) = reason {
            insert("reason", reason.as_str().into());
        }
        options
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Body>, Failure> {
        let at = &self.settings.upstream;
        let answer = self.sidecar.ask_on(method, path, self.sidecar.authorized(headers), body).await;
        let answer = answer.map_err(|error| Failure::Problem(format!("{at} does not answer: {error}")))?;
        let status = answer.status();
        if status == StatusCode::OK {
            return Ok(answer);
        }
        let body = answer.into_body().collect().await.map(http_body_util::Collected::to_bytes);
        let text = String::from_utf8_lossy(&body.unwrap_or_default()).into_owned();
        Err(Failure::Problem(format!("{at} answers with {status}: {text}")))
    }
}

/// Prints lines as they come; gives what the last one says.
async fn print(mut body: Body) -> Result<EndOfRun, Failure> {
    let mut last: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::Problem(format!("the answer broke off: {error}")))?;
        let Ok(piece) = frame.into_data() else { continue };
        let mut output = io::stdout();
        output.write_all(&piece).and_then(|()| output.flush()).map_err(|error| failed(None, &error))?;
        last.extend_from_slice(&piece);
        let whole = last.strip_suffix(b"\n").unwrap_or(&last);
        if let Some(end) = whole.iter().rposition(|byte| *byte == b'\n') {
            last.drain(..=end);
        }
    }
    let end: Result<End, _> = serde_json::from_slice(&last);
    end.map(|end| end.end).map_err(|_| Failure::Problem("the answer broke off; do the same again".to_owned()))
}
