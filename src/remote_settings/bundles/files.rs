//! The attachments of a collection's records.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::BundleError;
use crate::mirror::State;
use crate::remote_settings::attachments::Attachments;
use crate::upstream::{Upstream, UpstreamError, read_whole};

/// How many are fetched at once.
const AT_ONCE: usize = 4;

/// A record with its attachment.
#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) id: Arc<str>,
    /// The record, as it is written.
    pub(super) record: Bytes,
    location: String,
    size: u64,
    /// The attachment's SHA-256, in hexadecimal digits.
    hash: Option<String>,
}

#[derive(Deserialize)]
struct Record {
    attachment: Option<Attachment>,
}

#[derive(Deserialize)]
struct Attachment {
    location: String,
    size: u64,
    hash: Option<String>,
}

/// The records of a collection that have attachments, where all of these together have no more bytes than `most`.
pub(super) fn of(state: &State, most: u64) -> Result<Vec<File>, BundleError> {
    let content = &state.content;
    let files = content.rows().iter().filter(|row| !row.deleted).filter_map(|row| {
        let record = content.json(row);
        let attachment = serde_json::from_slice::<Record>(&record).ok()?.attachment?;
        let Attachment { location, size, hash } = attachment;
        Some(File { id: row.id.clone(), record, location, size, hash })
    });
    let files: Vec<File> = files.collect();
    let total = files.iter().fold(0_u64, |total, file| total.saturating_add(file.size));
    if files.is_empty() || total > most { Err(BundleError::None) } else { Ok(files) }
}

/// The same with the attachments themselves.
pub(super) async fn fetched(
    files: Vec<File>,
    attachments: &Arc<Attachments>,
    upstream: &Upstream,
) -> Result<Vec<(File, Bytes)>, BundleError> {
    let fetching = files.into_iter().map(|file| {
        let (attachments, upstream) = (Arc::clone(attachments), upstream.clone());
        async move {
            let url = attachments.url(&file.location, &upstream).await.ok_or(BundleError::None)?;
            let body = fetch(&file, &attachments, &url).await?;
            Ok::<_, BundleError>((file, body))
        }
    });
    let fetching: Vec<_> = fetching.collect();
    stream::iter(fetching).buffered(AT_ONCE).try_collect().await
}

async fn fetch(file: &File, attachments: &Attachments, url: &str) -> Result<Bytes, UpstreamError> {
    let answer = attachments.servers.ask(Method::GET, url, HeaderMap::new()).await?;
    if answer.status() != StatusCode::OK {
        return Err(UpstreamError::of_status(answer.status(), "an attachment"));
    }
    // What is larger than the record says is another one.
    let size = usize::try_from(file.size).unwrap_or(usize::MAX);
    let body = read_whole(answer, size).await?.into_body();
    let is_it = |hash: &String| format!("{:x}", Sha256::digest(&body)).eq_ignore_ascii_case(hash);
    if body.len() != size || !file.hash.as_ref().is_none_or(is_it) {
        return Err(UpstreamError::Unexpected(format!("{url} is not what its record says").into()));
    }
    Ok(body)
}
