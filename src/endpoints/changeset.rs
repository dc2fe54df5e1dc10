//! `GET /buckets/{bucket}/collections/{collection}/changeset`: a collection's metadata, timestamp and changes, of one
//! moment.
//!
//! Whoever may read the collection and all of its records may read its changeset; the upstream says who. The answer is a
//! slice of the collection's mirror. What cannot be mirrored (the service account may not read it, or it is larger than the
//! cache) is read from the upstream and streamed, page by page.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, Method};
use tokio::time::Instant;

use super::changeset_params::{ChangesetParams, timestamp};
use super::recent::{self, Standing};
use super::{list, own_bucket};
use crate::access::{Granted, Requester, Verdict};
use crate::app::Core;
use crate::error::Error;
use crate::kinto::{CollectionKey, Timestamp};
use crate::mirror::opening::CLOSING;
use crate::mirror::{Freshness, State};
use crate::remote_settings::signatures::Waits;
use crate::settings::Compat;
use crate::upstream::kinto::KintoError;
use crate::wire::body::{Body, Response};
use crate::wire::cache_control::{self, Caching, Served};
use crate::wire::compression::{self, Encoding};
use crate::wire::dictionaries::Terms;
use crate::wire::tagged::Coded;

mod streamed;

/// Answers a `GET` or `HEAD` for the changeset of `key`, which is not monitor/changes.
pub async fn answer(
    core: &Core,
    request: &http::request::Parts,
    key: CollectionKey,
) -> Result<Response, Error> {
    let app = &core.app;
    let params = ChangesetParams::parse(request.uri.query(), app.settings.compat);
    let requester = core.requester(&request.headers);
    let (key, verdict) = own_bucket::readable(core, key, &requester).await?;
    let granted = match verdict {
        Verdict::Granted(granted) => granted,
        Verdict::Refused(refusal) if refusal.is_absence() => return Err(Error::NotFound),
        Verdict::Refused(refusal) => return Err(Error::Refused(refusal)),
    };
    // As in the plugin, whoever may not read the collection is not told what is wrong with the parameters.
    let params = params?;
    // A long expiry is for answers that are as new as the client knows the collection to be.
    let expiry = |is_met: bool| {
        let expected = Some(&*params.expected).filter(|_| is_met);
        cache_control::expiry(&app.settings, &key.bucket, &key.collection, expected)
    };
    Readable { core, key: &key, params: &params, requester: &requester, granted, expiry: &expiry }
        .answer(request)
        .await
}

/// A changeset that its requester may read.
pub(super) struct Readable<'a> {
    pub(super) core: &'a Core,
    pub(super) key: &'a CollectionKey,
    pub(super) params: &'a ChangesetParams,
    pub(super) requester: &'a Requester,
    pub(super) granted: Granted,
    /// For how long an answer may be kept: one that is as new as its requester knows the collection to be, or another.
    pub(super) expiry: &'a (dyn Fn(bool) -> Option<i64> + Sync),
}

impl Readable<'_> {
    pub(super) async fn answer(&self, request: &http::request::Parts) -> Result<Response, Error> {
        let app = &self.core.app;
        let mirror = app.mirrors.mirror(self.key);
        mirror.clock().used();
        if let Some(metadata) = self.granted.metadata {
            // The requester was just shown other metadata than what is mirrored.
            let mirrored = mirror.state().map(|state| state.content.metadata.last_modified);
            if mirrored.is_some_and(|mirrored| mirrored < metadata) {
                app.timeline.touched(self.key);
            }
        }
        let expected = newest(Some(&self.params.expected), self.params.since);
        let (state, freshness, _) =
            match app.signatures.published(&app.mirrors, &mirror, expected, Waits::ToTheEnd).await {
                Ok(published) => published,
                Err(KintoError::Refused(_)) => return streamed::answer(self, true).await,
                Err(KintoError::Oversize) => return streamed::answer(self, false).await,
                Err(error) => return Err(error.into()),
            };
        let complete_since = app.mirrors.deletions().complete_since(self.key).max(state.content.remembers());
        if let (Some(since), Some(complete)) = (self.params.since, complete_since)
            && (Timestamp(1)..complete).contains(&since)
        {
            metrics::counter!("kinto_sidecar_changesets_before_deletions_total").increment(1);
        }
        let freshness = if self.granted.stale { Freshness::Stale } else { freshness };
        let mut response =
            MirroredChangeset { asked: self, state: &state }.respond(request, freshness).await?;
        if freshness == Freshness::Hit && app.settings.permission_ttl >= recent::LONGEST {
            // Weak: what is remembered of an answer keeps no content.
            let (mirror, state) = (Arc::downgrade(&mirror), Arc::downgrade(&state));
            let stands = move |_: &Core| mirror.upgrade().is_some_and(|mirror| mirror.is_still(&state));
            response.extensions_mut().insert(Standing::on_contents(stands));
        }
        Ok(response)
    }
}

