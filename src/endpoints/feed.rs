//! Answers a request for a feed.

pub mod admission;
pub mod body;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue, ORIGIN};
use http::request::Parts;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::access::Credentials;
use crate::app::Core;
use crate::endpoints::feed::admission::admitted;
use crate::endpoints::refusal;
use crate::error::Error;
use crate::feeds::follow::Beginning;
use crate::feeds::framing::{self, Layout};
use crate::feeds::log_once::Matter;
use crate::feeds::params::{self, End, Mode, Params, Since};
use crate::feeds::reader::Reader;
use crate::feeds::reader_limit::Seat;
use crate::feeds::reader_options::{Admission, Memory, ReaderOptions, Supply};
use crate::feeds::seen_before::ReaderId;
use crate::feeds::snapshot::{Position, Room};
use crate::feeds::{Subject, filter};
use crate::kinto::segment;
use crate::kinto::seq::Seq;
use crate::mirror::Freshness;
use crate::upstream::UpstreamError;
use crate::wire::body::{Body, Response};
use crate::wire::buffers::Hold;
use crate::wire::cache_control::{self, Caching, Served};
use crate::wire::compression::{self, Encoding};
use crate::wire::cors::{self, Exposed};
use crate::wire::headers;
use crate::wire::peer::{Peer, client};
use crate::wire::tagged::Coded;
use crate::wire::variants::Variants;

const METHODS: &str = "GET,HEAD,POST,OPTIONS";

/// Has nginx pass on what it gets at once.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// How long a reader waits for the channel to know what was just read.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers a request for the feed of `subject`.
pub async fn answer(
    core: &Arc<Core>,
    subject: Subject,
    request: Parts,
    body: Body,
    peer: &Peer,
) -> Result<Response, Error> {
    let origins = &core.app.settings.kinto.cors_origins;
    if request.method == Method::OPTIONS {
        return Ok(cors::preflight(&request.headers, METHODS, Exposed::Changeset, origins)?);
    }
    let mut response = match granted(core, subject, &request, body, peer).await {
        Err(error) if error.status().is_client_error() => refusal(error, &request.headers),
        answered => core.lent(answered?, &request.headers, peer)?,
    };
    cors::finish(response.headers_mut(), request.headers.get(ORIGIN), Exposed::Changeset, origins);
    Ok(response)
}

/// Checks who asks, and for what.
async fn granted(
    core: &Arc<Core>,
    subject: Subject,
    request: &Parts,
    body: Body,
    peer: &Peer,
) -> Result<Response, Error> {
    if !matches!(request.method, Method::GET | Method::HEAD | Method::POST) {
        return Err(Error::MethodNotAllowed { allow: "GET, HEAD, POST, OPTIONS" });
    }
    let app = &core.app;
    let settings = &app.settings;
    cors::check_origin(&request.headers, &settings.kinto.cors_origins)?;
    let credentials = Credentials::of(&request.headers);
    let (subject, is_stale) = match admitted(core, subject, &credentials, request).await? {
        ControlFlow::Break(refusal) => return Ok(refusal),
        ControlFlow::Continue(admitted) => admitted,
    };
    // Who may not read is not told what is wrong with the parameters.
    let mut hold = core.hold(&request.headers, peer);
    let object = body::read(request, body, settings.limits.body_limit(), &mut hold).await?;
    let params = Params::read(request.uri.query(), &request.headers, object, settings.feeds.max_timeout)?;
    if let Some(name) =
        params.ignored.as_deref().filter(|_| app.feeds.log_once.is_new(&subject, Matter::Ignored))
    {
        tracing::warn!(
            collection = %subject,
            parameter = name,
            "{name:?} is no parameter of feeds, and is ignored in that of {subject}: filters of Kinto's need filter=_kinto"
        );
    }
    let mut beginning =
        app.feeds.sources.snapshot(&subject, params.since, &core.upstream, &credentials).await?;
    if !beginning.is_readable {
        tell_of_unreadable(core, &subject);
    }
    if is_stale {
        beginning.freshness = Freshness::Stale;
    }
    let mut definition = None;
    let defined = async |name: &str| {
        let found = named(core, &subject, &credentials, name).await?;
        definition = found.as_ref().map(Value::to_string);
        Ok(found)
    };
    let filter = filter::Filter::read(&params, defined).await?;
    let query = request.uri.query().map_or(0, str::len);
    // SECURITY: it is held for as long as its reader reads, and so are the credentials.
    hold.set(credentials.weight() + filter.as_ref().map_or(0, |filter| filter.weight(query)))?;
    let options = ReaderOptions {
        layout: Layout { framing: params.mode.framing(), docs: params.docs },
        // Newest first, nothing that is waited for can follow.
        end: if params.descending { End::Now } else { params.mode.end() },
        patience: params.patience,
        is_descending: params.descending,
        limit: params.limit,
        filter,
    };
    let client = client(peer, &request.headers, settings);
    let reader = ReaderId::of(client, &credentials, &request.headers);
    let presence = Arc::new(app.feeds.seen_before.enter(beginning.snapshot.lineage(), reader).await);
    let memory = Memory { began: beginning.snapshot.began(), presence };
    let asked = Asked { core, subject, request, credentials, params, definition, beginning, memory };
    let response = if asked.params.mode == Mode::Normal {
        asked.normal(options, &mut hold).await?
    } else {
        asked.live(options, client, peer).await?
    };
    Ok(response.map(|body| body.held(hold)))
}

