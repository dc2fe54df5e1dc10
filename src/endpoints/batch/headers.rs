//! The headers of a sub-request.

use std::collections::{BTreeMap, BTreeSet};

use http::HeaderName;

use crate::wire::host::is_host;

/// A header's name as WSGI knows it: the case does not count, nor whether it has `-` or `_`.
pub(super) fn env_name(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

/// Why the headers of a sub-request cannot be carried by a request of its own, or say two things.
pub(super) fn trouble(headers: &BTreeMap<String, String>) -> Option<String> {
    let mut known = BTreeSet::new();
    for (name, value) in headers {
        let env_name = env_name(name);
        let is_printable = value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        let is_meant = match env_name.as_str() {
            // Kinto leaves out the one that is spelt so, and takes any other for the length of the body.
            "content-length" => name == "Content-Length",
            // SECURITY: Kinto looks for a path in a URL that begins with the host.
            "host" => is_host(value.as_bytes()),
            _ => true,
        };
        let is_carried = is_printable && value.trim() == value && is_meant;
        if !is_carried || HeaderName::try_from(name).is_err() {
            return Some(format!("the header {name:?} cannot be carried"));
        }
        if !known.insert(env_name) {
            return Some(format!("the header {name:?} is given twice"));
        }
    }
    None
}
