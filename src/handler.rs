//! The life of a request, from top to bottom.

use std::future::{Ready, ready};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either};
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, ETAG, EXPECT, ORIGIN};
use http::request::Parts;
use http::{HeaderValue, Method, Request};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::access_log::{AccessLine, Told};
use crate::app::Core;
use crate::aside;
use crate::current::{self, Current};
use crate::endpoints::recent::{self, Asked};
use crate::endpoints::{self, fail, root};
use crate::error::Error;
use crate::forward;
use crate::kinto::{RequestPath, Resource, Sent, Timestamp};
use crate::metrics::{self, CacheOutcome};
use crate::query::Invalid;
use crate::route::{Endpoint, Route};
use crate::settings::Settings;
use crate::traces::SpanUnderWay;
use crate::wire::arrival::Arrival;
use crate::wire::body::{self, Body, Response};
use crate::wire::buffers::Hold;
use crate::wire::headers;
use crate::wire::host;
use crate::wire::inbound::Inbound;
use crate::wire::limited;
use crate::wire::peer::{self, Peer};
use crate::wire::request_id::{self, X_REQUEST_ID};
use crate::wire::via;
use crate::writes::answer::Answer;
use crate::writes::{LARGEST_SENT, Write};

/// An answer: there, or on its way.
pub type Answered<'r> = Either<Ready<Response>, BoxFuture<'r, Response>>;

/// A request whose answer is not there yet.
struct Begun {
    since: Instant,
    request_id: HeaderValue,
    line: Option<AccessLine>,
    span: Option<SpanUnderWay>,
}

/// What is known of a request when its answer is there.
#[derive(Clone, Copy)]
enum Subject<'r> {
    /// It was noted as it began.
    Noted(&'r Arc<Current>),
    /// Nothing on the way to its answer had to know it.
    Unnoted(&'r Request<Incoming>, &'r Peer),
}

/// Answers a request. It never fails: what goes wrong becomes Kinto's error body.
///
/// What was given a moment ago is given again before anything is made ready for what may take longer.
pub fn handle(core: Arc<Core>, mut request: Request<Incoming>, peer: &Peer) -> Answered<'_> {
    let since = Instant::now();
    let settled = host::settle(&mut request, peer, &core.app.settings);
    let begun = Begun {
        since,
        request_id: request_id::take_or_make(request.headers()),
        line: AccessLine::begin(&request, since, peer, &core.app.settings),
        span: core.app.traces.as_ref().and_then(|traces| traces.begin(&mut request)),
    };
    let given = if settled.is_ok() { recent::again(&core, &request, peer) } else { None };
    if let Some((endpoint, cache, response)) = given {
        let subject = Subject::Unnoted(&request, peer);
        return Either::Left(ready(begun.end(&core, endpoint, cache, subject, response)));
    }
    Either::Right(Box::pin(async move {
        request.headers_mut().insert(X_REQUEST_ID, begun.request_id.clone());
        let origin = request.headers().get(ORIGIN).cloned();
        let route = Route::of(request.uri().path(), &core.app.settings);
        let endpoint = route.name();
        let current = note(&core, &request, &begun.request_id, peer, begun.is_told());
        let is_remembered = recent::is_remembered(&route);
        let asked = if is_remembered { Asked::of(&core, &mut request, peer.scheme()) } else { None };
        // Pinned where they are: both are large, and would be moved with each request.
        let answered = pin!(async {
            let answered = match settled {
                Ok(()) => {
                    let answered = pin!(answer(&core, route, request, peer));
                    let answered = AssertUnwindSafe(answered).catch_unwind().await;
                    answered.unwrap_or_else(|_panic| Err(Error::Internal("a panic".into())))
                }
                Err(trouble) => Err(Error::BadRequest(trouble)),
            };
            answered.unwrap_or_else(|error| fail(&core, error, origin.as_ref()))
        });
        let mut response = current::about(Arc::clone(&current), answered).await;
        if let Some(asked) = asked {
            asked.answered(&core, endpoint, &mut response);
        }
        let cache = CacheOutcome::of(response.headers());
        begun.end(&core, endpoint, cache, Subject::Noted(&current), response)
    }))
}

impl Begun {
    /// Whether somebody will be told of the request.
    fn is_told(&self) -> bool {
        self.line.is_some() || self.span.is_some()
    }

