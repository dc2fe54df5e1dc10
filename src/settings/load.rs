//! Puts the settings together: a flag wins over `--set`, that over the environment, that over the file, that over the
//! default. Nothing is opened or contacted here but the files that the settings name.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use super::error::{Origin, SettingsError, Warning};
use super::ini::IniFile;
use super::keys::{KEYS, Key, NAMESPACES};
use super::names::{environment_names, without_prefix};
use super::record_cache::RecordCache;
use super::values::{self, Kind, native};
use super::{
    ChangesSettings, FeedSettings, HistorySettings, KintoSettings, Limits, LogFormat, ServiceAuth, Settings,
    TlsFiles,
};

/// The environment, by name.
pub type Environment = BTreeMap<String, String>;

/// What the command line says of settings, as it was typed.
#[derive(Debug, Clone, Default)]
pub struct Arguments {
    /// `--settings`, or `KINTO_INI`.
    pub settings_file: Option<PathBuf>,
    /// Each `--set`.
    pub assignments: Vec<String>,
    /// The value of each named flag, by the key of its setting.
    pub flags: BTreeMap<&'static str, String>,
}

/// All places where a setting can be written.
struct Places<'a> {
    arguments: &'a Arguments,
    assigned: BTreeMap<String, String>,
    environment: &'a Environment,
    file: Option<IniFile>,
}

impl Settings {
    /// Resolves the settings of this command line, in this environment.
    pub fn load(
        arguments: &Arguments,
        environment: &Environment,
    ) -> Result<(Self, Vec<Warning>), SettingsError> {
        let places = Places::open(arguments, environment)?;
        let mut warnings = places.misspelt()?;
        warnings.extend(places.formerly());
        warnings.extend(places.exposed()?);
        Ok((places.settings()?, warnings))
    }
}

impl<'a> Places<'a> {
    fn open(arguments: &'a Arguments, environment: &'a Environment) -> Result<Self, SettingsError> {
        let mut assigned = BTreeMap::new();
        for assignment in &arguments.assignments {
            let (key, value) = assignment
                .split_once('=')
                .filter(|(key, _)| !key.trim().is_empty())
                .ok_or_else(|| SettingsError::Assignment(beginning(assignment)))?;
            assigned.insert(without_prefix(key.trim()).to_owned(), value.to_owned());
        }
        let file = arguments.settings_file.as_deref().map(IniFile::read).transpose()?;
        Ok(Self { arguments, assigned, environment, file })
    }

    /// Keys of the sidecar's own that nothing reads: an error where somebody wrote them for it, a warning where it may
    /// be chance.
    fn misspelt(&self) -> Result<Vec<Warning>, SettingsError> {
        let is_misspelt = |key: &str| {
            NAMESPACES.iter().any(|namespace| key.starts_with(namespace))
                && Key::named(key).is_none()
                && !RecordCache::owns(key)
        };
        let unknown = |key: &str, origin| SettingsError::Unknown {
            key: key.to_owned(),
            origin,
            suggestion: nearest(without_prefix(key)),
        };
        if let Some(key) = self.assigned.keys().find(|key| is_misspelt(key)) {
            return Err(unknown(key, Origin::Assignment));
        }
        if let Some(file) = &self.file
            && let Some(key) = file.names().find(|key| is_misspelt(without_prefix(key)))
        {
            return Err(unknown(key, Origin::File(file.path.clone())));
        }
        let known: Vec<String> = KEYS.iter().flat_map(|key| environment_names(key.name)).collect();
        let is_ours = |name: &str| {
            ["SIDECAR_", "KINTO_SIDECAR_", "KINTO_CHANGES_", "KINTO_HISTORY_", "KINTO_FEEDS_"]
                .iter()
                .any(|namespace| name.starts_with(namespace))
        };
        let names = self
            .environment
            .keys()
            .filter(|name| is_ours(name) && !known.contains(name) && !RecordCache::owns_environment(name));
        Ok(names
            .map(|name| {
                let guess = without_prefix(&name.to_lowercase().replacen('_', ".", 1)).to_owned();
                Warning::Unknown { name: name.clone(), suggestion: nearest(&guess) }
            })
            .collect())
    }

