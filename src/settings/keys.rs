//! Every setting by its key: the one place where its flag, its default and its meaning are written down.
//!
//! The command line, the environment's names, suggestions for what is misspelt, the defaults in force and
//! the README's table all come from here.

use std::fmt::Write as _;

/// One setting.
#[derive(Debug)]
pub struct Key {
    /// The name in the file and in `--set`, without Kinto's optional prefix.
    pub name: &'static str,
    /// The named flag, where there is one.
    pub flag: Option<Flag>,
    /// What is in force where nobody says anything.
    pub default: Default,
    /// What it is for, in Markdown.
    pub meaning: &'static str,
    /// The name in kinto-changes 0.x.
    pub former: Option<&'static str>,
    /// Whether its value must not be shown.
    pub is_secret: bool,
}

/// A named flag of the command line.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Its name, without the dashes.
    pub long: &'static str,
    /// What its value is called; `None` for a switch.
    pub value: Option<&'static str>,
}

/// A setting's default.
#[derive(Clone, Copy, Debug)]
pub enum Default {
    /// As it would be written.
    Value(&'static str),
    /// Nothing.
    None,
    /// Found at start, as described.
    Found(&'static str),
}

impl Key {
    const fn new(name: &'static str, default: &'static str, meaning: &'static str) -> Self {
        let default = if default.is_empty() { Default::None } else { Default::Value(default) };
        Self { name, flag: None, default, meaning, former: None, is_secret: false }
    }

    const fn flag(self, long: &'static str, value: &'static str) -> Self {
        Self { flag: Some(Flag { long, value: Some(value) }), ..self }
    }

    const fn switch(self, long: &'static str) -> Self {
        Self { flag: Some(Flag { long, value: None }), ..self }
    }

    const fn found(self, how: &'static str) -> Self {
        Self { default: Default::Found(how), ..self }
    }

    const fn formerly(self, name: &'static str) -> Self {
        Self { former: Some(name), ..self }
    }

    const fn secret(self) -> Self {
        Self { is_secret: true, ..self }
    }

    /// The key of this name, without Kinto's prefix.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// Whether the setting is one of Kinto itself, which it reads, too.
    pub fn is_kintos(&self) -> bool {
        !NAMESPACES.iter().any(|namespace| self.name.starts_with(namespace))
    }

    /// The key's row in a Markdown table of key, flag, default and meaning.
    pub fn markdown_row(&self) -> String {
        let mut row = format!("| `{}` | ", self.name);
        match self.flag {
            Some(Flag { long, value: Some(value) }) => _ = write!(row, "`--{long} {value}`"),
            Some(Flag { long, value: None }) => _ = write!(row, "`--{long}`"),
            None => {}
        }
        match self.default {
            Default::Value(text) => _ = write!(row, " | `{text}` | "),
            Default::None => row.push_str(" | none | "),
            Default::Found(how) => _ = write!(row, " | {how} | "),
        }
        row + self.meaning + " |"
    }
}

/// The sidecar's own namespaces: a key in one of them that is not in the table is a mistake.
pub(super) const NAMESPACES: [&str; 4] = ["sidecar.", "changes.", "history.", "feeds."];

/// All settings, in the order in which they are shown. [`super::record_cache`] adds an open family.
#[rustfmt::skip]
pub static KEYS: &[Key] = &[
    Key::new("sidecar.upstream", "http://127.0.0.1:8888/v1", "the Kinto API root, as Kinto's clients write it (with `/v1`); `https://` and a path in front of `/v1` work").flag("upstream", "URL"),
    Key::new("sidecar.listen", "127.0.0.1:8889", "`HOST:PORT`, `[::]:PORT`, or `unix:PATH`; port 0 takes a free one").flag("listen", "ADDR"),
    Key::new("sidecar.auth", "", "the service account: what the sidecar itself reads upstream with. Also `Bearer TOKEN`. Without it the sidecar reads as anyone does").flag("auth", "USER:PASSWORD").secret(),
    Key::new("sidecar.auth_file", "", "the same, from a file (container secrets); read again when it changes").flag("auth-file", "FILE"),
    Key::new("sidecar.compat", "kinto-changes", "`kinto-changes` or `remote-settings`: which plugin is followed where the two differ").flag("compat", "MODE"),
    Key::new("sidecar.timestamps_ttl", "1s", "how long a learned timestamp is taken as good before it may be asked for again; `0s`: every request asks first. A write that passes through the sidecar counts at once, whatever this is").flag("timestamps-ttl", "DURATION"),
    Key::new("sidecar.poll_budget", "5%", "the share of time for which polling may keep the upstream busy; `100%` for as often as `timestamps_ttl` says").flag("poll-budget", "PERCENT"),
    Key::new("sidecar.exclusive", "false", "nothing writes to the upstream but through sidecars that share the journal: no polling").switch("exclusive"),
    Key::new("sidecar.cache_size", "256MiB", "the bound, in bytes, of all cached responses together").flag("cache-size", "BYTES"),
    Key::new("sidecar.mirror", "delta", "how a mirror is kept up: `delta` (what is newer is read, and compared with a listing in the background), `verified` (compared before the answer) or `full` (all is read at each change)").flag("mirror", "MODE"),
    Key::new("sidecar.overlap", "10s", "how far back each delta reads again: longer than the upstream's longest write transaction").flag("overlap", "DURATION"),
    Key::new("sidecar.verify_every", "10m", "how often a mirror in use is compared with the upstream").flag("verify-every", "DURATION"),
    Key::new("sidecar.stale_if_error", "1d", "how long a cached response may still be served while the upstream fails").flag("stale-if-error", "DURATION"),
    Key::new("sidecar.changes", "auto", "`auto`: monitor/changes and changesets are the sidecar's; `upstream`: the plugin there answers and the sidecar caches; `off`: those paths are forwarded like any other and no capability is added").flag("changes", "MODE"),
    Key::new("sidecar.history", "auto", "`auto`: the upstream's own where it has the `history` capability, else `journal`; `journal`; `upstream`; `off` (forwarded like any other path)").flag("history", "MODE"),
    Key::new("sidecar.journal", "sqlite:kinto-sidecar.db", "the history journal: `sqlite:PATH`, `sqlite::memory:`, or `postgres://…` to share it between sidecars").flag("journal", "URL").secret(),
    Key::new("sidecar.admin_listen", "", "a second listener for `/metrics`, `/health/live`, `/health/ready`").flag("admin-listen", "ADDR"),
    Key::new("sidecar.log", "info", "tracing filter (`RUST_LOG` syntax)").flag("log", "FILTER"),
    Key::new("sidecar.log_format", "", "`text`, or `json` in the MozLog shape that Kinto's own `JSONFormatter` writes").flag("log-format", "FORMAT").found("`text` on a terminal, else `json`"),

    Key::new("sidecar.permission_ttl", "5s", "how long the upstream's answer to who may read what is remembered"),
    Key::new("sidecar.trusted_proxies", "", "addresses and networks whose `Forwarded` and `X-Forwarded-*` are believed: `10.0.0.0/8 ::1`"),
    Key::new("sidecar.purge_url", "", "what is told of each change, such as the Varnish in front"),
    Key::new("sidecar.purge_method", "PURGE", "how it is told: `PURGE`, `BAN` or `POST`"),
    Key::new("sidecar.tls_certificate", "", "PEM file of the certificate chain: the listener speaks TLS"),
    Key::new("sidecar.tls_key", "", "PEM file of its private key"),
    Key::new("sidecar.upstream_http2", "false", "HTTP/2 with prior knowledge to an `http://` upstream (`https://` negotiates it)"),
    Key::new("sidecar.upstream_ca", "", "PEM file of authorities to trust for the upstream, beside the system's"),
    Key::new("sidecar.threads", "", "how many threads serve requests").found("one per core"),
    Key::new("sidecar.max_header", "64KiB", "bytes of a request's head (past it 431), and of an answer's from the upstream (502); a field counts as 8 or more"),
    Key::new("sidecar.max_body", "100MiB", "bytes of a request's body; past it 413; `0` for no bound"),
    Key::new("sidecar.max_batch_body", "16MiB", "bytes of the body of a batch, which is held in memory; past it 413"),
    Key::new("sidecar.max_buffered", "128MiB", "bytes of bodies and answers that are held in memory for clients, half of them for any one client; past it 503. What is passed on or comes from a mirror is not held"),
    Key::new("sidecar.max_connections", "10000", "client connections of the process; past it the one that has been idle for longest is closed. Live feeds get half of them"),
    Key::new("sidecar.max_connections_per_client", "1000", "client connections of one address (of IPv6, of one /64), but for those of `sidecar.trusted_proxies`; past it, the same"),
    Key::new("sidecar.header_timeout", "10s", "for a request's head to arrive"),
    Key::new("sidecar.body_timeout", "60s", "between two reads of a request's body, and for the answer to a client that has closed its sending side"),
    Key::new("sidecar.idle_timeout", "75s", "for a kept-alive connection without a request"),
    Key::new(
        "sidecar.upstream_connect_timeout",
        "5s",
        "for a connection to the upstream; and how long one that takes connections and says nothing is waited for by those who can be answered from what is known",
    ),
    Key::new("sidecar.upstream_timeout", "60s", "for the head of the upstream's answer"),
    Key::new("sidecar.shutdown_grace", "30s", "for what is under way when the sidecar is told to stop"),

    Key::new("changes.resources", "", "URIs of the monitored buckets and collections; a bucket means every collection in it").formerly("event_listeners.changes.collections"),
    Key::new("changes.excluded_collections", "", "URIs of collections that are left out"),
    Key::new("changes.http_host", "", "the host of redirects, where it is not `http_host`").formerly("event_listeners.changes.http_host"),
    Key::new("changes.since_max_age_days", "21", "an older `_since` is redirected to the whole list; `-1` for never"),
    Key::new("changes.since_max_age_redirect_ttl_seconds", "86400", "for how long that redirect may be cached; `-1` for no such header"),
    Key::new("changes.principals", "system.Everyone", "who may read the list of timestamps").formerly("event_listeners.changes.principals"),
    Key::new("changes.bucket", "monitor", "the bucket under which the list is found").formerly("event_listeners.changes.bucket"),
    Key::new("changes.collection", "changes", "the collection under which it is found").formerly("event_listeners.changes.collection"),

    Key::new("history.resources", "", "URIs of buckets and collections that are watched for changes that pass elsewhere; all that can be listed where empty"),
    Key::new("history.backfill", "none", "data that was there first: `none`, or `current` for one `create` entry per object"),
    Key::new("history.exclude_resources", "", "URIs that are not recorded"),
    Key::new("history.exclude_user_ids", "", "authors whose changes are not recorded"),
    Key::new("history.auto_trim_max_count", "-1", "how many entries a bucket keeps about each kind of object; `-1` for all"),
    Key::new("history.auto_trim_threshold", "100", "how many entries past that count bring a trim about"),
    Key::new("history.auto_trim_user_ids", "", "authors whose entries are trimmed"),
    Key::new("history.on_journal_failure", "refuse", "writes while the journal cannot be written: `refuse` (503) or `forward`"),
    Key::new("history.keep_days", "-1", "how many days an entry is kept; `-1` for ever"),
    Key::new("history.include_previous", "false", "entries carry the version before, `target.previous`"),

    Key::new("feeds.max_timeout", "5m", "the longest `timeout` that a reader gets"),
    Key::new("feeds.max_readers", "20000", "readers of live feeds per sidecar, and as many connections of them as half of `sidecar.max_connections`; past it 503, or `retry: 30000` for an eventsource"),
    Key::new("feeds.max_readers_per_client", "1000", "readers of live feeds per client; past it likewise"),

    Key::new("http_host", "", "the host that answers name"),
    Key::new("http_scheme", "", "the scheme that answers name"),
    Key::new("project_name", "kinto", "the name in the root view, and the `Logger` of log lines"),
    Key::new("paginate_by", "", "the largest page, in objects"),
    Key::new("storage_max_fetch_size", "10000", "the most objects that Kinto reads at once"),
    Key::new("batch_max_requests", "25", "the most requests in a batch, where Kinto does not say it itself; no more than this in a batch of the sidecar's own"),
    Key::new("retry_after_seconds", "3", "`Retry-After` of a 503"),
    Key::new("cors_origins", "*", "origins that browsers may call from"),
    Key::new("explicit_permissions", "true", "whether permissions of objects count, or those of settings alone"),
    Key::new("history_read_principals", "", "who may read every history"),
    Key::new("push_broadcast_min_debounce_interval_seconds", "300", "at least this long between two changes of a broadcast"),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{KEYS, Key};

    #[test]
    fn no_key_and_no_flag_is_there_twice() {
        let mut names = HashSet::new();
        let mut flags = HashSet::new();
        for key in KEYS {
            assert!(names.insert(key.name), "{}", key.name);
            assert!(key.former.is_none_or(|former| names.insert(former)), "{}", key.name);
            assert!(key.flag.is_none_or(|flag| flags.insert(flag.long)), "{}", key.name);
        }
    }

    #[test]
    fn a_row_says_key_flag_default_and_meaning() {
        let row = |name| Key::named(name).map(Key::markdown_row).unwrap();
        assert_eq!(
            row("sidecar.overlap"),
            "| `sidecar.overlap` | `--overlap DURATION` | `10s` | how far back each delta reads again: longer than \
             the upstream's longest write transaction |"
        );
        assert!(row("sidecar.exclusive").starts_with("| `sidecar.exclusive` | `--exclusive` | `false` |"));
        assert!(row("sidecar.threads").starts_with("| `sidecar.threads` |  | one per core |"));
    }
}
