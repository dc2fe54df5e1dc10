//! Every setting, resolved and validated once at start: flag > `--set` > environment > file > default.
//!
//! The table of keys is the one place where a key, its flag, its default and its meaning are written down; the
//! values here are what the rest of the sidecar reads. Kinto's own settings keep Kinto's names and
//! meanings (<https://docs.kinto-storage.org/en/stable/configuration/settings.html>).

use std::io::{self, IsTerminal};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::{Method, Uri};
use ipnet::IpNet;

mod auth;
mod error;
mod ini;
mod journal_url;
mod keys;
mod kinto;
mod listen_addr;
mod load;
mod names;
mod record_cache;
mod upstream_url;
mod values;

pub use auth::{AuthError, ServiceAuth};
pub use error::{Origin, SettingsError, Warning};
pub use journal_url::JournalUrl;
pub use keys::{Flag, KEYS, Key};
pub use kinto::{ChangesSettings, KintoSettings};
pub use listen_addr::ListenAddr;
pub use load::{Arguments, Environment};
pub use record_cache::CacheExpiry;
pub use upstream_url::UpstreamUrl;

/// All settings of one process. Nothing here changes after start, but for the content of
/// `sidecar.auth_file`, which [`ServiceAuth`] follows.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `sidecar.upstream`: the Kinto behind the sidecar.
    pub upstream: UpstreamUrl,
    /// `sidecar.upstream_http2`: HTTP/2 with prior knowledge to an `http://` upstream.
    pub upstream_http2: bool,
    /// `sidecar.upstream_ca`: PEM file of the authorities to trust beside the system's.
    pub upstream_ca: Option<PathBuf>,
    /// `sidecar.listen`: where clients connect.
    pub listen: ListenAddr,
    /// `sidecar.admin_listen`: where metrics and health are answered.
    pub admin_listen: Option<ListenAddr>,
    /// `sidecar.tls_certificate` and `sidecar.tls_key`.
    pub tls: Option<TlsFiles>,
    /// `sidecar.auth` or `sidecar.auth_file`: what the sidecar itself reads upstream with.
    pub auth: Option<ServiceAuth>,
    /// `sidecar.compat`: which plugin is followed where the two differ.
    pub compat: Compat,
    /// `sidecar.timestamps_ttl`: how long a learned timestamp is taken as good.
    pub timestamps_ttl: Duration,
    /// `sidecar.poll_budget`: the share of time, `0.0..=1.0`, for which polling may keep the upstream busy.
    pub poll_budget: f64,
    /// `sidecar.exclusive`: nothing writes past the sidecars, so nothing is polled.
    pub exclusive: bool,
    /// `sidecar.permission_ttl`: how long the upstream's answer to who may read what is remembered.
    pub permission_ttl: Duration,
    /// `sidecar.cache_size`: the bound, in bytes, of all cached responses together.
    pub cache_size: u64,
    /// `sidecar.mirror`: how a mirror is kept up.
    pub mirror: MirrorMode,
    /// `sidecar.overlap`: how far back each delta reads again.
    pub overlap: Duration,
    /// `sidecar.verify_every`: how often a mirror in use is compared with the upstream.
    pub verify_every: Duration,
    /// `sidecar.stale_if_error`: how long a cached response is served while the upstream fails.
    pub stale_if_error: Duration,
    /// `sidecar.changes`: who answers monitor/changes and changesets.
    pub changes_mode: ChangesMode,
    /// `sidecar.history`: who keeps the history.
    pub history_mode: HistoryMode,
    /// `sidecar.journal`: where the history is kept.
    pub journal: JournalUrl,
    /// `sidecar.purge_url`: what is told of each change, such as a Varnish.
    pub purge_url: Option<Uri>,
    /// `sidecar.purge_method`: `PURGE`, `BAN` or `POST`.
    pub purge_method: Method,
    /// `sidecar.trusted_proxies`: the peers whose `Forwarded` and `X-Forwarded-*` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// `sidecar.threads`: how many threads serve requests; one per core where it is `None`.
    pub threads: Option<usize>,
    /// `sidecar.log`: a tracing filter in `RUST_LOG` syntax, known to be well formed.
    pub log: String,
    /// `sidecar.log_format`.
    pub log_format: LogFormat,
    /// What a client or the upstream may take of time and space.
    pub limits: Limits,
    /// Settings of Kinto itself.
    pub kinto: KintoSettings,
    /// Everything under `changes.`.
    pub changes: ChangesSettings,
    /// Everything under `history.`.
    pub history: HistorySettings,
    /// Everything under `feeds.`.
    pub feeds: FeedSettings,
}

