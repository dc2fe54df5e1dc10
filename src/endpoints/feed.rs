//! Answers a request for a feed.

pub mod admission;
pub mod body;
mod normal;
mod shared;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::access::{Footing, Requester, Verdict};
use crate::app::Core;
use crate::endpoints::feed::admission::admitted;
use crate::error::Error;
use crate::feeds::framing::{self, Framing, Layout};
use crate::feeds::log_once::Matter;
use crate::feeds::params::{self, Bound, End, Mode, Params};
use crate::feeds::previous::Previous;
use crate::feeds::reader::FeedReader;
use crate::feeds::reader_limit::Seat;
use crate::feeds::reader_options::{Admission, Memory, ReaderOptions, Supply};
use crate::feeds::seen_before::ReaderId;
use crate::feeds::snapshot::Position;
use crate::feeds::sources::Beginning;
use crate::feeds::{Subject, filter};
use crate::kinto::object::Object;
use crate::kinto::seq::Seq;
use crate::mirror::Freshness;
use crate::upstream::UpstreamError;
use crate::wire::body::{Body, Response};
use crate::wire::cache_control;
use crate::wire::headers;
use crate::wire::limited;
use crate::wire::peer::{Peer, client};

/// Has nginx pass on what it gets at once.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// How long a reader waits for the channel to know what was just read.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers a request for the feed of `subject`: checks who asks, and for what.
pub async fn answer(
    core: &Arc<Core>,
    subject: Subject,
    request: &Parts,
    body: Body,
    peer: &Peer,
) -> Result<Response, Error> {
    let app = &core.app;
    let settings = &app.settings;
    let requester = core.requester(&request.headers);
    let footing = app.access.footing(subject.bucket(), &requester.credentials);
    let (subject, is_stale) = admitted(core, subject, &requester).await?;
    // Whoever may not read is not told what is wrong with the parameters.
    let mut hold = core.hold(&request.headers, peer);
    let body = limited::limited(body, &settings.limits)?;
    let object = body::read(request, body, settings.limits.body_limit(), &mut hold).await?;
    let mut params = Params::read(request.uri.query(), &request.headers, object, settings.feeds.max_timeout)?;
    if let Some(name) =
        params.ignored.as_deref().filter(|_| app.feeds.log_once.is_new(&subject, Matter::Ignored))
    {
        tracing::warn!(
            collection = %subject,
            parameter = name,
            "{name:?} is no parameter of feeds, and is ignored in that of {subject}: filters of Kinto's need filter=_kinto"
        );
    }
    let mut beginning = app.feeds.sources.snapshot(&subject, params.since, &requester).await?;
    if !beginning.is_readable {
        tell_of_unreadable(core, &subject);
    }
    if is_stale {
        beginning.freshness = Freshness::Stale;
    }
    let mut definition = None;
    let defined = async |name: &str| {
        let found = named(core, &subject, &requester, name).await?;
        definition = found.as_ref().map(Value::to_string);
        Ok(found)
    };
    let filter = filter::FeedFilter::read(&mut params, defined).await?;
    let query = request.uri.query().map_or(0, str::len);
    // SECURITY: it is held for as long as its reader reads, and so are the credentials.
    hold.set(requester.credentials.weight() + filter.as_ref().map_or(0, |filter| filter.weight(query)))?;
    let previous = match &subject {
        Subject::Collection(key) if params.previous => {
            let (history, requester) = (Arc::clone(&app.history), requester.clone());
            Some(Arc::new(Previous { history, requester, key: key.clone() }))
        }
        _ => None,
    };
    let client = client(peer, &request.headers, settings);
    let options = ReaderOptions {
        layout: Layout { framing: params.mode.framing(), docs: params.docs },
        // Newest first: what comes later belongs in front, and cannot follow.
        end: if params.descending { End::Now } else { params.mode.end() },
        patience: params.patience,
        is_descending: params.descending,
        limit: params.limit,
        filter,
        client,
        until: params.until.map(|until| beginning.until(until)),
        previous,
        cursor: None,
        heartbeat_seq: params.heartbeat_seq,
        buffers: Arc::clone(&app.buffers),
    };
    // SECURITY: what depends on who asks is not for others.
    let is_for_all = requester.is_anonymous() && request.method == Method::GET && !params.descending;
    let shared = params.shared.filter(|_| is_for_all && params.since != Bound::Now);
    let lineage = beginning.snapshot.lineage();
    let presence = if shared.is_some() {
        app.feeds.seen_before.enter_for_many(lineage)
    } else {
        let reader = ReaderId::of(client, &requester.credentials, &request.headers);
        app.feeds.seen_before.enter(lineage, reader).await
    };
    let memory = Memory { began: beginning.snapshot.began(), presence: Arc::new(presence) };
    let mode = params.mode;
    let asked =
        FeedRequest { core, subject, request, requester, footing, params, definition, beginning, memory };
    let response = match (mode, shared) {
        (Mode::Normal, _) => asked.normal(options, &mut hold).await?,
        (_, Some(shared)) => asked.shared(options, shared, client, peer, &mut hold).await?,
        (_, None) => asked.live(options, client, peer).await?,
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
    requester: &Requester,
    name: &str,
) -> Result<Option<Value>, Error> {
    let asked = async |object: Object| {
        let path = object.to_string();
        // What the service account may see is for those who may see it, too.
        let is_theirs = matches!(requester.may_read_object(&object).await?, Verdict::Granted(_));
        let source = if is_theirs { core.access.source() } else { requester.source() };
        let mut answer = source.get(&path).await?;
        if is_theirs && matches!(answer.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            answer = requester.source().get(&path).await?;
        }
        if answer.status().is_server_error() {
            return Err(UpstreamError::of_status(answer.status(), "the metadata with its filters").into());
        }
        match serde_json::from_slice(answer.body()) {
            Ok(Envelope { data }) => filter::defined(data.get().as_bytes(), name),
            Err(_) => Ok(None),
        }
    };
    let bucket = match subject {
        Subject::Collection(key) => {
            let found = match core.app.mirrors.mirror(key).state() {
                Some(state) => filter::defined(&state.content.metadata.json, name)?,
                None => asked(Object::Collection(key.bucket.to_string(), key.collection.to_string())).await?,
            };
            if found.is_some() {
                return Ok(found);
            }
            &key.bucket
        }
        Subject::Bucket(bucket) | Subject::History(bucket, _) => bucket,
        Subject::Monitor => return Ok(None),
    };
    asked(Object::Bucket(bucket.to_string())).await
}

/// Tells a browser that nothing more comes. It would ask for ever for a feed that has ended.
fn over() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    cache_control::forbid(response.headers_mut());
    headers::insert_kinto_defaults(response.headers_mut());
    response
}

