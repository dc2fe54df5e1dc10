//! How Kinto says that something is not there.

use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize, Default)]
struct Problem {
    #[serde(default)]
    message: String,
    #[serde(default)]
    details: Value,
}

/// Whether an answer says that there is no object of this kind with the id that was made up for the question. Kinto says so
/// only to somebody who would be shown any object of that kind there.
pub fn is_absence(status: StatusCode, body: &[u8], kind: &str) -> bool {
    let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
    match status {
        // SECURITY: somebody between the sidecar and Kinto may have made a bare 404 of a 403.
        StatusCode::NOT_FOUND => problem.details.get("resource_name").and_then(Value::as_str) == Some(kind),
        // Kinto: an id that its generator would not make is told of behind the check of permissions.
        StatusCode::BAD_REQUEST => problem.message.contains("Invalid object id"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kintos_own_word_that_a_record_is_not_there_is_a_yes() {
        let named = r#"{"code":404,"errno":110,"details":{"id":"x","resource_name":"record"}}"#;
        let collection = r#"{"code":404,"errno":111,"details":{"id":"c","resource_name":"collection"}}"#;
        let invalid = r#"{"code":400,"errno":107,"message":"path: Invalid object id","details":[]}"#;
        let is_yes = |status, body: &str| is_absence(status, body.as_bytes(), "record");
        assert!(is_yes(StatusCode::NOT_FOUND, named));
        assert!(is_yes(StatusCode::BAD_REQUEST, invalid));
        for (status, body) in [
            (StatusCode::NOT_FOUND, collection),
            (StatusCode::NOT_FOUND, "<html>not found</html>"),
            (StatusCode::NOT_FOUND, r#"{"code":404,"errno":111,"error":"Not Found"}"#),
            (StatusCode::BAD_REQUEST, r#"{"code":400,"message":"no"}"#),
            (StatusCode::FORBIDDEN, named),
            (StatusCode::OK, named),
        ] {
            assert!(!is_yes(status, body), "{status} {body}");
        }
    }
}
