//! The settings of Kinto and of kinto-changes that the sidecar reads under their own names.

use super::record_cache::{CacheExpiry, RecordCache};

/// Settings of Kinto itself.
#[derive(Clone, Debug)]
pub struct KintoSettings {
    /// The host that answers name, where it is not the request's own.
    pub http_host: Option<String>,
    /// The scheme that answers name.
    pub http_scheme: Option<String>,
    /// The name that the root view gives, and the `Logger` of `MozLog` lines.
    pub project_name: String,
    /// The largest page, in objects.
    pub paginate_by: Option<u64>,
    /// The most objects that Kinto reads at once.
    pub storage_max_fetch_size: u64,
    /// The most requests in a batch.
    pub batch_max_requests: usize,
    /// `Retry-After` of a 503, in seconds.
    pub retry_after_seconds: u64,
    /// Origins that browsers may call from; `*` for any.
    pub cors_origins: Vec<String>,
    /// Whether permissions of objects count, or those of settings alone.
    pub explicit_permissions: bool,
    /// Who may read every history.
    pub history_read_principals: Vec<String>,
    /// At least this long between two changes of a broadcast, in seconds.
    pub push_broadcast_min_debounce_interval_seconds: u64,
    pub(super) record_cache: RecordCache,
}

impl KintoSettings {
    /// For how long answers about this collection's records may be cached, fall-backs applied.
    pub fn record_cache(&self, bucket: &str, collection: &str) -> CacheExpiry {
        self.record_cache.of(bucket, collection)
    }
}

/// Everything under `changes.`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangesSettings {
    /// URIs of the monitored buckets and collections, as written.
    pub resources: Vec<String>,
    /// URIs of collections that are left out.
    pub excluded_collections: Vec<String>,
    /// The host of redirects, where it is not `http_host`.
    pub http_host: Option<String>,
    /// A `_since` older than this many days is redirected; negative for never.
    pub since_max_age_days: i64,
    /// For how long that redirect may be cached, in seconds; negative for no such header.
    pub since_max_age_redirect_ttl_seconds: i64,
    /// Who may read the list; everybody with `system.Everyone`.
    pub principals: Vec<String>,
    /// The bucket under which the list is found.
    pub bucket: String,
    /// The collection under which the list is found.
    pub collection: String,
}
