//! Every setting, written once.
//!
//! An entry gives the name, the default and the meaning, then what is special about it, and the field with the kind that
//! its text is read as. A field that is an `Option` may be left blank, and one that is a `Vec` is split on white space. What is made
//! of several settings, or of none alone, stands behind the `+`. The structs, their defaults, [`KEYS`], the command line's
//! flags and help, the environment's names, suggestions for what is misspelt and the table of its chapter all come from here.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Uri};
use ipnet::IpNet;

use super::admin_token::AdminToken;
use super::auth::ServiceAuth;
use super::error::SettingsError;
use super::journal_url::JournalUrl;
use super::key::{Key, Setting};
use super::listen_addr::ListenAddr;
use super::meanings;
use super::modes::{
    self, AttachmentsMode, Backfill, ChangesMode, Compat, HistoryMode, JournalFailure, LogFormat, MirrorMode,
};
use super::names::Environment;
use super::pairs::TlsFiles;
use super::places::Places;
use super::record_cache::RecordCache;
use super::upstream_url::UpstreamUrl;
use super::values;

macro_rules! settings {
    ($(
        $(#[$about:meta])* $struct:ident {
            $([$section:literal] $(
                ($name:literal, $default:literal, $meaning:literal) $(.$special:ident($($how:tt)*))*
                $(=> $field:ident: $type:ty = $kind:expr)?;
            )*)*
        } $(+ { $($(#[$what:meta])* $shown:vis $made:ident: $made_type:ty = $make:expr;)* })?
    )*) => {
        $(
            $(#[$about])*
            #[derive(Clone, Debug, PartialEq)]
            pub struct $struct {
                $($($(
                    #[doc = concat!("`", $name, "`: ", $meaning, ".")]
                    pub $field: $type,
                )?)*)*
                $($($(#[$what])* $shown $made: $made_type,)*)?
            }

            impl $struct {
                pub(super) fn read(places: &Places<'_>) -> Result<Self, SettingsError> {
                    Ok(Self {
                        $($($(
                            $field: places.value($name, &$kind)?,
                        )?)*)*
                        $($($made: ($make)(places)?,)*)?
                    })
                }
            }
        )*

        /// All settings, in the order in which they are shown. [`super::record_cache`] adds an open family.
        pub static KEYS: &[Key] = &[
            $($($(Key::new($section, $name, $default, $meaning)$(.$special($($how)*))*,)*)*)*
        ];
    };
}

/// Text where somebody reads along, else JSON.
fn usual_log_format(_: &Environment) -> String {
    if io::stderr().is_terminal() { "text".to_owned() } else { "json".to_owned() }
}

/// Where systemd has a service keep what lasts, else here.
fn usual_journal(environment: &Environment) -> String {
    let folder = first_folder(environment, "STATE_DIRECTORY");
    format!("sqlite:{}", Path::new(folder).join("kinto-sidecar.db").display())
}

/// In the service manager's folder for what a service needs while it runs.
fn runtime_directory(environment: &Environment) -> String {
    let folder = first_folder(environment, "RUNTIME_DIRECTORY");
    if folder.is_empty() { String::new() } else { format!("{folder}/handover.sock") }
}

/// A folder that the service manager names. Where there are several, the first is the service's own.
fn first_folder<'e>(environment: &'e Environment, name: &str) -> &'e str {
    let folders = environment.get(name).map_or("", String::as_str);
    folders.split(':').next().unwrap_or_default()
}

settings! {
    /// All settings of one moment. The content of `sidecar.auth_file` is followed by [`ServiceAuth`].
    Settings {
        ["The upstream"]
        ("sidecar.upstream", "http://127.0.0.1:8888/v1", "the Kinto API root, as Kinto's clients write it (with `/v1`); `https://`, a path in front of `/v1` and a Unix socket (`http+unix://%2Frun%2Fkinto.sock/v1`) work. The name is looked up for each connection, and none takes requests for longer than 75 s").flag("upstream", "URL")
            => upstream: UpstreamUrl = values::UPSTREAM;
        ("sidecar.auth", "", "the service account: what the sidecar itself reads upstream with. Also `Bearer TOKEN`. Without it the sidecar reads as anyone does").flag("auth", "USER:PASSWORD").secret(|_| true).live();
        ("sidecar.auth_file", "", "the same, from a file (container secrets); read again when it changes").flag("auth-file", "FILE").live();
        ("sidecar.upstream_http2", "false", "HTTP/2 with prior knowledge to an `http://` upstream (`https://` negotiates it)")
            => upstream_http2: bool = values::BOOLEAN;
        ("sidecar.upstream_ca", "", "PEM file of authorities to trust for the upstream, beside the system's")
            => upstream_ca: Option<PathBuf> = values::PATH;
        ["Listening"]
        ("sidecar.listen", "127.0.0.1:8889", "`HOST:PORT`, `[::]:PORT`, or `unix:PATH`; port 0 takes a free one").flag("listen", "ADDR")
            => listen: ListenAddr = values::LISTEN;
        ("sidecar.admin_listen", "", "a second listener for `/metrics`, `/health/live`, `/health/ready`, and at `/` a page for people").flag("admin-listen", "ADDR");
        ("sidecar.admin_token", "", "what has to be shown on that listener by whoever drops caches, and by whoever looks at its page from another machine").secret(|_| true);
        ("sidecar.admin_token_file", "", "the same, from a file (container secrets), read each time");
        ("sidecar.handover", "", "a socket at which a new process asks the one that runs, of the same user or root, for its listening sockets and its journal").found("`$RUNTIME_DIRECTORY/handover.sock` where that is set, else none", runtime_directory);
        ("sidecar.tls_certificate", "", "PEM file of the certificate chain: the listener speaks TLS");
        ("sidecar.tls_key", "", "PEM file of its private key");
        ("sidecar.trusted_proxies", "", "addresses and networks whose `Forwarded` and `X-Forwarded-*` are believed: `10.0.0.0/8 ::1`").live()
            => trusted_proxies: Vec<IpNet> = meanings::NETWORK;
        ("sidecar.threads", "", "how many threads serve requests").found("one per core", |_| String::new())
            => threads: Option<usize> = values::THREADS;
        ["Changes"]
        ("sidecar.changes", "auto", "`auto`: monitor/changes and changesets are the sidecar's; `upstream`: the plugin there answers and the sidecar caches; `off`: those paths are forwarded like any other and no capability is added").flag("changes", "MODE")
            => changes_mode: ChangesMode = modes::CHANGES;
        ("sidecar.compat", "kinto-changes", "`kinto-changes` or `remote-settings`: which plugin is followed where the two differ").flag("compat", "MODE")
            => compat: Compat = modes::COMPAT;
        ("sidecar.timestamps_ttl", "1s", "how long a learned timestamp is taken as good before it may be asked for again; `0s`: every request asks first. A write that passes through the sidecar counts at once, whatever this is").flag("timestamps-ttl", "DURATION").live()
            => timestamps_ttl: Duration = values::DURATION;
        ("sidecar.poll_budget", "5%", "the share of time for which polling may keep the upstream busy; `100%` for as often as `timestamps_ttl` says").flag("poll-budget", "PERCENT").live()
            => poll_budget: f64 = values::PERCENT;
        ("sidecar.exclusive", "false", "nothing writes to the upstream but through sidecars that share the journal: no polling").switch("exclusive")
            => exclusive: bool = values::BOOLEAN;
        ("sidecar.permission_ttl", "5s", "how long the upstream's answer to who may read what is remembered").live()
            => permission_ttl: Duration = values::DURATION;
        ["Mirrors and caches"]
        ("sidecar.mirror", "delta", "how a mirror is kept up: `delta` (what is newer is read, and compared with a listing in the background), `verified` (compared before the answer) or `full` (all is read at each change)").flag("mirror", "MODE").live()
            => mirror: MirrorMode = modes::MIRROR;
        ("sidecar.overlap", "10s", "how far back each delta reads again: longer than the upstream's longest write transaction").flag("overlap", "DURATION").live()
            => overlap: Duration = values::DURATION;
        ("sidecar.verify_every", "10m", "how often a mirror in use, and each list whose history is kept, is compared with the upstream").flag("verify-every", "DURATION").live()
            => verify_every: Duration = values::PATIENCE;
        ("sidecar.stale_if_error", "1d", "how long a cached response may still be served while the upstream fails").flag("stale-if-error", "DURATION").live()
            => stale_if_error: Duration = values::DURATION;
        ("sidecar.cache_size", "256MiB", "the bound, in bytes, of all cached responses together").flag("cache-size", "BYTES").live()
            => cache_size: u64 = values::BYTES;
        ("sidecar.max_dictionaries", "32MiB", "bytes of earlier changesets that are kept for browsers which still have them, and are sent what is new against them (`dcz`, RFC 9842); `0` for none")
            => max_dictionaries: u64 = values::BYTES;
        ("sidecar.state_dir", "", "the folder in which the list of timestamps and the mirrors of what everybody may read outlive a restart; `none` for nowhere").found("`$STATE_DIRECTORY` where systemd set that, else the folder of a SQLite journal, else none", |environment| first_folder(environment, "STATE_DIRECTORY").to_owned());
        ("sidecar.purge_url", "", "what is told of each change, such as the Varnish in front").live()
            => purge_url: Option<Uri> = meanings::HTTP_URL;
        ("sidecar.purge_method", "PURGE", "how it is told: `PURGE`, `BAN` or `POST`").live()
            => purge_method: Method = values::PURGE_METHOD;
        ["The history"]
        ("sidecar.history", "auto", "`auto`: the upstream's own where it has the `history` capability, else `journal`; `journal`; `upstream`; `off` (forwarded like any other path)").flag("history", "MODE")
            => history_mode: HistoryMode = modes::HISTORY;
        ("sidecar.journal", "", "the history journal: `sqlite:PATH`, `sqlite::memory:`, or `postgres://…` to share it between sidecars").flag("journal", "URL").found("`sqlite:$STATE_DIRECTORY/kinto-sidecar.db` where systemd set that, else `sqlite:kinto-sidecar.db`", usual_journal).secret(JournalUrl::has_secret)
            => journal: JournalUrl = values::JOURNAL;
        ["The log"]
        ("sidecar.log", "info", "tracing filter (`RUST_LOG` syntax)").flag("log", "FILTER").live()
            => log: String = values::FILTER;
        ("sidecar.access_log", "on", "one line for each request, where `sidecar.log` lets `kinto_sidecar::access` through").live()
            => access_log: bool = values::BOOLEAN;
        ("sidecar.otlp_traces", "", "where spans of requests go: OTLP over HTTP in JSON, such as `http://127.0.0.1:4318/v1/traces`")
            => otlp_traces: Option<Uri> = meanings::HTTP_URL;
        ("sidecar.log_format", "", "`text`, or `json` as Kinto's own `kinto.core.JsonLogFormatter` writes it").flag("log-format", "FORMAT").found("`text` on a terminal, else `json`", usual_log_format).live()
            => log_format: LogFormat = modes::LOG_FORMAT;
    } + {
        /// `sidecar.auth` or `sidecar.auth_file`: what the sidecar itself reads upstream with.
        pub auth: Option<ServiceAuth> = Places::auth;
        /// `sidecar.admin_listen`: a second listener.
        pub admin_listen: Option<ListenAddr> = Places::admin_listen;
        /// `sidecar.handover`: where a new process asks for the sockets.
        pub handover: Option<PathBuf> = Places::handover;
        /// `sidecar.admin_token` or `sidecar.admin_token_file`.
        pub admin_token: Option<AdminToken> = Places::admin_token;
        /// `sidecar.state_dir`: what outlives the process is there.
        pub state_dir: Option<PathBuf> = Places::state_dir;
        /// `sidecar.tls_certificate` and `sidecar.tls_key`.
        pub tls: Option<TlsFiles> = Places::tls;
        /// What a client or the upstream may take of time and space.
        pub limits: Limits = Limits::read;
        /// Settings of Kinto itself.
        pub kinto: KintoSettings = KintoSettings::read;
        /// What is for Remote Settings' readers.
        pub remote_settings: RemoteSettings = RemoteSettings::read;
        /// Everything under `changes.`.
        pub changes: ChangesSettings = ChangesSettings::read;
        /// Everything under `history.`.
        pub history: HistorySettings = HistorySettings::read;
        /// Everything under `feeds.`.
        pub feeds: FeedSettings = FeedSettings::read;
        /// Every setting with its text and where it was written, in the order of [`KEYS`].
        pub in_force: Arc<[Setting]> = Places::in_force;
    }

    /// Bounds on time and space.
    Limits {
        ["Limits"]
        ("sidecar.max_header", "64KiB", "bytes of a request's head (past it 431), and of an answer's from the upstream (502); a field counts as 8 or more").live()
            => header_bytes: usize = values::ROOM;
        ("sidecar.max_body", "100MiB", "bytes of a request's body; past it 413; `0` for no bound").live()
            => body_bytes: u64 = values::BYTES;
        ("sidecar.max_batch_body", "16MiB", "bytes of the body of a batch, which is held in memory; past it 413").live()
            => batch_bytes: usize = values::ROOM;
        ("sidecar.max_buffered", "128MiB", "bytes of bodies and answers that are held in memory for clients, for any one client half of what others leave; past it 503. A sixteenth more is for what is little. What is passed on or comes from a mirror is not held").live()
            => buffered_bytes: usize = values::ROOM;
        ("sidecar.max_connections", "10000", "client connections of the process; past it the one that has been idle for longest is closed. Live feeds get half of them").live()
            => connections: usize = values::POSITIVE;
        ("sidecar.max_connections_per_client", "1000", "client connections of one address (of IPv6, of one /64), but for those of `sidecar.trusted_proxies`; past it, the same. Of HTTP/2, one request at a time on each connection, and as many more on all of them (or `feeds.max_readers_per_client`, and for all clients `sidecar.max_connections` or `feeds.max_readers`); past it `REFUSED_STREAM`").live()
            => connections_per_client: usize = values::POSITIVE;
        ("sidecar.max_upstream_requests", "512", "requests of clients that have something under way with the upstream, three quarters of them for any one client; past it they wait, and after `sidecar.upstream_timeout` 503").live()
            => upstream_requests: usize = values::POSITIVE;
        ("sidecar.header_timeout", "10s", "for a request's head to arrive").live()
            => header_timeout: Duration = values::PATIENCE;
        ("sidecar.body_timeout", "60s", "between two reads of a request's body or of an answer, and for the answer to a client that has closed its sending side").live()
            => body_timeout: Duration = values::PATIENCE;
        ("sidecar.idle_timeout", "75s", "for a kept-alive connection without a request").live()
            => idle_timeout: Duration = values::PATIENCE;
        ("sidecar.upstream_connect_timeout", "5s", "for a connection to the upstream; and how long one that takes connections and says nothing is waited for by those who can be answered from what is known").live()
            => upstream_connect_timeout: Duration = values::PATIENCE;
        ("sidecar.upstream_timeout", "60s", "for the head of the upstream's answer").live()
            => upstream_timeout: Duration = values::PATIENCE;
        ("sidecar.drain_delay", "0s", "how long the sidecar goes on after it is told to stop while `/health/ready` says 503, for those in front to look elsewhere").live()
            => drain_delay: Duration = values::DURATION;
        ("sidecar.shutdown_grace", "30s", "for what is under way when the sidecar is told to stop").live()
            => shutdown_grace: Duration = values::DURATION;
    }

    /// Everything under `changes.`.
    ChangesSettings {
        ["Changes, as the plugin names them"]
        ("changes.resources", "", "URIs of the monitored buckets and collections; a bucket means every collection in it").formerly("event_listeners.changes.collections").live()
            => resources: Vec<String> = meanings::MONITORED;
        ("changes.excluded_collections", "", "URIs of collections that are left out").live()
            => excluded_collections: Vec<String> = meanings::MONITORED;
        ("changes.http_host", "", "the host of redirects, where it is not `http_host`").formerly("event_listeners.changes.http_host").live()
            => http_host: Option<String> = meanings::HOST;
        ("changes.since_max_age_days", "21", "an older `_since` is redirected to the whole list; `-1` for never").live()
            => since_max_age_days: i64 = values::INTEGER;
        ("changes.since_max_age_redirect_ttl_seconds", "86400", "for how long that redirect may be cached; `-1` for no such header").live()
            => since_max_age_redirect_ttl_seconds: i64 = values::INTEGER;
        ("changes.principals", "system.Everyone", "who may read the list of timestamps").formerly("event_listeners.changes.principals").takes_blank().live()
            => principals: Vec<String> = meanings::PRINCIPAL;
        ("changes.bucket", "monitor", "the bucket under which the list is found").formerly("event_listeners.changes.bucket")
            => bucket: String = meanings::ID;
        ("changes.collection", "changes", "the collection under which it is found").formerly("event_listeners.changes.collection")
            => collection: String = meanings::ID;
    }

    /// What is for Remote Settings' readers, with `sidecar.compat = remote-settings`.
    RemoteSettings {
        ["Remote Settings"]
        ("sidecar.public_url", "", "the address under which clients know the sidecar, such as `https://settings.example.org`, where that is not `http_scheme` and `http_host`")
            => public_url: Option<Uri> = meanings::BASE_URL;
        ("sidecar.v2_max_age", "1h", "for how long caches may keep an answer of `/v2`").live()
            => max_age: Duration = values::DURATION;
        ("sidecar.v2_short_max_age", "60s", "the same for those that soon may be others: `__broadcasts__`, previews, what is not there, and the list where `_expected` is `0` or begins with `9999`").live()
            => short_max_age: Duration = values::DURATION;
        ("sidecar.v2_static_max_age", "7d", "the same for attachments that the sidecar forwards").live()
            => static_max_age: Duration = values::DURATION;
        ("sidecar.v2_bundle_max_age", "60s", "the same for bundles, which are live").live()
            => bundle_max_age: Duration = values::DURATION;
        ("sidecar.attachments_base_url", "", "where clients find attachments and bundles; they may remember it for good").found("`/v2/attachments/` below `sidecar.public_url`", |_| String::new())
            => attachments_base_url: Option<Uri> = meanings::BASE_URL;
        ("sidecar.attachments_upstream", "", "where attachments are").found("where the upstream's kinto-attachment says", |_| String::new())
            => attachments_upstream: Option<Uri> = meanings::BASE_URL;
        ("sidecar.attachments", "redirect", "`redirect`: clients are sent to where attachments are; `forward`: they are fetched from there")
            => attachments: AttachmentsMode = modes::ATTACHMENTS;
        ("sidecar.bundle_size", "64MiB", "bytes of a bundle before it is compressed, past which there is none; and of all bundles that are kept")
            => bundle_size: usize = values::SIZE;
        ("sidecar.verify_signatures", "false", "a changeset whose signature does not verify is not published while the last one that did is kept")
            => verify_signatures: bool = values::BOOLEAN;
        ("sidecar.signature_key", "", "PEM file of the public key of signatures that have no `x5u`")
            => signature_key: Option<PathBuf> = values::PATH;
        ("sidecar.signature_name", "", "the name that the first certificate at an `x5u` must have, such as `remote-settings.content-signature.mozilla.org`; blank for any")
            => signature_name: Option<String> = values::WORD;
        ("sidecar.signature_hosts", "", "hosts of `x5u` addresses, with blanks between them, that may be asked in a private network or on this machine; all others are asked at public addresses alone")
            => signature_hosts: Vec<String> = meanings::NAMED_HOST;
    }

    /// Everything under `history.`.
    HistorySettings {
        ["The history, as the plugin names it"]
        ("history.resources", "", "URIs of buckets and collections that are watched for changes that pass elsewhere; all that can be listed where empty").live()
            => resources: Vec<String> = meanings::MONITORED;
        ("history.backfill", "none", "data that was there first: `none`, or `current` for one `create` entry per object")
            => backfill: Backfill = modes::BACKFILL;
        ("history.exclude_resources", "", "URIs that are not recorded")
            => exclude_resources: Vec<String> = meanings::RESOURCE;
        ("history.exclude_user_ids", "", "authors whose changes are not recorded")
            => exclude_user_ids: Vec<String> = meanings::USER_ID;
        ("history.auto_trim_max_count", "-1", "how many entries a bucket keeps about each kind of object; `-1` for all")
            => auto_trim_max_count: Option<u64> = values::BOUND;
        ("history.auto_trim_threshold", "100", "how many entries past that count bring a trim about")
            => auto_trim_threshold: u64 = values::COUNT;
        ("history.auto_trim_user_ids", "", "authors whose entries are trimmed")
            => auto_trim_user_ids: Vec<String> = meanings::USER_ID;
        ("history.on_journal_failure", "refuse", "writes while the journal cannot be written: `refuse` (503) or `forward`").live()
            => on_journal_failure: JournalFailure = modes::JOURNAL_FAILURE;
        ("history.keep_days", "-1", "how many days an entry is kept; `-1` for ever")
            => keep_days: Option<u64> = values::BOUND;
        ("history.include_previous", "false", "entries carry the version before, `target.previous`; those who see the whole history are shown it")
            => include_previous: bool = values::BOOLEAN;
    }

    /// Everything under `feeds.`.
    FeedSettings {
        ["Feeds"]
        ("feeds.max_timeout", "5m", "the longest `timeout` that a reader gets").live()
            => max_timeout: Duration = values::PATIENCE;
        ("feeds.max_readers", "20000", "readers of live feeds per sidecar, and as many connections of them as half of `sidecar.max_connections`; past it 503, or `retry: 30000` for an eventsource").live()
            => max_readers: usize = values::POSITIVE;
        ("feeds.max_readers_per_client", "1000", "readers of live feeds per client; past it likewise").live()
            => max_readers_per_client: usize = values::POSITIVE;
    }

    /// Settings of Kinto itself, under its own names and with its own meanings
    /// (<https://docs.kinto-storage.org/en/stable/configuration/settings.html>).
    KintoSettings {
        ["Kinto's own"]
        ("http_host", "", "the host that answers name")
            => http_host: Option<String> = meanings::HOST;
        ("http_scheme", "", "the scheme that answers name; behind a proxy that ends TLS it is `https`")
            => http_scheme: Option<String> = meanings::SCHEME;
        ("project_name", "kinto", "the name in the root view, and the `Logger` of log lines").live()
            => project_name: String = values::TEXT;
        ("paginate_by", "", "the largest page, in objects").found("none", |_| "0".to_owned()).live()
            => paginate_by: Option<u64> = values::PAGE;
        ("storage_max_fetch_size", "10000", "the most objects that Kinto reads at once").live()
            => storage_max_fetch_size: u64 = values::POSITIVE_COUNT;
        ("batch_max_requests", "25", "the most requests in a batch, where Kinto does not say it itself; no more than this in a batch of the sidecar's own").live()
            => batch_max_requests: usize = values::POSITIVE;
        ("retry_after_seconds", "3", "`Retry-After` of a 503").live()
            => retry_after_seconds: u64 = values::COUNT;
        ("cors_origins", "*", "origins that browsers may call from").takes_blank().live()
            => cors_origins: Vec<String> = meanings::ORIGIN;
        ("explicit_permissions", "true", "whether permissions of objects count, or those of settings alone")
            => explicit_permissions: bool = values::BOOLEAN;
        ("trailing_slash_redirect_enabled", "true", "whether a path with a slash at its end leads to the one without, as batches follow it").live()
            => trailing_slash_redirect_enabled: bool = values::BOOLEAN;
        ("history_read_principals", "", "who may read every history").live()
            => history_read_principals: Vec<String> = meanings::PRINCIPAL;
        ("push_broadcast_min_debounce_interval_seconds", "300", "at least this long between two changes of a broadcast").live()
            => push_broadcast_min_debounce_interval_seconds: u64 = values::COUNT;
    } + {
        /// How long answers may be cached, by bucket and collection.
        pub(super) record_cache: RecordCache = Places::record_cache;
    }
}
