//! Answers given a moment ago, given again while nothing that they stand on has moved.
//!
//! Many ask for the same thing at the same time, and what is made for each of them is the same. An answer that says what it
//! [stands on](Standing) is remembered by the thread that gave it, for the rest of the second: what it says of time is
//! right to the second. Only what is small and public is remembered.
//!
//! Browsers, CDNs and libraries send many headers, and an answer depends on few of them. Those few are in its name, and all
//! others are [taken off](Asked::of) the request before it is answered: whoever reads one of them finds nothing, so no answer
//! that is given again can depend on it.

use std::cell::RefCell;
use std::fmt;
use std::ptr;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use hyper::body::{Body as _, Incoming};

use crate::app::Core;
use crate::metrics::{self, CacheOutcome};
use crate::route::{Endpoint, Route, V2};
use crate::settings::Settings;
use crate::timeline::entries::Entries;
use crate::timeline::epoch::Found;
use crate::wire::body::{Body, Response};
use crate::wire::headers::keys_that;
use crate::wire::lent::Stock;
use crate::wire::peer::{Peer, client};
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
    /// Room for the name of what is asked for.
    name: Vec<u8>,
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
    cache: CacheOutcome,
    status: StatusCode,
    headers: HeaderMap,
    /// A copy: what it was made of may be part of something large.
    body: Bytes,
    stock: Stock,
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

/// What a header of a request has to do with its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The answer may be another one, and its name another name.
    Name,
    /// The answer is for this request alone.
    Alone,
    /// The answer is the same, and is counted as its sender's while it is read.
    Sender,
    /// Nothing.
    Nothing,
}

thread_local! {
    static RECENT: RefCell<Recent> =
        const { RefCell::new(Recent { places: [const { None }; PLACES], targets: 0, name: Vec::new() }) };
}

// === impl Standing ===

impl Standing {
    /// Stands while `stands` says so.
    pub fn on(stands: impl Fn(&Core) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(stands))
    }

    /// Stands while `stands` says so of contents of collections: it is asked again where the epoch has moved.
    pub fn on_contents(stands: impl Fn(&Core) -> bool + Send + Sync + 'static) -> Self {
        Self::on(until_moved(stands))
    }

    /// Stands while these are the entries that are given out.
    pub fn on_entries(
        entries: &Arc<Entries>,
        given_out: impl Fn(&Core) -> Option<Arc<Entries>> + Send + Sync + 'static,
    ) -> Self {
        // Weak: what is remembered of an answer keeps no list.
        let entries = Arc::downgrade(entries);
        Self::on(move |core| given_out(core).is_some_and(|now| ptr::eq(Arc::as_ptr(&now), entries.as_ptr())))
    }

    /// Has an answer be remembered no longer than `stands` says of contents of collections, too.
    pub fn narrow_to_contents(
        response: &mut Response,
        stands: impl Fn(&Core) -> bool + Send + Sync + 'static,
    ) {
        Self::narrow(response, until_moved(stands));
    }

    /// Has an answer be remembered no longer than `stands` says, too, if it is remembered at all.
    pub fn narrow(response: &mut Response, stands: impl Fn(&Core) -> bool + Send + Sync + 'static) {
        if let Some(Self(before)) = response.extensions_mut().remove() {
            response.extensions_mut().insert(Self::on(move |core| before(core) && stands(core)));
        }
    }
}

impl fmt::Debug for Standing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Standing")
    }
}

