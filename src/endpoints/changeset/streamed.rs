//! Changesets that are not mirrored: read from the upstream page by page, and passed on while they are read.
//!
//! The proof that metadata, timestamp and changes belong together comes at the end of the reading; where it fails, the
//! answer breaks off, so that nobody takes it for complete.

use std::time::SystemTime;

use bytes::Bytes;

use super::Readable;
use crate::current;
use crate::endpoints::list;
use crate::error::Error;
use crate::kinto::{CollectionKey, Timestamp};
use crate::mirror::opening::{CLOSING, opening};
use crate::upstream::UpstreamError;
use crate::upstream::kinto::{KintoError, KintoPage, Metadata, Pages, Source};
use crate::wire::body::{Body, Response, Sender};
use crate::wire::buffers::Hold;
use crate::wire::cache_control::{Caching, Served};

/// What is still to be read of a changeset.
struct Rest {
    source: Source,
    pages: Pages,
    key: CollectionKey,
    metadata: Metadata,
    timestamp: Timestamp,
    limit: usize,
}

/// Answers with what the upstream has, read as the requester or as the service account.
pub(super) async fn answer(asked: &Readable<'_>, as_requester: bool) -> Result<Response, Error> {
    let Readable { core, key, params, .. } = *asked;
    let app = &core.app;
    let credentials = || asked.requester.credentials.clone();
    let source =
        if as_requester { app.access.requester(credentials()).source() } else { app.access.source() };
    let metadata = source.metadata(key, None).await?.ok_or(KintoError::Unsettled)?;
    let since = params.since.map(|since| since.back(app.settings.overlap));
    let uri = key.records_uri();
    let mut pages = match since {
        Some(since) => source.newer(&uri, since, "&_sort=-last_modified").await?,
        // Without a `_since` the upstream lists live records only, also those that say `"deleted": true`.
        None => source.pages(format!("{uri}?_sort=-last_modified")),
    };
    let first = pages.first().await?;
    // One page at a time is in memory. All readers of such changesets count as one client.
    let mut hold = app.buffers.hold(None);
    hold.set(bytes_of(&first))?;
    let limit = params.limit_within(app.settings.kinto.paginate_by);
    let mut rest = Rest {
        source,
        pages,
        key: key.clone(),
        metadata: metadata.clone(),
        timestamp: first.timestamp,
        limit: limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX),
    };
    let head = opening(app.settings.compat, key, &metadata, first.timestamp);
    let (sender, body) = Body::channel();
    app.background.spawn(current::carried(async move {
        if let Err(error) = rest.send(&sender, head, first, hold).await {
            tracing::warn!(collection = %rest.key, %error, "broke off the changeset of {}", rest.key);
            sender.abort(error.to_string().into()).await;
        }
    }));
    let mut response = list::json(body);
    let headers = response.headers_mut();
    Caching {
        settings: &app.settings,
        bucket: &key.bucket,
        collection: &key.collection,
        expiry: (asked.expiry)(true),
        is_public: asked.requester.is_anonymous(),
        now: SystemTime::now(),
    }
    .insert(headers);
    Served::Upstream.insert(headers);
    Ok(response)
}

/// How much of a page is in memory.
fn bytes_of(page: &KintoPage) -> usize {
    page.rows.iter().map(|row| row.json.len()).sum()
}

impl Rest {
    async fn send(
        &mut self,
        sender: &Sender,
        head: Bytes,
        first: KintoPage,
        mut hold: Hold,
    ) -> Result<(), KintoError> {
        // A reader that went away ends the reading.
        if sender.send(head).await.is_err() {
            return Ok(());
        }
        let mut page = first;
        let mut sent = 0;
        loop {
            if page.timestamp != self.timestamp {
                return Err(KintoError::Unsettled);
            }
            for row in &page.rows {
                if sent == self.limit {
                    break;
                }
                let comma = if sent == 0 { Bytes::new() } else { Bytes::from_static(b",") };
                for bytes in [comma, row.json.clone()] {
                    if !bytes.is_empty() && sender.send(bytes).await.is_err() {
                        return Ok(());
                    }
                }
                sent += 1;
            }
            if sent == self.limit {
                break;
            }
            let Some(next) = self.pages.next().await? else { break };
            page = next;
            hold.set(bytes_of(&page)).map_err(|_| UpstreamError::Unavailable)?;
        }
        if self.source.metadata(&self.key, Some(&self.metadata)).await?.is_some() {
            return Err(KintoError::Unsettled);
        }
        // Only now the answer is complete.
        let _ = sender.send(Bytes::from_static(CLOSING)).await;
        Ok(())
    }
}
