//! The closed table of what the sidecar answers itself. Everything else, and every spelling of a path that is not
//! exactly one of these, is forwarded as it came: the sidecar and Kinto never see two different resources in one path.

use crate::endpoints::Endpoint;
use crate::kinto::{CollectionKey, is_id};
use crate::settings::{ChangesMode, Settings};

/// Who answers a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `GET /v1/`: the upstream's, with the sidecar's capabilities added.
    Root,
    /// `GET /v1/__api__`: likewise.
    Api,
    /// One of the sidecar's own endpoints.
    Own(Endpoint),
    /// `/v1/batch`, which may ask for any of the others.
    Batch,
    /// Anything else: the upstream answers.
    Forward,
}

impl Route {
    /// Reads a path as it came, without its query.
    pub fn of(path: &str, settings: &Settings) -> Self {
        if settings.changes_mode == ChangesMode::Off {
            return Self::Forward;
        }
        let Some(path) = path
            .strip_prefix('/')
            .and_then(|path| path.strip_prefix(&*settings.upstream.version))
            .filter(|path| path.starts_with('/'))
        else {
            return Self::Forward;
        };
        match path {
            "/" => return Self::Root,
            "/batch" => return Self::Batch,
            "/__api__" => return Self::Api,
            "/__broadcasts__" => return Self::Own(Endpoint::Broadcasts),
            _ => {}
        }
        let Some(path) = path.strip_prefix("/buckets/") else { return Self::Forward };
        let Some((bucket, path)) = path.split_once("/collections/") else { return Self::Forward };
        let Some((collection, leaf)) = path.split_once('/') else { return Self::Forward };
        if !is_id(bucket) || !is_id(collection) {
            return Self::Forward;
        }
        let is_monitor = bucket == settings.changes.bucket && collection == settings.changes.collection;
        match (leaf, is_monitor) {
            ("records", true) => Self::Own(Endpoint::MonitorChanges),
            ("changeset", true) => Self::Own(Endpoint::MonitorChangeset),
            ("changeset", false) => Self::Own(Endpoint::Changeset(CollectionKey::new(bucket, collection))),
            _ => Self::Forward,
        }
    }

    /// The name of the endpoint in logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Api => "api",
            Self::Own(Endpoint::MonitorChanges) => "monitor-changes",
            Self::Own(Endpoint::MonitorChangeset) => "monitor-changeset",
            Self::Own(Endpoint::Changeset(_)) => "changeset",
            Self::Own(Endpoint::Broadcasts) => "broadcasts",
            Self::Batch => "batch",
            Self::Forward => "forward",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(path: &str) -> Route {
        Route::of(path, &Settings::default())
    }

    #[test]
    fn own_paths_are_known() {
        assert_eq!(route("/v1/"), Route::Root);
        assert_eq!(route("/v1/batch"), Route::Batch);
        assert_eq!(route("/v1/__broadcasts__"), Route::Own(Endpoint::Broadcasts));
        assert_eq!(
            route("/v1/buckets/monitor/collections/changes/records"),
            Route::Own(Endpoint::MonitorChanges)
        );
        assert_eq!(
            route("/v1/buckets/monitor/collections/changes/changeset"),
            Route::Own(Endpoint::MonitorChangeset)
        );
        assert_eq!(
            route("/v1/buckets/a/collections/b/changeset"),
            Route::Own(Endpoint::Changeset(CollectionKey::new("a", "b")))
        );
    }

    #[test]
    fn any_other_spelling_is_forwarded() {
        for path in [
            "/",
            "/v1",
            "/v2/",
            "/v1//buckets/a/collections/b/changeset",
            "/v1/buckets/a/collections/b/changeset/",
            "/v1/buckets/a%2Fb/collections/b/changeset",
            "/v1/buckets/%61/collections/b/changeset",
            "/v1/buckets/a/collections/../changeset",
            "/v1/buckets/a/collections/b;c/changeset",
            "/v1/buckets/a/collections/b/Changeset",
            "/V1/buckets/a/collections/b/changeset",
            "/v1/buckets/monitor/collections/changes/records/x",
            "/v1/buckets/a/collections/b/records",
        ] {
            assert_eq!(route(path), Route::Forward, "{path}");
        }
    }

    #[test]
    fn nothing_is_the_sidecars_where_changes_are_off() {
        let settings = Settings { changes_mode: ChangesMode::Off, ..Settings::default() };
        assert_eq!(Route::of("/v1/buckets/a/collections/b/changeset", &settings), Route::Forward);
    }
}
