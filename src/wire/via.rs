//! `Via`: what says who a message came through, and that it came through here already (RFC 9110 §7.6.3).
//!
//! An upstream that leads back to the sidecar through something else would have each request come in again, until there are
//! no places left. SECURITY: this process has a name of its own, which nobody but the upstream is told: nobody else can have
//! a request taken for one that came back.

use std::sync::LazyLock;
use std::time::Duration;

use http::header::VIA;
use http::{HeaderMap, HeaderValue, Version};
use parking_lot::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

/// For how long a request that came back says that others will.
const REMEMBERED: Duration = Duration::from_secs(60);

static NAME: LazyLock<String> = LazyLock::new(|| format!("kinto-sidecar-{}", Uuid::new_v4().simple()));
static VALUES: LazyLock<[HeaderValue; 3]> = LazyLock::new(|| {
    ["1.0", "1.1", "2"].map(|version| HeaderValue::from_static(String::leak(format!("{version} {}", *NAME))))
});
static CAME_BACK: Mutex<Option<Instant>> = Mutex::new(None);

/// Says to the upstream that a request came through this process, from a client that speaks this version.
pub fn tell(headers: &mut HeaderMap, version: Version) {
    let [old, usual, new] = &*VALUES;
    let value = match version {
        Version::HTTP_2 => new,
        Version::HTTP_10 => old,
        _ => usual,
    };
    headers.append(VIA, value.clone());
}

/// Whether a request came through this process already.
pub fn is_back(headers: &HeaderMap) -> bool {
    let name = NAME.as_bytes();
    let has_name = |value: &HeaderValue| value.as_bytes().windows(name.len()).any(|part| part == name);
    let is_back = headers.get_all(VIA).iter().any(has_name);
    if is_back {
        *CAME_BACK.lock() = Some(Instant::now());
    }
    is_back
}

/// Whether one did a moment ago.
pub fn came_back() -> bool {
    CAME_BACK.lock().is_some_and(|when| when.elapsed() < REMEMBERED)
}
