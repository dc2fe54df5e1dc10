//! Normal feeds: everything that there is, as a list that a cache may keep.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::Method;
use http::header::{self, HeaderMap, HeaderValue};
use sha2::{Digest, Sha256};

use super::FeedRequest;
use crate::error::Error;
use crate::feeds::Subject;
use crate::feeds::params::{Bound, Params};
use crate::feeds::reader::{FeedReader, Whole};
use crate::feeds::reader_options::{ReaderOptions, Supply};
use crate::feeds::snapshot::{Position, Room};
use crate::kinto::seq::Seq;
use crate::mirror::Freshness;
use crate::wire::body::{Body, Response};
use crate::wire::buffers::Hold;
use crate::wire::cache_control::{self, Caching, Served};
use crate::wire::compression::{self, Encoding};
use crate::wire::tagged::Coded;
use crate::wire::variants::Variants;

impl FeedRequest<'_> {
    /// Answers with what there is.
    pub(super) async fn normal(self, options: ReaderOptions, hold: &mut Hold) -> Result<Response, Error> {
        let is_get = self.request.method != Method::POST;
        let tag = self.tag().filter(|_| !self.params.previous);
        // SECURITY: what a cache may keep depends on its URL, and not on who asked first.
        let is_personal = self.params.previous || self.is_personal().await?;
        let accepted = compression::accepted(&self.request.headers);
        let known = match &tag {
            Some(tag) if is_get && !is_personal => Coded::known(&self.request.headers, tag, accepted)?,
            _ => None,
        };
        let coded = match known {
            Some(known) => known,
            None if self.request.method == Method::HEAD => Coded::plain(Body::empty(), None),
            None => self.body(options, accepted, tag.as_deref(), hold).await?,
        };
        let mut response = coded.answer(tag.as_deref().filter(|_| !is_personal));
        let headers = response.headers_mut();
        if !is_personal {
            self.insert_caching(headers);
        } else if let Some(behind) = self.behind() {
            Served::Behind(behind).insert(headers);
        } else {
            cache_control::forbid(headers);
        }
        Ok(response)
    }

    /// Names the answer: what there is, where `now` is, and what a filter's name stands for.
    fn tag(&self) -> Option<String> {
        let mut tag = self.beginning.snapshot.tag()?;
        if self.params.since == Bound::Now {
            tag = format!("{tag}-{}", self.position().seq);
        }
        if let Some(definition) = &self.definition {
            let mut hasher = DefaultHasher::new();
            definition.hash(&mut hasher);
            tag = format!("{tag}-{:016x}", hasher.finish());
        }
        Some(tag)
    }

    /// Whether the answer leaves out rows that this reader was shown before, and that other readers would be given.
    async fn is_personal(&self) -> Result<bool, Error> {
        let Bound::Seq(since) = self.params.since else { return Ok(false) };
        if since == Seq::ZERO {
            return Ok(false);
        }
        if !self.beginning.is_kept {
            return Ok(self.beginning.snapshot.tag().is_none());
        }
        if self.params.descending || self.position().doubt.is_some() {
            return Ok(false);
        }
        let (snapshot, room) = (&self.beginning.snapshot, Room { rows: 1, bytes: 1, ..Room::PIECE });
        let page = Arc::clone(snapshot).page(Position::anybodys(&**snapshot, since), room).await?;
        Ok(page.rows.first().is_some_and(|row| row.seq <= since.told_again()))
    }

    /// For how many seconds it may be behind, where the upstream fails.
    fn behind(&self) -> Option<u64> {
        let is_stale = self.beginning.freshness == Freshness::Stale;
        is_stale.then(|| self.core.app.poller.behind_for())
    }

    fn insert_caching(&self, headers: &mut HeaderMap) {
        let settings = &self.core.app.settings;
        let changes = &settings.changes;
        let (bucket, collection) = match &self.subject {
            Subject::Collection(key) => (&*key.bucket, &*key.collection),
            Subject::Bucket(bucket) => (&**bucket, ""),
            Subject::Monitor => (changes.bucket.as_str(), changes.collection.as_str()),
            Subject::History(..) => {
                cache_control::forbid(headers);
                return;
            }
        };
        // As a list of records: for no longer than settings say.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        Caching {
            settings,
            bucket,
            collection,
            expiry: cache_control::expiry(settings, bucket, collection, None),
            is_public: self.requester.is_anonymous(),
            now: SystemTime::now(),
        }
        .insert(headers);
        let served =
            if self.beginning.is_kept { Served::from_memory(self.behind()) } else { Served::Upstream };
        served.insert(headers);
    }

    async fn body(
        &self,
        options: ReaderOptions,
        accepted: Encoding,
        tag: Option<&str>,
        hold: &mut Hold,
    ) -> Result<Coded, Error> {
        let snapshot = &self.beginning.snapshot;
        let position = self.position();
        let reader = || {
            let supply = Supply::Fixed(Arc::clone(snapshot));
            FeedReader::new(supply, None, options.clone(), position.clone(), self.memory.clone())
        };
        let as_it_is = || {
            let body = Body::boxed(reader());
            Coded::plain(if self.beginning.is_kept { body } else { body.asking() }, snapshot.lent())
        };
        // What is too large to be kept is not held as a whole here, either.
        if accepted == Encoding::Identity || !self.beginning.is_kept {
            return Ok(as_it_is());
        }
        let Params { docs, limit, until, .. } = &self.params;
        let tag = tag.unwrap_or_default();
        let name = format!("{:?} {tag} {position:?} {docs} {limit:?} {until:?}", self.subject);
        // SECURITY: ids are as long as whoever made them likes, and what is kept of an answer beside its body is not measured.
        let name = (<[u8; 32]>::from(Sha256::digest(name)), accepted);
        // Nobody asks twice for the same of a history.
        let is_shared = options.filter.is_none()
            && options.previous.is_none()
            && !options.is_descending
            && !matches!(self.subject, Subject::History(..));
        let app = &self.core.app;
        if is_shared && let Some(variant) = app.feeds.compressed.get(&name) {
            self.memory.presence.note(&position, &variant.note, true);
            return Ok(Coded::compressed(variant, accepted));
        }
        let before = hold.bytes();
        let whole = reader().whole(hold).await;
        if let Err(Error::Unavailable { .. }) = whole {
            // Where there is no room for all of it, it is written as it is read.
            hold.set(before)?;
            return Ok(as_it_is());
        }
        let Whole { text: body, position: last, .. } = whole?;
        if body.len() < compression::WORTHWHILE {
            return Ok(Coded::plain(Body::full(body), None));
        }
        let own = Variants::default();
        let variants = if is_shared { &app.feeds.compressed } else { &own };
        let made = variants.get_or_make(name, last, Bytes::new(), vec![body], &app.background).await;
        // From here on it is lent.
        hold.set(before)?;
        Ok(Coded::compressed(made.map_err(|error| Error::Internal(error.into()))?, accepted))
    }
}