/// What was given to somebody who asked for the same, if it still stands, and what metrics say of it.
pub fn again(
    core: &Core,
    request: &Request<Incoming>,
    peer: &Peer,
) -> Option<(&'static str, CacheOutcome, Response)> {
    let path = request.uri().path_and_query()?.as_str().as_bytes();
    let target = hash(0, path);
    RECENT.with_borrow_mut(|recent| {
        if recent.targets & bit(target) == 0 {
            return None;
        }
        recent.name.clear();
        name(&mut recent.name, request, peer.scheme())?;
        let place = place(target, recent.name.get(path.len()..)?);
        let given = recent.places.get(place)?.as_ref()?;
        if given.name != recent.name || given.second != second()? || !given.stands(core) {
            return None;
        }
        let mut body = Body::full(given.body.clone());
        if let Some(lent) = given.stock.lent(given.body.len()) {
            let client = client(peer, request.headers(), &core.app.settings);
            body = body.lent(core.app.loans.lend(client, lent).ok()?);
        }
        let mut response = Response::new(body);
        *response.status_mut() = given.status;
        *response.headers_mut() = given.headers.clone();
        metrics::count_given_again();
        Some((given.endpoint, given.cache, response))
    })
}

/// Asks anew only where something was heard of some collection, or something else is kept of one.
fn until_moved(stands: impl Fn(&Core) -> bool + Send + Sync + 'static) -> impl Fn(&Core) -> bool {
    let found = Found::default();
    move |core| found.is_still(core.app.timeline.epoch(), || stands(core))
}

/// Whether answers of whoever answers may be remembered.
pub fn is_remembered(route: &Route) -> bool {
    use Endpoint::{Broadcasts, Changeset, MonitorChanges, MonitorChangeset};
    let Route::Own(endpoint) = route else { return false };
    match endpoint {
        Broadcasts | Changeset(_) | MonitorChanges | MonitorChangeset => true,
        Endpoint::V2(v2) => {
            matches!(v2, V2::Hello | V2::MonitorChangeset | V2::Changeset(_) | V2::Broadcasts)
        }
        _ => false,
    }
}

// === impl Asked ===

impl Asked {
    /// What a request asks for; `None` where its answer is for it alone. What is not in the name is taken off the request.
    pub fn of(core: &Core, request: &mut Request<Incoming>, scheme: &str) -> Option<Self> {
        let mut asked = Vec::with_capacity(256);
        name(&mut asked, request, scheme)?;
        take_off_others(request.headers_mut());
        let path = request.uri().path_and_query()?.as_str().as_bytes();
        let target = hash(0, path);
        let place = place(target, asked.get(path.len()..)?);
        Some(Self {
            name: asked,
            target: bit(target),
            place,
            second: second()?,
            permissions: core.access.version(),
        })
    }

    /// The answer was made. It is remembered where it says what it stands on.
    pub fn answered(self, core: &Core, endpoint: &'static str, response: &mut Response) {
        let Some(standing) = response.extensions_mut().remove::<Standing>() else { return };
        let Some(body) = response.body().copied(LARGEST_BODY) else { return };
        if !matches!(response.status(), StatusCode::OK | StatusCode::NOT_MODIFIED) || !is_ordinary(core) {
            return;
        }
        let cache = CacheOutcome::of(response.headers());
        // Each answer has its own id. It comes first, where it is found without being looked for.
        let mut headers = HeaderMap::with_capacity(response.headers().len() + 1);
        headers.insert(X_REQUEST_ID, HeaderValue::from_static(""));
        headers.extend(response.headers().clone());
        let Self { name, target, place, second, permissions } = self;
        let settings = Arc::downgrade(&core.app.settings);
        let stock = Stock::new(body.len());
        let given = Given {
            name,
            target,
            second,
            permissions,
            settings,
            standing,
            endpoint,
            cache,
            status: response.status(),
            headers,
            body,
            stock,
        };
        RECENT.with_borrow_mut(|recent| {
            if let Some(place) = recent.places.get_mut(place) {
                *place = Some(given);
            }
            let targets = recent.places.iter().flatten().map(|given| given.target);
            recent.targets = targets.fold(0, |all, target| all | target);
        });
    }
}

// === impl Given ===

impl Given {
    /// Whether nothing has moved that it stands on, but for the time.
    fn stands(&self, core: &Core) -> bool {
        self.permissions == core.access.version()
            && ptr::eq(self.settings.as_ptr(), Arc::as_ptr(&core.app.settings))
            && is_ordinary(core)
            && (self.standing.0)(core)
    }
}

