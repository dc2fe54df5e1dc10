//! Answers given a moment ago, given again while nothing that they stand on has moved.
//!
//! Many ask for the same thing at the same time, and what is made for each of them is the same. An answer that says what it
//! [stands on](Standing) is remembered by the thread that gave it, for the rest of the second: what it says of time is
//! right to the second. Only what is small and public is remembered, and only for requests that say nothing besides what
//! the answer's name holds.

use std::cell::RefCell;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CONNECTION, DNT, HOST, TE, UPGRADE_INSECURE_REQUESTS,
    USER_AGENT, VIA,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use hyper::body::{Body as _, Incoming};

use crate::app::Core;
use crate::route::{Endpoint, Route};
use crate::settings::Settings;
use crate::wire::body::{Body, Response};
use crate::wire::request_id::X_REQUEST_ID;

/// How many answers a thread remembers: a newer one takes the place of an older.
const PLACES: usize = 64;

/// For no longer than this is any answer remembered.
pub const LONGEST: Duration = Duration::from_secs(1);

/// A longer body is not remembered.
const LARGEST_BODY: usize = 64 << 10;

/// A longer name is not remembered.
const LONGEST_NAME: usize = 2 << 10;

/// What an answer stands on: says whether all of it is still so. Put into an answer's extensions, it has the answer
/// remembered.
#[derive(Clone)]
pub struct Standing(Arc<dyn Fn(&Core) -> bool + Send + Sync>);

/// The answers that a thread remembers.
struct Recent {
    places: [Option<Given>; PLACES],
    /// The bits of their targets: most requests are for something else, and are told so by one look.
    targets: u64,
}

/// An answer that was given.
struct Given {
    name: Vec<u8>,
    /// See [`bit`].
    target: u64,
    /// When, in seconds since the Unix epoch.
    second: u64,
    /// What [`Access::version`](crate::access::Access::version) was when it was begun.
    permissions: u64,
    /// Those under which it was made. Others may be in force now.
    settings: Weak<Settings>,
    standing: Standing,
    /// Whose it was, in metrics.
    endpoint: &'static str,
    headers: HeaderMap,
    /// A copy: what it was made of may be part of something large.
    body: Bytes,
}

/// A request that may be answered by what was given to another.
#[derive(Debug)]
pub struct Asked {
    name: Vec<u8>,
    target: u64,
    place: usize,
    second: u64,
    permissions: u64,
}

thread_local! {
    static RECENT: RefCell<Recent> = const { RefCell::new(Recent { places: [const { None }; PLACES], targets: 0 }) };
}

// === impl Standing ===

impl Standing {
    /// Stands while `stands` says so.
    pub fn on(stands: impl Fn(&Core) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(stands))
    }
}

impl fmt::Debug for Standing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Standing")
    }
}

/// What was given to somebody who asked for the same, if it still stands, and the name of the endpoint that gave it.
pub fn again(core: &Core, request: &Request<Incoming>, scheme: &str) -> Option<(&'static str, Response)> {
    let target = bit(request.uri().path_and_query()?.as_str());
    if RECENT.with_borrow(|recent| recent.targets & target) == 0 {
        return None;
    }
    Asked::of(core, request, scheme)?.again(core)
}

/// Whether answers of whoever answers may be remembered.
pub fn is_remembered(route: &Route) -> bool {
    use Endpoint::{Changeset, MonitorChanges, MonitorChangeset, V2};
    matches!(route, Route::Own(Changeset(_) | MonitorChanges | MonitorChangeset | V2(_)))
}

// === impl Asked ===

impl Asked {
    /// What a request asks for; `None` where its answer is for it alone.
    pub fn of(core: &Core, request: &Request<Incoming>, scheme: &str) -> Option<Self> {
        if *request.method() != Method::GET || !request.body().is_end_stream() {
            return None;
        }
        let target = request.uri().path_and_query()?.as_str();
        let mut name = Vec::with_capacity(256);
        name.extend_from_slice(target.as_bytes());
        name.extend_from_slice(scheme.as_bytes());
        for (header, value) in request.headers() {
            if is_of_the_name(header) {
                // Neither is in a header's value.
                name.push(b'\n');
                name.extend_from_slice(header.as_str().as_bytes());
                name.push(b'\n');
                name.extend_from_slice(value.as_bytes());
            } else if !says_nothing(header) {
                return None;
            }
        }
        if name.len() > LONGEST_NAME {
            return None;
        }
        let place = usize::try_from(hash(&name) % PLACES as u64).unwrap_or_default();
        let second = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
        Some(Self { target: bit(target), name, place, second, permissions: core.access.version() })
    }

    fn again(&self, core: &Core) -> Option<(&'static str, Response)> {
        RECENT.with_borrow(|recent| {
            let given = recent.places.get(self.place)?.as_ref()?;
            let is_the_same = given.second == self.second && given.name == self.name;
            let stands = is_the_same
                && given.permissions == self.permissions
                && std::ptr::eq(given.settings.as_ptr(), Arc::as_ptr(&core.app.settings))
                && is_ordinary(core)
                && (given.standing.0)(core);
            if !stands {
                return None;
            }
            let mut response = Response::new(Body::full(given.body.clone()));
            *response.headers_mut() = given.headers.clone();
            Some((given.endpoint, response))
        })
    }

    /// The answer was made. It is remembered where it says what it stands on.
    pub fn answered(self, core: &Core, endpoint: &'static str, response: &mut Response) {
        let Some(standing) = response.extensions_mut().remove::<Standing>() else { return };
        let Some(body) = response.body().copied(LARGEST_BODY) else { return };
        if response.status() != StatusCode::OK || !is_ordinary(core) {
            return;
        }
        let mut headers = response.headers().clone();
        // Each answer has its own in this place.
        headers.insert(X_REQUEST_ID, HeaderValue::from_static(""));
        let Self { name, target, place, second, permissions } = self;
        let settings = Arc::downgrade(&core.app.settings);
        let given = Given { name, target, second, permissions, settings, standing, endpoint, headers, body };
        RECENT.with_borrow_mut(|recent| {
            if let Some(place) = recent.places.get_mut(place) {
                *place = Some(given);
            }
            let targets = recent.places.iter().flatten().map(|given| given.target);
            recent.targets = targets.fold(0, |all, target| all | target);
        });
    }
}

/// One of 64 bits for each target.
fn bit(target: &str) -> u64 {
    1 << (hash(target.as_bytes()) % 64)
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// Whether the upstream has nothing to say to everybody.
fn is_ordinary(core: &Core) -> bool {
    core.upstream.advice().is_none()
        && core.upstream.ended().is_none()
        && core.upstream.outage().lasts().is_none()
}

/// Whether an answer may depend on a header.
fn is_of_the_name(name: &HeaderName) -> bool {
    *name == HOST || *name == ACCEPT || *name == ACCEPT_ENCODING
}

/// Whether no answer depends on a header.
fn says_nothing(name: &HeaderName) -> bool {
    [USER_AGENT, CONNECTION, ACCEPT_LANGUAGE, DNT, TE, UPGRADE_INSECURE_REQUESTS, VIA].contains(name)
        || *name == X_REQUEST_ID
        || matches!(
            name.as_str(),
            "x-forwarded-for" | "x-real-ip" | "traceparent" | "tracestate" | "priority"
        )
}
