//! How much an answer to a question of the sidecar's own may hold: no more than such a question can need.
//!
//! A bound for all would have to be that of the largest page, and whoever answers in the upstream's place could have each of
//! many small questions take that much.

use http::Method;

/// The root view and the like.
pub(super) const SMALL: usize = 1 << 20;
/// Rows of which only a field or two was asked for, and answers to many questions at once.
const MEDIUM: usize = 16 << 20;
/// An object, or a page of a list. What a page of a larger collection takes more is asked for in smaller ones.
const LARGE: usize = 24 << 20;

/// The most bytes that the answer's body may have; `path` is relative to the API root.
pub(super) fn most(method: &Method, path: &str) -> usize {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let is_projected = query.split('&').any(|parameter| parameter.starts_with("_fields="));
    match path {
        _ if *method == Method::HEAD => SMALL,
        "/batch" => MEDIUM,
        path if !path.starts_with("/buckets") => SMALL,
        _ if is_projected => MEDIUM,
        _ => LARGE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_question_has_the_bound_of_what_it_asks_for() {
        for (method, path, bound) in [
            (Method::GET, "/", SMALL),
            (Method::GET, "/__lbheartbeat__", SMALL),
            (Method::HEAD, "/buckets/a/collections/b/records", SMALL),
            (Method::POST, "/batch", MEDIUM),
            (Method::GET, "/buckets/a/collections/b/records?_fields=id", MEDIUM),
            (Method::GET, "/buckets/a/collections/b/records?_since=1", LARGE),
            (Method::GET, "/buckets/a", LARGE),
        ] {
            assert_eq!(most(&method, path), bound, "{method} {path}");
        }
    }
}