/// Names what a request asks for; `None` where its answer is for it alone.
fn name(name: &mut Vec<u8>, request: &Request<Incoming>, scheme: &str) -> Option<()> {
    if *request.method() != Method::GET || !request.body().is_end_stream() {
        return None;
    }
    name.extend_from_slice(request.uri().path_and_query()?.as_str().as_bytes());
    name.extend_from_slice(scheme.as_bytes());
    for (header, value) in request.headers() {
        match part_of(header.as_str()) {
            Part::Name => {
                // Neither is in a header's value.
                name.push(b'\n');
                name.extend_from_slice(header.as_str().as_bytes());
                name.push(b'\n');
                name.extend_from_slice(value.as_bytes());
            }
            Part::Alone => return None,
            Part::Sender | Part::Nothing => {}
        }
    }
    (name.len() <= LONGEST_NAME).then_some(())
}

/// The present second since the Unix epoch.
fn second() -> Option<u64> {
    Some(SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// The one place that an answer may have, by the hash of its target and what follows that in its name.
fn place(target: u64, rest: &[u8]) -> usize {
    usize::try_from(high(hash(target, rest)) % PLACES as u64).unwrap_or_default()
}

/// One of 64 bits for each target, by its hash.
fn bit(target: u64) -> u64 {
    1 << (high(target) % 64)
}

/// Goes on from what was hashed before. Quick, and no secret: whoever makes two names meet in one place has one of them made anew, as with any two names.
fn hash(before: u64, bytes: &[u8]) -> u64 {
    const ODD: u64 = 0x9E37_79B9_7F4A_7C15;
    let add = |hash: u64, word: [u8; 8]| (hash.rotate_left(23) ^ u64::from_le_bytes(word)).wrapping_mul(ODD);
    let (words, rest) = bytes.as_chunks();
    let mut last = [0; 8];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    let hash = words.iter().fold(before ^ bytes.len() as u64, |hash, word| add(hash, *word));
    add(hash, last)
}

/// The highest bits of a hash, which depend on all others.
fn high(hash: u64) -> u64 {
    hash >> 32
}

/// Whether the upstream has nothing to say to everybody.
fn is_ordinary(core: &Core) -> bool {
    core.upstream.is_silent() && core.upstream.outage().lasts().is_none()
}

/// Leaves a request those headers that have a part in its answer.
fn take_off_others(headers: &mut HeaderMap) {
    for header in keys_that(headers, |name| part_of(name) == Part::Nothing) {
        headers.remove(header);
    }
}

/// What a header has to do with the answer.
fn part_of(header: &str) -> Part {
    match header {
        "host" | "accept" | "accept-encoding" | "available-dictionary" | "if-none-match" | "origin" => {
            Part::Name
        }
        "authorization" | "cookie" | "if-match" => Part::Alone,
        "x-forwarded-for" => Part::Sender,
        _ => Part::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_answers_finds_no_header_that_is_not_in_the_name_of_the_answer() {
        let sent = [
            ("host", Part::Name),
            ("accept", Part::Name),
            ("accept-encoding", Part::Name),
            ("available-dictionary", Part::Name),
            ("if-none-match", Part::Name),
            ("origin", Part::Name),
            ("x-forwarded-for", Part::Sender),
            ("accept-language", Part::Nothing),
            ("if-modified-since", Part::Nothing),
            ("nobody-reads-it-yet", Part::Nothing),
            ("sec-fetch-site", Part::Nothing),
            ("user-agent", Part::Nothing),
        ];
        let mut headers = HeaderMap::new();
        for (name, part) in sent {
            assert_eq!(part_of(name), part, "{name}");
            headers.append(name, HeaderValue::from_static("1"));
            headers.append(name, HeaderValue::from_static("2"));
        }
        take_off_others(&mut headers);
        for (name, part) in sent {
            assert_eq!(headers.contains_key(name), part != Part::Nothing, "{name}");
        }
    }
}