impl Settings {
    /// Whether what this peer says in `Forwarded` and `X-Forwarded-*` is believed.
    pub fn is_trusted_proxy(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted_proxies.iter().any(|network| network.contains(&peer))
    }
}

/// The two PEM files that make the listener speak TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// `sidecar.tls_certificate`: the chain, leaf first.
    pub certificate: PathBuf,
    /// `sidecar.tls_key`: its private key.
    pub key: PathBuf,
}

/// Which plugin the sidecar behaves as where they differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compat {
    /// kinto-changes 4.1.2 as published.
    KintoChanges,
    /// The plugin's later life inside remote-settings.
    RemoteSettings,
}

/// How a mirror is kept up when its collection changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MirrorMode {
    /// What is newer is read, with an overlap, and compared with a listing in the background.
    Delta,
    /// As `Delta`, but the comparison comes before the answer.
    Verified,
    /// Everything is read again.
    Full,
}

/// Who answers monitor/changes and changesets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangesMode {
    /// The sidecar.
    Auto,
    /// The plugin in the upstream; the sidecar caches.
    Upstream,
    /// Whoever is at those paths upstream; they are forwarded like any other.
    Off,
}

/// Who keeps the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryMode {
    /// The upstream where it has the capability, else the journal.
    Auto,
    /// The sidecar's journal.
    Journal,
    /// The upstream.
    Upstream,
    /// Nobody; the paths are forwarded like any other.
    Off,
}

impl HistoryMode {
    /// Whether the sidecar's journal may be needed.
    pub fn wants_journal(self) -> bool {
        matches!(self, Self::Auto | Self::Journal)
    }
}

/// What a log line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// `MozLog`, as Kinto's own `JsonLogFormatter` writes it.
    Json,
}

impl LogFormat {
    /// Text where somebody reads along, else JSON.
    fn usual() -> Self {
        if io::stderr().is_terminal() { Self::Text } else { Self::Json }
    }
}

/// Bounds on time and space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `sidecar.max_header`: bytes of a request's head.
    pub header_bytes: usize,
    /// `sidecar.max_body`: bytes of a request's body; 0 for no bound.
    pub body_bytes: u64,
    /// `sidecar.max_batch_body`: bytes of a batch's body.
    pub batch_bytes: usize,
    /// `sidecar.max_buffered`: bytes of bodies and answers that are held in memory for clients.
    pub buffered_bytes: usize,
    /// `sidecar.max_connections`: client connections of the process.
    pub connections: usize,
    /// `sidecar.max_connections_per_client`: client connections of one address.
    pub connections_per_client: usize,
    /// `sidecar.header_timeout`: for a request's head to arrive.
    pub header_timeout: Duration,
    /// `sidecar.body_timeout`: between two reads of a request's body.
    pub body_timeout: Duration,
    /// `sidecar.idle_timeout`: for a kept-alive connection without a request.
    pub idle_timeout: Duration,
    /// `sidecar.upstream_connect_timeout`: for a connection to the upstream.
    pub upstream_connect_timeout: Duration,
    /// `sidecar.upstream_timeout`: for the head of the upstream's answer.
    pub upstream_timeout: Duration,
    /// `sidecar.shutdown_grace`: for what is under way at a stop.
    pub shutdown_grace: Duration,
}

impl Limits {
    /// The most bytes of a body that is read into memory.
    pub fn body_limit(&self) -> usize {
        match self.body_bytes {
            0 => usize::MAX,
            bytes => usize::try_from(bytes).unwrap_or(usize::MAX),
        }
    }
}