    /// The names of kinto-changes 0.x that are still in use.
    fn formerly(&self) -> Vec<Warning> {
        let Some(file) = &self.file else { return Vec::new() };
        let names = file.names().filter_map(|name| {
            let key = KEYS.iter().find(|key| key.former == Some(without_prefix(name)))?;
            Some(Warning::Former { name: name.to_owned(), present: key.name })
        });
        names.collect()
    }

    /// Secrets on the command line, which every user of the machine can read there.
    fn exposed(&self) -> Result<Vec<Warning>, SettingsError> {
        let mut warnings = Vec::new();
        for key in KEYS.iter().filter(|key| key.is_secret) {
            let Some((text, origin)) = self.written(key)? else { continue };
            let is_on_command_line = matches!(origin, Origin::Flag(_) | Origin::Assignment);
            // A journal's address need not have a password in it.
            let is_secret = key.name != "sidecar.journal" || text.contains('@');
            if is_on_command_line && is_secret && !text.trim().is_empty() {
                warnings.push(Warning::Exposed { key: key.name, origin });
            }
        }
        Ok(warnings)
    }

    /// What is written for a key, in the strongest place.
    fn written(&self, key: &Key) -> Result<Option<(String, Origin)>, SettingsError> {
        if let (Some(flag), Some(value)) = (key.flag, self.arguments.flags.get(key.name)) {
            return Ok(Some((value.clone(), Origin::Flag(flag.long))));
        }
        if let Some(value) = self.assigned.get(key.name) {
            return Ok(Some((value.clone(), Origin::Assignment)));
        }
        for name in environment_names(key.name) {
            if let Some(value) = self.environment.get(&name) {
                return Ok(Some((native(value), Origin::Environment(name))));
            }
        }
        let Some(file) = &self.file else { return Ok(None) };
        for name in std::iter::once(key.name).chain(key.former) {
            let prefixed = format!("kinto.{name}");
            if let (Some(one), Some(other)) = (file.raw(&prefixed), file.raw(name))
                && one != other
            {
                return Err(SettingsError::Conflict {
                    path: file.path.clone(),
                    names: [prefixed, name.to_owned()],
                });
            }
            let value = match file.get(&prefixed)? {
                Some(value) => Some(value),
                None => file.get(name)?,
            };
            if let Some(value) = value {
                return Ok(Some((native(&value), Origin::File(file.path.clone()))));
            }
        }
        Ok(None)
    }

    /// The value of a key, if it is written anywhere; an empty one is none.
    fn optional<T>(&self, name: &'static str, kind: &Kind<T>) -> Result<Option<T>, SettingsError> {
        let Some(key) = Key::named(name) else { return Ok(None) };
        let Some((text, origin)) = self.written(key)? else { return Ok(None) };
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        (kind.parse)(text).map(Some).ok_or_else(|| malformed(key, text, origin, kind.expected))
    }

    /// The value of a key that has a default.
    fn value<T>(&self, name: &'static str, kind: &Kind<T>, default: T) -> Result<T, SettingsError> {
        Ok(self.optional(name, kind)?.unwrap_or(default))
    }

    /// The items of a list, split on white space.
    fn list<T>(&self, name: &'static str, kind: &Kind<T>) -> Result<Option<Vec<T>>, SettingsError> {
        let Some(key) = Key::named(name) else { return Ok(None) };
        let Some((text, origin)) = self.written(key)? else { return Ok(None) };
        let items = text.split_whitespace().map(|item| {
            (kind.parse)(item).ok_or_else(|| malformed(key, item, origin.clone(), kind.expected))
        });
        items.collect::<Result<_, _>>().map(Some)
    }

    /// A number below zero stands for none.
    fn bounded(&self, name: &'static str) -> Result<Option<u64>, SettingsError> {
        Ok(self.optional(name, &values::INTEGER)?.and_then(|number| u64::try_from(number).ok()))
    }

