//! One request on one connection, up to the head of its answer.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::HOST;
use http::uri::{Authority, PathAndQuery};
use http::{Request, Response, Uri, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http2};
use tokio::time::{Instant, Sleep, sleep};

use super::again::{Again, is_unprocessed};
use super::idle::Connection;
use super::transfer::{Download, Progress};
use super::{Turn, Upstream, UpstreamError};
use crate::wire::body::Body;
use crate::wire::inbound::Inbound;

/// A connection that was chosen for a request.
pub(super) enum Chosen {
    Http1 { connection: Connection, is_reused: bool },
    Http2(http2::SendRequest<Body>),
}

/// A request that was handed to its connection.
type Sent = Pin<Box<dyn Future<Output = Result<Response<Incoming>, TrySendError<Request<Body>>>> + Send>>;

/// Why an exchange failed, and the request if the upstream has begun nothing of it.
pub(super) struct Failure {
    pub(super) error: UpstreamError,
    /// Whether the connection was lost, as opposed to slow or wrong.
    pub(super) is_lost: bool,
    pub(super) unsent: Option<Box<Request<Body>>>,
    /// Whether the upstream said that it did not begin it.
    is_unprocessed: bool,
    /// The place that it had.
    pub(super) turn: Turn,
}

impl Upstream {
    pub(super) fn exchange(
        &self,
        chosen: Chosen,
        request: Request<Body>,
        turn: Turn,
    ) -> impl Future<Output = Result<Response<Body>, Box<Failure>>> + Send + '_ {
        let (request, again) = match &chosen {
            Chosen::Http1 { .. } => (request, None),
            Chosen::Http2(_) => {
                let (request, again) = Again::keep(request);
                (request, Some(Box::new(again)))
            }
        };
        let (request, place) = watch_upload(request, turn);
        let (sent, mut reply) = match chosen {
            Chosen::Http1 { mut connection, is_reused } => {
                let sent: Sent = Box::pin(connection.sender.try_send_request(request));
                (sent, Some((connection, is_reused)))
            }
            Chosen::Http2(mut sender) => {
                let sent: Sent = Box::pin(sender.try_send_request(self.for_http2(request)));
                (sent, None)
            }
        };
        async move {
            let patience = self.patience();
            let mut own = None;
            let deadline = match &mut reply {
                Some((connection, _)) => &mut connection.deadline,
                None => own.get_or_insert_with(|| Box::pin(sleep(patience))),
            };
            let progress = place.as_ref().ok();
            let response =
                match answer(sent, deadline.as_mut(), progress.map(|progress| &**progress), patience).await {
                    Ok(response) => response,
                    Err(mut failure) => {
                        failure.turn = place.map_or_else(|turn| turn, |progress| progress.take_turn());
                        // What hyper gives back has the target that HTTP/2 has.
                        if let Some(again) = again
                            && (failure.unsent.is_some() || failure.is_unprocessed)
                        {
                            failure.unsent = again.request().map(Box::new);
                        }
                        return Err(failure);
                    }
                };
            let connection = reply.map(|(connection, is_reused)| {
                if is_reused {
                    self.0.pool.saw_reuse();
                }
                (Arc::clone(&self.0.pool), connection)
            });
            self.0.outage.answered(response.status());
            self.0.words.note(response.status(), response.headers());
            let (parts, incoming) = response.into_parts();
            // An answer to less than the whole request may be followed by the end of both.
            let incoming = Inbound::new(incoming, parts.version, place.is_err());
            let (turn, progress) = match place {
                Ok(progress) => (progress.take_turn(), Some(progress)),
                Err(turn) => (turn, None),
            };
            let body = Download::new(incoming, connection, progress, patience, turn).into_body();
            let body = body.map_err(Failure::for_good)?;
            Ok(Response::from_parts(parts, body))
        }
    }

    /// HTTP/2 has the scheme and the host in the target.
    fn for_http2(&self, mut request: Request<Body>) -> Request<Body> {
        let host = request.headers_mut().remove(HOST);
        let authority = host
            .and_then(|host| Authority::try_from(host.as_bytes()).ok())
            .unwrap_or_else(|| self.0.authority.clone());
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(self.0.scheme.clone());
        parts.authority = Some(authority);
        parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        *request.version_mut() = Version::HTTP_2;
        request
    }
}

/// Waits for the head of the answer, for as long as the upstream may take once it has the request.
async fn answer(
    mut sent: Sent,
    mut deadline: Pin<&mut Sleep>,
    progress: Option<&Progress>,
    patience: Duration,
) -> Result<Response<Incoming>, Box<Failure>> {
    deadline.as_mut().reset(Instant::now() + patience);
    let mut seen = 0;
    loop {
        tokio::select! {
            biased;
            answer = &mut sent => return answer.map_err(|failure| Box::new(Failure::of(failure))),
            () = &mut deadline => {
                if progress.is_some_and(|progress| progress.moved(&mut seen)) {
                    deadline.as_mut().reset(Instant::now() + patience);
                } else {
                    return Err(Box::new(Failure::for_good(UpstreamError::HeadTimeout)));
                }
            }
        }
    }
}

/// Has a body note its progress, and keep the place; it is given back where there is no body.
fn watch_upload(request: Request<Body>, turn: Turn) -> (Request<Body>, Result<Arc<Progress>, Turn>) {
    if request.body().is_end_stream() {
        return (request, Err(turn));
    }
    let progress = Arc::new(Progress::new(turn));
    (request.map(|body| body.hooked(Arc::clone(&progress))), Ok(progress))
}

impl Failure {
    fn of(mut failure: TrySendError<Request<Body>>) -> Self {
        let unsent = failure.take_message().map(Box::new);
        let error = failure.into_error();
        // What could not be parsed is an answer; everything else is a connection that went away.
        let is_lost = unsent.is_some() || !(error.is_parse() || error.is_user());
        let is_unprocessed = is_unprocessed(&error);
        Self { is_lost, unsent, is_unprocessed, ..Self::for_good(UpstreamError::of_exchange(error)) }
    }

    /// One that nothing is tried against.
    fn for_good(error: UpstreamError) -> Self {
        Self { error, is_lost: false, unsent: None, is_unprocessed: false, turn: Turn::default() }
    }
}