/// The newest timestamp that a request shows to be known to the client, where that is plausible.
pub(super) fn newest(expected: Option<&str>, since: Option<Timestamp>) -> Option<Timestamp> {
    let expected = expected.filter(|expected| !cache_control::busts_caches(expected));
    expected.and_then(timestamp).max(since).filter(|newest| *newest <= Timestamp::PLAUSIBLE)
}

struct MirroredChangeset<'a> {
    asked: &'a Readable<'a>,
    state: &'a Arc<State>,
}

impl MirroredChangeset<'_> {
    async fn respond(&self, request: &http::request::Parts, freshness: Freshness) -> Result<Response, Error> {
        let content = &self.state.content;
        let app = &self.asked.core.app;
        let terms = app.dictionaries.terms(request);
        let tag = format!("{}-{:016x}", content.timestamp, content.digest());
        let coded = match Coded::known(&request.headers, &tag, terms.encoding)? {
            Some(known) => known,
            None => self.body(&request.method, &terms).await?,
        };
        let mut response = coded.answer(Some(&tag));
        let is_whole = self.asked.params.since.is_none() && self.limit().is_none();
        let whole = || self.chunks(content.all(None));
        let whole = is_whole.then_some((&self.state.dictionary, whole));
        app.dictionaries.offer(&terms, request, &mut response, whole);
        let headers = response.headers_mut();
        let modified = match app.settings.compat {
            Compat::KintoChanges => content.timestamp,
            Compat::RemoteSettings => content.metadata.last_modified,
        };
        list::insert_modified(headers, modified);
        self.insert_caching(headers, freshness);
        Ok(response)
    }

    /// The whole body, compressed where the client takes it and it is worth it.
    async fn body(&self, method: &Method, terms: &Terms) -> Result<Coded, Error> {
        let content = &self.state.content;
        let Readable { core, key, params, .. } = self.asked;
        let settings = &core.app.settings;
        let accepted = terms.encoding;
        let limit = self.limit();
        let selection = params.since.map(|since| content.since(since, limit, settings.overlap));
        // A selection says by itself how many rows it has.
        let limit = limit.filter(|_| selection.is_none());
        let name = ((selection, limit), if *method == Method::HEAD { Encoding::Identity } else { accepted });
        if name.1 != Encoding::Identity
            && let Some(variant) = self.state.variants.get(&name)
        {
            return Ok(Coded::compressed(variant, accepted));
        }
        let changes = match &name.0.0 {
            Some(selection) => content.chunks(selection),
            None => content.all(limit),
        };
        let chunks = self.chunks(changes);
        let length: usize = chunks.iter().map(Bytes::len).sum();
        if name.1 == Encoding::Identity || length < compression::WORTHWHILE {
            return Ok(Coded::plain(Body::chunks(chunks), self.state.stock.lent(length)));
        }
        let (dictionary, background) = (terms.dictionary.clone(), &core.app.background);
        let made = self.state.variants.get_or_make(name, (), dictionary, chunks, background).await;
        let variant = made.map_err(|error| Error::Internal(error.into()))?;
        core.app.mirrors.weigh(key);
        Ok(Coded::compressed(variant, accepted))
    }

    /// How many changes are asked for at most.
    fn limit(&self) -> Option<usize> {
        let limit = self.asked.params.limit_within(self.asked.core.app.settings.kinto.paginate_by);
        limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
    }

    /// The changeset that has these changes.
    fn chunks(&self, changes: Vec<Bytes>) -> Vec<Bytes> {
        let mut chunks = Vec::with_capacity(changes.len() + 2);
        chunks.push(self.state.opening(self.asked.core.app.settings.compat, self.asked.key));
        chunks.extend(changes);
        chunks.push(Bytes::from_static(CLOSING));
        chunks
    }

    fn insert_caching(&self, headers: &mut HeaderMap, freshness: Freshness) {
        let Readable { core, key, params, requester, expiry, .. } = self.asked;
        let known = self.state.content.timestamp;
        let is_met = newest(Some(&params.expected), params.since).is_none_or(|newest| newest <= known)
            && freshness != Freshness::Stale;
        Caching {
            settings: &core.app.settings,
            bucket: &key.bucket,
            collection: &key.collection,
            expiry: expiry(is_met),
            is_public: requester.is_anonymous(),
            now: SystemTime::now(),
        }
        .insert(headers);
        let served = match freshness {
            Freshness::Hit => Served::Memory,
            Freshness::Refreshed => Served::Refreshed,
            Freshness::Stale => Served::Stale(Instant::now().duration_since(self.state.began).as_secs()),
        };
        served.insert(headers);
    }
}