    fn settings(&self) -> Result<Settings, SettingsError> {
        let base = Settings::default();
        let log_format = self.optional("sidecar.log_format", &values::LOG_FORMAT)?;
        Ok(Settings {
            upstream: self.value("sidecar.upstream", &values::UPSTREAM, base.upstream)?,
            upstream_http2: self.value("sidecar.upstream_http2", &values::BOOLEAN, base.upstream_http2)?,
            upstream_ca: self.optional("sidecar.upstream_ca", &values::PATH)?,
            listen: self.value("sidecar.listen", &values::LISTEN, base.listen)?,
            admin_listen: self.optional("sidecar.admin_listen", &values::LISTEN)?,
            tls: self.tls()?,
            auth: self.auth()?,
            compat: self.value("sidecar.compat", &values::COMPAT, base.compat)?,
            timestamps_ttl: self.value("sidecar.timestamps_ttl", &values::DURATION, base.timestamps_ttl)?,
            poll_budget: self.value("sidecar.poll_budget", &values::PERCENT, base.poll_budget)?,
            exclusive: self.value("sidecar.exclusive", &values::BOOLEAN, base.exclusive)?,
            permission_ttl: self.value("sidecar.permission_ttl", &values::DURATION, base.permission_ttl)?,
            cache_size: self.value("sidecar.cache_size", &values::BYTES, base.cache_size)?,
            mirror: self.value("sidecar.mirror", &values::MIRROR, base.mirror)?,
            overlap: self.value("sidecar.overlap", &values::DURATION, base.overlap)?,
            verify_every: self.value("sidecar.verify_every", &values::DURATION, base.verify_every)?,
            stale_if_error: self.value("sidecar.stale_if_error", &values::DURATION, base.stale_if_error)?,
            changes_mode: self.value("sidecar.changes", &values::CHANGES, base.changes_mode)?,
            history_mode: self.value("sidecar.history", &values::HISTORY, base.history_mode)?,
            journal: self.value("sidecar.journal", &values::JOURNAL, base.journal)?,
            purge_url: self.optional("sidecar.purge_url", &values::HTTP_URL)?,
            purge_method: self.value("sidecar.purge_method", &values::PURGE_METHOD, base.purge_method)?,
            trusted_proxies: self.list("sidecar.trusted_proxies", &values::NETWORK)?.unwrap_or_default(),
            threads: self.optional("sidecar.threads", &values::POSITIVE)?,
            log: self.value("sidecar.log", &values::FILTER, base.log)?,
            log_format: log_format.unwrap_or_else(LogFormat::usual),
            limits: self.limits(&base.limits)?,
            kinto: self.kinto(base.kinto)?,
            changes: self.changes(base.changes)?,
            history: self.history(&base.history)?,
            feeds: self.feeds(&base.feeds)?,
        })
    }

    fn limits(&self, base: &Limits) -> Result<Limits, SettingsError> {
        let duration = |name, default| self.value(name, &values::DURATION, default);
        Ok(Limits {
            header_bytes: self.value("sidecar.max_header", &values::SIZE, base.header_bytes)?,
            body_bytes: self.value("sidecar.max_body", &values::BYTES, base.body_bytes)?,
            batch_bytes: self.value("sidecar.max_batch_body", &values::SIZE, base.batch_bytes)?,
            buffered_bytes: self.value("sidecar.max_buffered", &values::SIZE, base.buffered_bytes)?,
            connections: self.value("sidecar.max_connections", &values::POSITIVE, base.connections)?,
            connections_per_client: self.value(
                "sidecar.max_connections_per_client",
                &values::POSITIVE,
                base.connections_per_client,
            )?,
            header_timeout: duration("sidecar.header_timeout", base.header_timeout)?,
            body_timeout: duration("sidecar.body_timeout", base.body_timeout)?,
            idle_timeout: duration("sidecar.idle_timeout", base.idle_timeout)?,
            upstream_connect_timeout: duration(
                "sidecar.upstream_connect_timeout",
                base.upstream_connect_timeout,
            )?,
            upstream_timeout: duration("sidecar.upstream_timeout", base.upstream_timeout)?,
            shutdown_grace: duration("sidecar.shutdown_grace", base.shutdown_grace)?,
        })
    }

