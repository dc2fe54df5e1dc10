//! Every setting, resolved and validated at start and when it is read again: flag > `--set` > environment > file > default.
//!
//! [`table`] is the one place where a setting is written: its name, flag, default, meaning, kind and field.

use std::net::IpAddr;

mod admin_token;
mod auth;
mod error;
mod files;
mod in_force;
mod ini;
mod journal_url;
mod key;
mod listen_addr;
mod load;
mod meanings;
mod modes;
mod names;
mod pairs;
mod places;
mod record_cache;
mod redacted;
mod table;
#[cfg(test)]
mod tests;
mod upstream_url;
mod values;

pub use admin_token::AdminToken;
pub use auth::{AuthError, ServiceAuth};
pub use error::{Origin, SettingsError, Warning};
pub use in_force::{InForce, Reread};
pub use journal_url::JournalUrl;
pub use key::{Fallback, Flag, Key, Setting, at_start_only};
pub use listen_addr::ListenAddr;
pub use load::environment;
pub use modes::{
    AttachmentsMode, Backfill, ChangesMode, Compat, HistoryMode, JournalFailure, LogFormat, MirrorMode,
};
pub use names::Environment;
pub use pairs::TlsFiles;
pub use places::Arguments;
pub use record_cache::CacheExpiry;
pub use table::{
    ChangesSettings, FeedSettings, HistorySettings, KEYS, KintoSettings, Limits, RemoteSettings, Settings,
};
pub use upstream_url::UpstreamUrl;

impl Settings {
    /// A setting as it is in force, and where it was written, for whoever has to mend it.
    pub fn written(&self, name: &str) -> String {
        let setting = self.in_force.iter().find(|setting| setting.name == name);
        setting.map_or_else(
            || name.to_owned(),
            |setting| format!("{name} = {} ({})", setting.shown(), setting.origin),
        )
    }

    /// Whether what this peer says in `Forwarded` and `X-Forwarded-*` is believed.
    pub fn is_trusted_proxy(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted_proxies.iter().any(|network| network.contains(&peer))
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::load(&Arguments::default(), &Environment::new()).expect("every default can be read").0
    }
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

impl Settings {
    /// The address under which clients know the sidecar, without a slash at its end. It is never what a request says.
    pub fn public_url(&self) -> String {
        if let Some(url) = &self.remote_settings.public_url {
            return url.to_string().trim_end_matches('/').to_owned();
        }
        let (scheme, host) = (self.kinto.http_scheme.as_deref(), self.kinto.http_host.as_deref());
        if let Some(host) = host.filter(|host| !host.is_empty()) {
            return format!("{}://{host}", scheme.unwrap_or("https"));
        }
        let scheme = scheme.unwrap_or(if self.tls.is_some() { "https" } else { "http" });
        let listen = match &self.listen {
            ListenAddr::Tcp(address) => address,
            ListenAddr::Unix(_) => "localhost",
        };
        format!("{scheme}://{listen}")
    }
}

impl Settings {
    /// Where clients find attachments and bundles, with a slash at the end.
    pub fn attachments_base_url(&self) -> String {
        match &self.remote_settings.attachments_base_url {
            Some(url) => format!("{}/", url.to_string().trim_end_matches('/')),
            None => format!("{}/v2/attachments/", self.public_url()),
        }
    }
}

impl KintoSettings {
    /// For how long answers about this collection's records may be cached, fall-backs applied.
    pub fn record_cache(&self, bucket: &str, collection: &str) -> CacheExpiry {
        self.record_cache.of(bucket, collection)
    }
}
