//! The id that a request has in logs, here and upstream: the client's own where it is sane, else one made here.

use std::cell::Cell;

use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

/// The header that carries the id.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A longer id is not taken over.
const LONGEST: usize = 128;

/// The request's id.
pub fn take_or_make(headers: &HeaderMap) -> HeaderValue {
    let mut given = headers.get_all(X_REQUEST_ID).iter();
    if let (Some(id), None) = (given.next(), given.next())
        && is_sane(id)
    {
        return id.clone();
    }
    make()
}

/// SECURITY: what stands in a log line must not look like another one.
fn is_sane(id: &HeaderValue) -> bool {
    (1..=LONGEST).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
}

/// Unique, in the form of a UUID, and cheap: random once for each thread, counted from there.
fn make() -> HeaderValue {
    thread_local! {
        static THREAD: (u64, Cell<u64>) = {
            let (high, low) = Uuid::new_v4().as_u64_pair();
            (high, Cell::new(low))
        };
    }
    let id = THREAD.with(|(high, low)| {
        // The highest bits are the variant.
        Uuid::from_u64_pair(*high, low.replace(low.get().wrapping_add(1)) & (u64::MAX >> 2) | (1 << 63))
    });
    let mut text = Uuid::encode_buffer();
    HeaderValue::from_str(id.hyphenated().encode_lower(&mut text))
        .unwrap_or(HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_id_is_taken_over_and_any_other_replaced() {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, HeaderValue::from_static("abc-1"));
        assert_eq!(take_or_make(&headers), "abc-1");
        for bad in ["", "two words", "\u{e9}"] {
            headers.insert(X_REQUEST_ID, HeaderValue::from_str(bad).unwrap());
            assert_ne!(take_or_make(&headers), bad);
        }
    }

    #[test]
    fn made_ids_are_unique_uuids() {
        let (one, two) = (make(), make());
        assert_ne!(one, two);
        let uuid = Uuid::parse_str(one.to_str().unwrap()).unwrap();
        assert_eq!(uuid.get_version_num(), 4);
    }
}