    fn kinto(&self, base: KintoSettings) -> Result<KintoSettings, SettingsError> {
        let interval = "push_broadcast_min_debounce_interval_seconds";
        Ok(KintoSettings {
            http_host: self.optional("http_host", &values::TEXT)?,
            http_scheme: self.optional("http_scheme", &values::TEXT)?,
            project_name: self.value("project_name", &values::TEXT, base.project_name)?,
            paginate_by: self.optional("paginate_by", &values::COUNT)?.filter(|size| *size > 0),
            storage_max_fetch_size: self.value(
                "storage_max_fetch_size",
                &values::POSITIVE_COUNT,
                base.storage_max_fetch_size,
            )?,
            batch_max_requests: self.value(
                "batch_max_requests",
                &values::POSITIVE,
                base.batch_max_requests,
            )?,
            retry_after_seconds: self.value(
                "retry_after_seconds",
                &values::COUNT,
                base.retry_after_seconds,
            )?,
            cors_origins: self.list("cors_origins", &values::TEXT)?.unwrap_or(base.cors_origins),
            explicit_permissions: self.value(
                "explicit_permissions",
                &values::BOOLEAN,
                base.explicit_permissions,
            )?,
            history_read_principals: self.list("history_read_principals", &values::TEXT)?.unwrap_or_default(),
            push_broadcast_min_debounce_interval_seconds: self.value(
                interval,
                &values::COUNT,
                base.push_broadcast_min_debounce_interval_seconds,
            )?,
            record_cache: self.record_cache()?,
        })
    }

    fn changes(&self, base: ChangesSettings) -> Result<ChangesSettings, SettingsError> {
        Ok(ChangesSettings {
            resources: self.list("changes.resources", &values::MONITORED)?.unwrap_or_default(),
            excluded_collections: self
                .list("changes.excluded_collections", &values::MONITORED)?
                .unwrap_or_default(),
            http_host: self.optional("changes.http_host", &values::TEXT)?,
            since_max_age_days: self.value(
                "changes.since_max_age_days",
                &values::INTEGER,
                base.since_max_age_days,
            )?,
            since_max_age_redirect_ttl_seconds: self.value(
                "changes.since_max_age_redirect_ttl_seconds",
                &values::INTEGER,
                base.since_max_age_redirect_ttl_seconds,
            )?,
            principals: self.list("changes.principals", &values::TEXT)?.unwrap_or(base.principals),
            bucket: self.value("changes.bucket", &values::NAME, base.bucket)?,
            collection: self.value("changes.collection", &values::NAME, base.collection)?,
        })
    }

    fn history(&self, base: &HistorySettings) -> Result<HistorySettings, SettingsError> {
        Ok(HistorySettings {
            resources: self.list("history.resources", &values::RESOURCE)?.unwrap_or_default(),
            backfill: self.value("history.backfill", &values::BACKFILL, base.backfill)?,
            exclude_resources: self.list("history.exclude_resources", &values::RESOURCE)?.unwrap_or_default(),
            exclude_user_ids: self.list("history.exclude_user_ids", &values::TEXT)?.unwrap_or_default(),
            auto_trim_max_count: self.bounded("history.auto_trim_max_count")?,
            auto_trim_threshold: self.value(
                "history.auto_trim_threshold",
                &values::COUNT,
                base.auto_trim_threshold,
            )?,
            auto_trim_user_ids: self.list("history.auto_trim_user_ids", &values::TEXT)?.unwrap_or_default(),
            on_journal_failure: self.value(
                "history.on_journal_failure",
                &values::JOURNAL_FAILURE,
                base.on_journal_failure,
            )?,
            keep_days: self.bounded("history.keep_days")?,
            include_previous: self.value(
                "history.include_previous",
                &values::BOOLEAN,
                base.include_previous,
            )?,
        })
    }

    fn feeds(&self, base: &FeedSettings) -> Result<FeedSettings, SettingsError> {
        Ok(FeedSettings {
            max_timeout: self.value("feeds.max_timeout", &values::DURATION, base.max_timeout)?,
            max_readers: self.value("feeds.max_readers", &values::POSITIVE, base.max_readers)?,
            max_readers_per_client: self.value(
                "feeds.max_readers_per_client",
                &values::POSITIVE,
                base.max_readers_per_client,
            )?,
        })
    }

    fn tls(&self) -> Result<Option<TlsFiles>, SettingsError> {
        let [certificate, key] = ["sidecar.tls_certificate", "sidecar.tls_key"];
        let incomplete =
            |present, missing| SettingsError::Incomplete { present, missing, origin: self.origin(present) };
        match (self.optional(certificate, &values::PATH)?, self.optional(key, &values::PATH)?) {
            (Some(certificate), Some(key)) => Ok(Some(TlsFiles { certificate, key })),
            (None, None) => Ok(None),
            (Some(_), None) => Err(incomplete(certificate, key)),
            (None, Some(_)) => Err(incomplete(key, certificate)),
        }
    }

