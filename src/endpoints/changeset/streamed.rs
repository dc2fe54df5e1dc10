//! Changesets that are not mirrored: read from the upstream page by page, and passed on while they are read.
//!
//! The proof that metadata, timestamp and changes belong together comes at the end of the reading; where it fails, the
//! answer breaks off, so that nobody takes it for complete.

use std::time::SystemTime;

use bytes::Bytes;

use super::Readable;
use crate::current;
use crate::endpoints::list;
use crate::endpoints::parts::{Part, pass_row};
use crate::error::Error;
use crate::kinto::{CollectionKey, Timestamp};
use crate::mirror::opening::{CLOSING, opening};
use crate::upstream::UpstreamError;
use crate::upstream::kinto::{KintoError, Metadata, Pages, Source};
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
    let first = Part::next(&mut pages).await?.ok_or(KintoError::Unsettled)?;
    // One page at a time is in memory. All readers of such changesets count as one client.
    let mut hold = app.buffers.hold(None);
    hold.set(first.bytes())?;
    let limit = params.limit_within(app.settings.kinto.paginate_by);
    let mut rest = Rest {
        source,
        pages,
        key: key.clone(),
        metadata: metadata.clone(),
        timestamp: first.timestamp(),
        limit: limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX),
    };
    let head = opening(app.settings.compat, key, &metadata, first.timestamp());
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

impl Rest {
    async fn send(
        &mut self,
        sender: &Sender,
        head: Bytes,
        first: Part,
        mut hold: Hold,
    ) -> Result<(), KintoError> {
        // A reader that went away ends the reading.
        if sender.send(head).await.is_err() {
            return Ok(());
        }
        let mut part = first;
        let mut sent = 0;
        loop {
            if part.timestamp() != self.timestamp {
                return Err(KintoError::Unsettled);
            }
            let comma = |sent| Bytes::from_static(if sent == 0 { b"" } else { b"," });
            match part {
                Part::Page(page) => {
                    for row in page.rows.iter().take(self.limit - sent) {
                        for bytes in [comma(sent), row.json.clone()] {
                            if !bytes.is_empty() && sender.send(bytes).await.is_err() {
                                return Ok(());
                            }
                        }
                        sent += 1;
                    }
                }
                Part::Row(_, answer) if sent < self.limit => {
                    let comma = comma(sent);
                    let is_there = comma.is_empty() || sender.send(comma).await.is_ok();
                    if !is_there || !pass_row(answer, sender).await? {
                        return Ok(());
                    }
                    sent += 1;
                }
                Part::Row(..) => {}
            }
            if sent == self.limit {
                break;
            }
            let Some(next) = Part::next(&mut self.pages).await? else { break };
            part = next;
            hold.set(part.bytes()).map_err(|_| UpstreamError::Unavailable)?;
        }
        if self.source.metadata(&self.key, Some(&self.metadata)).await?.is_some() {
            return Err(KintoError::Unsettled);
        }
        // Only now the answer is complete.
        let _ = sender.send(Bytes::from_static(CLOSING)).await;
        Ok(())
    }
}