    /// The answer is there. Tells everybody who wants to know.
    fn end(
        self,
        core: &Core,
        endpoint: &'static str,
        cache: CacheOutcome,
        subject: Subject<'_>,
        mut response: Response,
    ) -> Response {
        let Self { since, request_id, line, span } = self;
        let took = since.elapsed();
        metrics::count_request(endpoint, response.status(), cache, took);
        let noted = || match subject {
            Subject::Noted(current) => Arc::clone(current),
            Subject::Unnoted(request, peer) => note(core, request, &request_id, peer, true),
        };
        if let Some(span) = span {
            span.end(endpoint, &noted(), response.status(), cache);
        }
        if let Some(line) = line {
            let told = match subject {
                Subject::Noted(current) => Told::from(&**current),
                Subject::Unnoted(request, _) => {
                    Told { uri: request.uri(), id: &request_id, parts: None, waited: None }
                }
            };
            let credentials = line.credentials.clone();
            let user = credentials.and_then(|credentials| core.access.requester(credentials).known_user());
            response = line.end(&told, noted, took, user, cache, response);
        }
        match response.headers_mut().iter_mut().next() {
            // What is given again has it there.
            Some((name, id)) if *name == X_REQUEST_ID => *id = request_id,
            _ => _ = response.headers_mut().insert(X_REQUEST_ID, request_id),
        }
        response
    }
}

/// Notes a request that has just come.
fn note(
    core: &Core,
    request: &Request<Incoming>,
    id: &HeaderValue,
    peer: &Peer,
    is_told: bool,
) -> Arc<Current> {
    let client = peer::client(peer, request.headers(), &core.app.settings);
    Arc::new(Current::new(request.uri().clone(), id.clone(), client, is_told))
}

async fn answer(
    core: &Arc<Core>,
    route: Route,
    request: Request<Incoming>,
    peer: &Peer,
) -> Result<Response, Error> {
    let (parts, incoming) = request.into_parts();
    let inbound = Inbound::new(incoming, parts.version, true);
    // SECURITY: a TRACE is answered with the request, credentials and all (CVE-2004-2320); a CONNECT is not for a gateway.
    if matches!(parts.method, Method::TRACE | Method::CONNECT) {
        return Err(Error::MethodNotAllowed { allow: "GET, HEAD, OPTIONS, POST, PUT, PATCH, DELETE" });
    }
    if via::is_back(&parts.headers) {
        return Err(Error::Loop);
    }
    if !inbound.is_end_stream() && !headers::is_coding_known(&parts.headers) {
        return Err(Error::UnknownCoding);
    }
    let route = match route {
        Route::Own(endpoint) => {
            let is_ours = match &endpoint {
                // Kinto sends other methods to the URL without a slash. Browsers follow no such lead before they ask.
                Endpoint::Database(_) => {
                    matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS)
                }
                Endpoint::Replication(_, asked) => asked.is_asked(parts.uri.query()),
                endpoint if endpoint.is_of_history() => {
                    Box::pin(core.app.history.journal(&core.upstream)).await?.is_some()
                }
                _ => true,
            };
            if is_ours {
                // Boxed, as all large futures are that do not forward: they would be moved with that of every request.
                return Box::pin(endpoints::answer(core, endpoint, &parts, inbound.into(), peer)).await;
            }
            Route::Forward
        }
        route => route,
    };
    let body = limited::limited(inbound.into(), &core.app.settings.limits)?;
    let request = Request::from_parts(parts, body);
    match route {
        Route::Root if is_read(request.method()) => {
            Box::pin(described(core, request, peer, root::add_capabilities)).await
        }
        Route::Api if is_read(request.method()) => {
            Box::pin(described(core, request, peer, root::add_paths)).await
        }
        _ if is_read(request.method()) => read(core, request, peer).await,
        _ => write(core, request, peer).await,
    }
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Passes a read on.
async fn read(core: &Core, request: Request<Body>, peer: &Peer) -> Result<Response, Error> {
    if RequestPath::may_be_in_default_bucket(request.uri().path()) {
        match path_of(core, &request) {
            Ok(path) if path.is_in_default_bucket() => {
                return Box::pin(read_default(core, request, path, peer)).await;
            }
            Err(error)
                if request.method() != Method::OPTIONS
                    && RequestPath::may_be_read_in_default_bucket(request.uri().path()) =>
            {
                return Err(error);
            }
            // Another path that is not read exactly makes nothing.
            _ => {}
        }
    }
    forward::stream(core, request, peer).await
}

/// What a request's path names. It is refused where servers in front of Kinto would read it in several ways.
fn path_of(core: &Core, request: &Request<Body>) -> Result<RequestPath, Error> {
    let version = &core.app.settings.upstream.version;
    RequestPath::read(request.uri().path(), version, Sent::Alone).map_err(unreadable)
}

/// SECURITY: a write that is read in another way than Kinto does would go unnoticed.
fn unreadable(trouble: &str) -> Error {
    Invalid::one("path", "", format!("The path of what may be a write is not read: {trouble}")).into()
}