    fn auth(&self) -> Result<Option<ServiceAuth>, SettingsError> {
        let [text, file] = ["sidecar.auth", "sidecar.auth_file"];
        let (in_text, in_file) = (self.optional(text, &values::TEXT)?, self.optional(file, &values::PATH)?);
        let (text_origin, file_origin) = (self.origin(text), self.origin(file));
        if in_text.is_some() && in_file.is_some() && text_origin.rank() == file_origin.rank() {
            return Err(SettingsError::Exclusive { first: text, second: file, origin: text_origin });
        }
        let credentials = |key, origin| move |source| SettingsError::Credentials { key, origin, source };
        match (in_text, in_file) {
            (Some(given), other) if other.is_none() || text_origin.rank() > file_origin.rank() => {
                ServiceAuth::from_text(&given).map(Some).map_err(credentials(text, text_origin))
            }
            (_, Some(path)) => {
                ServiceAuth::from_file(&path).map(Some).map_err(credentials(file, file_origin))
            }
            _ => Ok(None),
        }
    }

    fn record_cache(&self) -> Result<RecordCache, SettingsError> {
        let seconds = |name: &str, text: &str, origin: Origin| {
            let malformed = || SettingsError::Malformed {
                key: "record_cache_expires_seconds",
                value: format!("{text:?} (as {name})"),
                origin,
                expected: "a whole number of seconds",
            };
            (values::COUNT.parse)(text.trim()).ok_or_else(malformed)
        };
        let mut cache = RecordCache::default();
        for (key, text) in self.assigned.iter().filter(|(key, _)| RecordCache::owns(key)) {
            cache.assigned.insert(key.clone(), seconds(key, text, Origin::Assignment)?);
        }
        for (name, text) in self.environment.iter().filter(|(name, _)| RecordCache::owns_environment(name)) {
            cache.environment.insert(name.clone(), seconds(name, text, Origin::Environment(name.clone()))?);
        }
        let Some(file) = &self.file else { return Ok(cache) };
        let mut of_file = HashMap::new();
        for name in file.names().filter(|name| RecordCache::owns(without_prefix(name))) {
            let Some(text) = file.get(name)?.filter(|text| !text.trim().is_empty()) else { continue };
            of_file.insert(
                without_prefix(name).to_owned(),
                seconds(name, &text, Origin::File(file.path.clone()))?,
            );
        }
        cache.file = of_file;
        Ok(cache)
    }

    fn origin(&self, name: &'static str) -> Origin {
        let written = Key::named(name).and_then(|key| self.written(key).ok().flatten());
        written.map_or(Origin::Default, |(_, origin)| origin)
    }
}

fn malformed(key: &Key, text: &str, origin: Origin, expected: &'static str) -> SettingsError {
    // SECURITY: a secret that cannot be read is still a secret.
    let value = if key.is_secret { "…".to_owned() } else { format!("{:?}", without_credentials(text)) };
    SettingsError::Malformed { key: key.name, value, origin, expected }
}

/// An address without what stands between its scheme and an `@`.
fn without_credentials(text: &str) -> Cow<'_, str> {
    let Some((before, host)) = text.rsplit_once('@') else { return text.into() };
    let scheme = before.split_once("://").map_or("", |(scheme, _)| scheme);
    let separator = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{separator}…@{host}").into()
}

/// What of a malformed assignment can be shown: its key, as far as it looks like one.
fn beginning(assignment: &str) -> String {
    let is_of_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let end = assignment.find(|c| !is_of_key(c)).unwrap_or(assignment.len());
    let key = assignment.get(..end).unwrap_or_default();
    if end == assignment.len() { key.to_owned() } else { format!("{key}…") }
}

/// The known key that looks most like what was written, if any looks much like it.
fn nearest(written: &str) -> Option<&'static str> {
    let distances = KEYS.iter().map(|key| (strsim::damerau_levenshtein(written, key.name), key.name));
    distances.min().filter(|(distance, _)| *distance <= 3).map(|(_, name)| name)
}

#[cfg(test)]
mod tests;