/// Everything under `history.`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistorySettings {
    /// What is watched for changes that pass elsewhere; everything that can be listed where it is empty.
    pub resources: Vec<String>,
    /// What becomes of data that was there first.
    pub backfill: Backfill,
    /// URIs that are not recorded.
    pub exclude_resources: Vec<String>,
    /// Authors whose changes are not recorded.
    pub exclude_user_ids: Vec<String>,
    /// How many entries an object keeps; all where `None`.
    pub auto_trim_max_count: Option<u64>,
    /// How many entries past that count bring a trim about.
    pub auto_trim_threshold: u64,
    /// Authors whose entries are trimmed.
    pub auto_trim_user_ids: Vec<String>,
    /// What becomes of a write that cannot be recorded.
    pub on_journal_failure: JournalFailure,
    /// How many days an entry is kept; for ever where `None`.
    pub keep_days: Option<u64>,
    /// Whether entries carry the version before, `target.previous`.
    pub include_previous: bool,
}

/// What the history says of data that was there before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backfill {
    /// Nothing.
    None,
    /// One `create` entry per object.
    Current,
}

/// What becomes of a write while the journal cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalFailure {
    /// It is answered 503 before it reaches the upstream.
    Refuse,
    /// It goes on, and the gap is healed by timestamps.
    Forward,
}

/// Everything under `feeds.`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedSettings {
    /// The longest `timeout` that a reader gets.
    pub max_timeout: Duration,
    /// Readers of live feeds per sidecar.
    pub max_readers: usize,
    /// Readers of live feeds per client.
    pub max_readers_per_client: usize,
}

impl Default for Settings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            upstream: UpstreamUrl::parse("http://127.0.0.1:8888/v1").expect("the default is well formed"),
            upstream_http2: false,
            upstream_ca: None,
            listen: ListenAddr::Tcp("127.0.0.1:8889".to_owned()),
            admin_listen: None,
            tls: None,
            auth: None,
            compat: Compat::KintoChanges,
            timestamps_ttl: seconds(1),
            poll_budget: 0.05,
            exclusive: false,
            permission_ttl: seconds(5),
            cache_size: 256 << 20,
            mirror: MirrorMode::Delta,
            overlap: seconds(10),
            verify_every: seconds(600),
            stale_if_error: seconds(86_400),
            changes_mode: ChangesMode::Auto,
            history_mode: HistoryMode::Auto,
            journal: JournalUrl::Sqlite("kinto-sidecar.db".into()),
            purge_url: None,
            purge_method: Method::from_bytes(b"PURGE").expect("the default is well formed"),
            trusted_proxies: Vec::new(),
            threads: None,
            log: "info".to_owned(),
            log_format: LogFormat::Text,
            limits: Limits {
                header_bytes: 64 << 10,
                body_bytes: 100 << 20,
                batch_bytes: 16 << 20,
                buffered_bytes: 128 << 20,
                connections: 10_000,
                connections_per_client: 1_000,
                header_timeout: seconds(10),
                body_timeout: seconds(60),
                idle_timeout: seconds(75),
                upstream_connect_timeout: seconds(5),
                upstream_timeout: seconds(60),
                shutdown_grace: seconds(30),
            },
            kinto: KintoSettings {
                http_host: None,
                http_scheme: None,
                project_name: "kinto".to_owned(),
                paginate_by: None,
                storage_max_fetch_size: 10_000,
                batch_max_requests: 25,
                retry_after_seconds: 3,
                cors_origins: vec!["*".to_owned()],
                explicit_permissions: true,
                history_read_principals: Vec::new(),
                push_broadcast_min_debounce_interval_seconds: 300,
                record_cache: record_cache::RecordCache::default(),
            },
            changes: ChangesSettings {
                resources: Vec::new(),
                excluded_collections: Vec::new(),
                http_host: None,
                since_max_age_days: 21,
                since_max_age_redirect_ttl_seconds: 86_400,
                principals: vec!["system.Everyone".to_owned()],
                bucket: "monitor".to_owned(),
                collection: "changes".to_owned(),
            },
            history: HistorySettings {
                resources: Vec::new(),
                backfill: Backfill::None,
                exclude_resources: Vec::new(),
                exclude_user_ids: Vec::new(),
                auto_trim_max_count: None,
                auto_trim_threshold: 100,
                auto_trim_user_ids: Vec::new(),
                on_journal_failure: JournalFailure::Refuse,
                keep_days: None,
                include_previous: false,
            },
            feeds: FeedSettings {
                max_timeout: seconds(300),
                max_readers: 20_000,
                max_readers_per_client: 1_000,
            },
        }
    }
}
