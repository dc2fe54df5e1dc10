//! `/v2`: what Remote Settings' readers ask of `git-reader`, from the same memory as `/v1`.
//!
//! It shows what is monitored and what anybody may read, to everybody alike; whoever asks. What is wrong is said as
//! `FastAPI` says it.

use std::time::SystemTime;

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, HeaderValue, LOCATION, ORIGIN};
use http::request::Parts;
use http::{Method, StatusCode};

mod attachments;
mod changesets;
mod heartbeats;
mod hello;
mod parameters;
mod refusal;

use super::broadcasts;
use crate::app::Core;
use crate::error::Error;
use crate::route::V2;
use crate::settings::Settings;
use crate::wire::body::{Body, Response};
use crate::wire::cache_control;
use crate::wire::cors::{self, Exposed};
use crate::wire::headers;
use crate::wire::peer::Peer;
use refusal::V2Refusal;

/// The methods that every path knows, for browsers that ask before they send.
const METHODS: &str = "GET, HEAD, OPTIONS";

/// The service's own path.
const HELLO: &str = "/v2/";

/// Answers a request.
pub(super) async fn answer(core: &Core, v2: V2, request: &Parts, peer: &Peer) -> Result<Response, Error> {
    let answered = match own(core, v2, request).await {
        Ok(answer) => core.lent(answer, &request.headers, peer).map_err(V2Refusal::from),
        Err(refusal) => Err(refusal),
    };
    answered.or_else(|refusal| refusal.into_response(core))
}

async fn own(core: &Core, v2: V2, request: &Parts) -> Result<Response, V2Refusal> {
    let settings = &core.app.settings;
    let reads = matches!(request.method, Method::GET | Method::HEAD);
    match &v2 {
        V2::Unknown => return Err(V2Refusal::NotFound),
        // git-reader: `/v2` is a path that knows its methods, the others are led away whatever they are asked.
        V2::Elsewhere(path) if reads || path != HELLO => {
            // The query goes along, but to the service itself.
            let query = request.uri.query().filter(|_| !path.ends_with('/'));
            let location = query.map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
            return Ok(redirected(&location, settings));
        }
        _ => {}
    }
    let origins = &settings.kinto.cors_origins;
    if !reads {
        let is_preflight = request.method == Method::OPTIONS
            && [ORIGIN, ACCESS_CONTROL_REQUEST_METHOD].iter().all(|name| request.headers.contains_key(name));
        return if is_preflight {
            Ok(cors::preflight(&request.headers, METHODS, Exposed::Changeset, origins)?)
        } else {
            Err(V2Refusal::MethodNotAllowed)
        };
    }
    cors::check_origin(&request.headers, origins)?;
    match v2 {
        V2::Hello => Box::pin(hello::answer(core, request)).await,
        V2::MonitorChangeset => changesets::monitor(core, request).await,
        V2::Changeset(key) => changesets::collection(core, key, request).await,
        V2::Broadcasts => {
            let lifetime = settings.remote_settings.short_max_age;
            Ok(Box::pin(broadcasts::answer(core, Some(lifetime))).await?)
        }
        V2::Attachment(path) => Box::pin(attachments::answer(core, &path, request)).await,
        V2::LbHeartbeat => Ok(heartbeats::load_balancer()),
        V2::Heartbeat => Ok(Box::pin(heartbeats::heartbeat(core)).await),
        V2::Version => Ok(heartbeats::version()),
        V2::Unknown | V2::Elsewhere(_) => Err(V2Refusal::NotFound),
    }
}

/// Sends somebody to another place.
fn redirected(location: &str, settings: &Settings) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    let headers = response.headers_mut();
    headers.extend(HeaderValue::try_from(location).ok().map(|location| (LOCATION, location)));
    headers::insert_kinto_defaults(headers);
    cache_control::allow_for(headers, settings.remote_settings.max_age, SystemTime::now());
    response
}