/// Tells the log once of what only its readers may read.
pub(super) fn tell_of_unreadable(core: &Core, subject: &Subject) {
    if core.app.feeds.log_once.is_new(subject, Matter::Unreadable) {
        let (whereon, settings) = match subject {
            Subject::Bucket(_) => ("bucket", "bucket_read_principals, collection_read_principals"),
            _ => ("collection or its bucket", "collection_read_principals"),
        };
        tracing::warn!(
            collection = %subject,
            "live feeds of {subject} are refused: the service account (sidecar.auth) may not read it. Give it the permission \
             \"read\" on the {whereon}, or name it in Kinto's {settings} and record_read_principals"
        );
    }
}

/// The filter of this name in the collection's metadata, or else in the bucket's.
async fn named(
    core: &Core,
    subject: &Subject,
    credentials: &Credentials,
    name: &str,
) -> Result<Option<Value>, Error> {
    let asked = async |path: &str| {
        let mut answer = core.upstream.ask(Method::GET, path, HeaderMap::new(), Bytes::new()).await?;
        if matches!(answer.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            answer = core.upstream.ask_as(Method::GET, path, credentials.headers(), Bytes::new()).await?;
        }
        if answer.status().is_server_error() {
            return Err(UpstreamError::of_status(answer.status(), "the metadata with its filters").into());
        }
        match serde_json::from_slice(answer.body()) {
            Ok(Data { data }) => filter::defined(data.get().as_bytes(), name),
            Err(_) => Ok(None),
        }
    };
    let bucket = match subject {
        Subject::Collection(key) => {
            let found = match core.app.mirrors.mirror(key).state() {
                Some(state) => filter::defined(&state.content.metadata.json, name)?,
                None => asked(&key.uri()).await?,
            };
            if found.is_some() {
                return Ok(found);
            }
            &key.bucket
        }
        Subject::Bucket(bucket) | Subject::History(bucket, _) => bucket,
        Subject::Monitor => return Ok(None),
    };
    asked(&format!("/buckets/{}", segment(bucket))).await
}

#[derive(Deserialize)]
struct Data<'d> {
    #[serde(borrow)]
    data: &'d RawValue,
}

/// A request that may be answered.
struct Asked<'a> {
    core: &'a Arc<Core>,
    subject: Subject,
    request: &'a Parts,
    credentials: Credentials,
    params: Params,
    /// Of the filter that the request names.
    definition: Option<String>,
    beginning: Beginning,
    memory: Memory,
}