/// Passes a read in the default bucket on, which may make a collection.
async fn read_default(
    core: &Core,
    request: Request<Body>,
    path: RequestPath,
    peer: &Peer,
) -> Result<Response, Error> {
    let writes = &core.app.writes;
    let requester = core.requester(request.headers());
    // A read goes on where nobody says whose bucket it is: what is made for it is found like what passes elsewhere.
    let default = requester.default_bucket(&path).await.unwrap_or_default();
    let default = default.filter(|_| *request.method() != Method::OPTIONS);
    let read = Write::new(request.method(), path, request.headers(), requester.credentials, default);
    let passing = writes.begin([read]).await?;
    let response = forward::stream(core, request, peer).await?;
    passing.answered([Answer::with_status(response.status())]).await?;
    Ok(response)
}

/// Passes a write on, and notes what it wrote before the client is answered. It is carried to its end even if the client
/// goes away.
async fn write(core: &Arc<Core>, request: Request<Body>, peer: &Peer) -> Result<Response, Error> {
    let path = path_of(core, &request)?;
    let (core, peer) = (Arc::clone(core), peer.clone());
    let mut hold = core.hold(request.headers(), &peer);
    let carried = current::spawn(async move {
        // A batch is looked into, however its path is spelt.
        if *path.resource(None) == Resource::Batch && request.method() == Method::POST {
            let (parts, body) = request.into_parts();
            let limits = &core.app.settings.limits;
            let limit = limits.body_limit().min(limits.batch_bytes);
            let body = body::read_held(body, limit, &mut hold).await?;
            return Box::pin(endpoints::batch::answer(&core, parts, body, &peer, hold)).await;
        }
        let writes = &core.app.writes;
        let requester = core.requester(request.headers());
        let default = requester.default_bucket(&path).await?;
        let mut write = Write::new(request.method(), path, request.headers(), requester.credentials, default);
        if write.is_nothing() {
            return forward::stream(&core, request, &peer).await;
        }
        let (mut parts, body) = request.into_parts();
        // What comes back has to be read here.
        parts.headers.remove(ACCEPT_ENCODING);
        let body = match small(&parts, body, &mut hold).await? {
            Ok(body) => {
                write = write.with_body(&body);
                Body::full(body)
            }
            Err(body) if body.is_end_stream() => body,
            Err(body) if write.needs_its_body() => {
                let (arrival, body) = Arrival::of(body);
                write.arrival = Some(arrival);
                body
            }
            // It may be done before its body has come.
            Err(body) => {
                let limit = core.app.settings.limits.body_limit();
                Body::full(body::read_held(body, limit, &mut hold).await?)
            }
        };
        let passing = writes.begin([write]).await?;
        let request = Request::from_parts(parts, body);
        let (answer, body) = forward::buffered(&core, request, &peer, &mut hold).await?;
        let modified = answer.headers.get(ETAG).and_then(Timestamp::from_etag);
        let read = {
            let (status, body) = (answer.status, body.clone());
            move || Answer::read(status, &body, modified)
        };
        passing.answered([aside::for_write(body.len(), read).await?]).await?;
        Ok(Response::from_parts(answer, Body::full(body).held(hold)))
    });
    carried.await.unwrap_or_else(|error| Err(Error::Internal(error.into())))
}

/// The body of a write, where it is small enough to be looked at before it is sent; else as it came.
async fn small(parts: &Parts, body: Body, hold: &mut Hold) -> Result<Result<Bytes, Body>, Error> {
    let length = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let is_expected = parts.headers.contains_key(EXPECT);
    match length {
        Some(length) if length <= LARGEST_SENT && !is_expected => {
            Ok(Ok(body::read_held(body, length, hold).await?))
        }
        _ => Ok(Err(body)),
    }
}

/// Passes a read on, and adds to what the upstream says of itself.
async fn described(
    core: &Core,
    mut request: Request<Body>,
    peer: &Peer,
    add: fn(&Bytes, &Settings) -> Bytes,
) -> Result<Response, Error> {
    if request.method() != Method::GET {
        let is_head = request.method() == Method::HEAD;
        let mut response = forward::stream(core, request, peer).await?;
        if is_head {
            // That of a `GET` is longer.
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        return Ok(response);
    }
    request.headers_mut().remove(ACCEPT_ENCODING);
    let mut hold = core.hold(request.headers(), peer);
    let (mut answer, mut body) = forward::buffered(core, request, peer, &mut hold).await?;
    if answer.status.is_success() {
        body = add(&body, &core.app.settings);
        answer.headers.insert(CONTENT_LENGTH, body.len().into());
    }
    Ok(Response::from_parts(answer, Body::full(body).held(hold)))
}