#[derive(Deserialize)]
struct Envelope<'d> {
    #[serde(borrow)]
    data: &'d RawValue,
}

/// A request that may be answered.
struct FeedRequest<'a> {
    core: &'a Arc<Core>,
    subject: Subject,
    request: &'a Parts,
    requester: Requester,
    footing: Footing,
    params: Params,
    /// Of the filter that the request names.
    definition: Option<String>,
    beginning: Beginning,
    memory: Memory,
}

impl FeedRequest<'_> {
    /// Answers with a feed that waits for changes.
    async fn live(
        self,
        mut options: ReaderOptions,
        client: Option<IpAddr>,
        peer: &Peer,
    ) -> Result<Response, Error> {
        let (framing, is_poll) = (options.layout.framing, self.params.mode == Mode::Longpoll);
        let position = self.position();
        if self.settle_end(&mut options, &position)? {
            return Ok(over());
        }
        let mut lent = None;
        let body = if self.request.method == Method::HEAD {
            Body::empty()
        } else if options.end == End::Now {
            lent = self.beginning.snapshot.lent();
            Body::boxed(self.fixed(options, position))
        } else if let Some(seat) = self.seat(client, peer)? {
            Body::boxed(self.waiting(seat, options, position).await?)
        } else {
            Body::full(framing::FULL)
        };
        let mut response = Response::new(body);
        if let Some(lent) = lent {
            response.extensions_mut().insert(lent);
        }
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(framing.content_type()));
        // A long poll looks like an answer that could be kept.
        let keeping = if is_poll { "no-store, no-transform" } else { "no-cache, no-transform" };
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(keeping));
        headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
        headers::insert_kinto_defaults(headers);
        Ok(response)
    }

    /// Finds out whether there is anything to wait for, which needs a source that is kept; and whether a browser that came back
    /// is to stay away.
    fn settle_end(&self, options: &mut ReaderOptions, position: &Position) -> Result<bool, Error> {
        if let Some(last) = options.until.and_then(|until| self.last(until)) {
            let is_past = position.seq >= last;
            if is_past && options.layout.framing == Framing::Events && !options.is_descending {
                return Ok(true);
            }
            // A long poll that has nothing to tell waits all the same: its client asks again at once.
            if !is_past || self.params.mode != Mode::Longpoll {
                options.end = End::Now;
            }
        }
        if options.end != End::Now {
            self.check_kept()?;
        }
        Ok(false)
    }

    /// A reader of what there is.
    fn fixed(self, options: ReaderOptions, position: Position) -> FeedReader {
        FeedReader::new(Supply::Fixed(self.beginning.snapshot), None, options, position, self.memory)
    }

    /// A reader of what there is, and of what comes.
    async fn waiting(
        self,
        seat: Seat,
        options: ReaderOptions,
        position: Position,
    ) -> Result<FeedReader, Error> {
        let feeds = &self.core.app.feeds;
        let channel = feeds.channel(&self.subject);
        channel.reach(self.beginning.snapshot.serial(), PATIENCE).await?;
        let credentials = self.requester.credentials;
        let grant = feeds.permission_watch.give(self.subject, credentials, self.footing, &channel);
        let admission = Some(Admission { seat, grant });
        let supply = Supply::Live(channel.join());
        Ok(FeedReader::new(supply, admission, options, position, self.memory))
    }

    /// The last seq of a feed that ends with `until`, where nothing is to be waited for: it is known, or past.
    fn last(&self, until: Seq) -> Option<Seq> {
        let newest = self.beginning.snapshot.newest_seq();
        let overlap = self.core.app.feeds.sources.overlap();
        // What is written from now on is later by the upstream's clock.
        let is_past =
            || until.at < self.core.upstream.time().back(overlap) && self.params.mode != Mode::Longpoll;
        (until <= newest || is_past()).then_some(until.min(newest))
    }

    /// Refuses a live feed of what is not kept in memory: it would be read from the upstream again for each reader.
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

    /// Where the reader begins. Newest first, that is at the newest, whatever `since` says: so `CouchDB` and `PouchDB` have it.
    fn position(&self) -> Position {
        if self.params.descending {
            let snapshot = &self.beginning.snapshot;
            let seq = self.params.since.seq().unwrap_or_else(|| snapshot.newest_seq());
            return Position::new(seq, snapshot.serial());
        }
        self.beginning.position(self.params.since, &self.memory.presence)
    }
}