impl Asked<'_> {
    /// Answers with a feed that waits for changes.
    async fn live(
        self,
        options: ReaderOptions,
        client: Option<IpAddr>,
        peer: &Peer,
    ) -> Result<Response, Error> {
        let feeds = &self.core.app.feeds;
        let framing = options.layout.framing;
        if options.end != End::Now {
            self.check_kept()?;
        }
        let position = self.position();
        let mut lent = None;
        let body = if self.request.method == Method::HEAD {
            Body::empty()
        } else if options.end == End::Now {
            lent = self.beginning.snapshot.lent();
            let supply = Supply::Fixed(Arc::clone(&self.beginning.snapshot));
            Body::boxed(Reader::new(supply, None, options, position, self.memory))
        } else if let Some(seat) = self.seat(client, peer)? {
            let channel = feeds.channel(&self.subject);
            channel.reach(self.beginning.snapshot.serial(), PATIENCE).await?;
            let grant = feeds.permission_watch.give(self.subject, self.credentials, &channel);
            let admission = Some(Admission { seat, grant });
            let supply = Supply::Live(channel.join());
            Body::boxed(Reader::new(supply, admission, options, position, self.memory))
        } else {
            Body::full(framing::FULL)
        };
        let mut response = Response::new(body);
        if let Some(lent) = lent {
            response.extensions_mut().insert(lent);
        }
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(framing.content_type()));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
        headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
        headers::insert_kinto_defaults(headers);
        Ok(response)
    }

    /// Refuses a live feed of what is not kept: each reader would have it read from the upstream again and again.
    fn check_kept(&self) -> Result<(), Error> {
        if self.beginning.is_kept {
            return Ok(());
        }
        let subject = &self.subject;
        if !self.beginning.is_readable {
            return Err(Error::Feed {
                status: StatusCode::FORBIDDEN,
                reason: format!(
                    "{subject} has no live feed, as the server's own account may not read it: that needs the permission \
                     \"read\" on the {}. Its normal feed has everything.",
                    if matches!(subject, Subject::Bucket(_)) { "bucket" } else { "collection or its bucket" }
                ),
            });
        }
        if self.core.app.feeds.log_once.is_new(subject, Matter::Oversize) {
            tracing::warn!(
                collection = %subject,
                "live feeds of {subject} are refused: it is larger than sidecar.cache_size"
            );
        }
        Err(params::refused(
            "This collection has no live feed, as it is larger than the server keeps (sidecar.cache_size). \
             Its normal feed has everything.",
        ))
    }

    /// A seat among the readers; `None` where a browser has to be told that there is none: it would never come back from a 503.
    fn seat(&self, client: Option<IpAddr>, peer: &Peer) -> Result<Option<Seat>, Error> {
        match self.core.app.feeds.reader_limit.take(client, peer) {
            Err(Error::Unavailable { .. }) if self.params.mode == Mode::EventSource => Ok(None),
            taken => taken.map(Some),
        }
    }

    /// Answers with what there is.
    async fn normal(self, options: ReaderOptions, hold: &mut Hold) -> Result<Response, Error> {
        let is_get = self.request.method != Method::POST;
        let tag = self.tag();
        // SECURITY: what a cache may keep depends on its URL, and not on who asked first.
        let is_personal = self.is_personal().await?;
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
        } else if self.beginning.freshness == Freshness::Stale {
            Served::from_memory(true).insert(headers);
        } else {
            cache_control::forbid(headers);
        }
        Ok(response)
    }

    /// Names the answer: what there is, where `now` is, and what a filter's name stands for.
    fn tag(&self) -> Option<String> {
        let mut tag = self.beginning.snapshot.tag()?;
        if self.params.since == Since::Now {
            tag = format!("{tag}-{}", self.position().seq);
        }
        if let Some(definition) = &self.definition {
            let mut hasher = DefaultHasher::new();
            definition.hash(&mut hasher);
            tag = format!("{tag}-{:016x}", hasher.finish());
        }
        Some(tag)
    }

    /// Where the reader begins. Newest first, that is at the newest, whatever `since` says: so `CouchDB` and `PouchDB` have it.
    fn position(&self) -> Position {
        if self.params.descending {
            let snapshot = &self.beginning.snapshot;
            let seq = self.params.since.seq().unwrap_or_else(|| snapshot.newest_seq());
            return Position::new(seq, snapshot.serial());
        }
        self.beginning.position(self.params.since, &self.memory.presence)
    }

    /// Whether the answer leaves out what this reader is known to have been shown, and any other would be given.
    async fn is_personal(&self) -> Result<bool, Error> {
        let Since::Seq(since) = self.params.since else { return Ok(false) };
        if since == Seq::ZERO {
            return Ok(false);
        }
        if !self.beginning.is_kept {
            return Ok(self.beginning.snapshot.tag().is_none());
        }
        if self.params.descending || self.position().doubt.is_some() {
            return Ok(false);
        }
        let (snapshot, room) = (&self.beginning.snapshot, Room { rows: 1, bytes: 1 });
        let page = Arc::clone(snapshot).page(Position::anybodys(&**snapshot, since), room).await?;
        Ok(page.rows.first().is_some_and(|row| row.seq <= since.told_again()))
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
            expected: None,
            is_public: self.credentials.is_anonymous(),
            now: SystemTime::now(),
        }
        .insert(headers);
        let served = if self.beginning.is_kept {
            Served::from_memory(self.beginning.freshness == Freshness::Stale)
        } else {
            Served::Upstream
        };
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
            Reader::new(supply, None, options.clone(), position.clone(), self.memory.clone())
        };
        let as_it_is = || Coded::plain(Body::boxed(reader()), snapshot.lent());
        // What is not kept is not held as a whole here, either.
        if accepted == Encoding::Identity || !self.beginning.is_kept {
            return Ok(as_it_is());
        }
        let Params { docs, limit, .. } = &self.params;
        let name = format!("{:?} {} {position:?} {docs} {limit:?}", self.subject, tag.unwrap_or_default());
        let name = (name, accepted);
        // Nobody asks twice for the same of a history.
        let is_shared = options.filter.is_none()
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
        let (body, last) = whole?;
        if body.len() < compression::WORTHWHILE {
            return Ok(Coded::plain(Body::full(body), None));
        }
        let own = Variants::default();
        let variants = if is_shared { &app.feeds.compressed } else { &own };
        let made = variants.get_or_make(name, last, vec![body], &app.background).await;
        // From here on it is lent.
        hold.set(before)?;
        Ok(Coded::compressed(made.map_err(|error| Error::Internal(error.into()))?, accepted))
    }
}
