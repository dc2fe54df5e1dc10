//! A client of another server than Kinto: a cache that is told of changes, or where attachments are.

use std::io;
use std::time::Duration;

use http::Uri;

use super::Upstream;
use crate::settings::{Settings, UpstreamUrl};

impl Upstream {
    /// A client of the server that a URL names, which is waited for so long. Where a stranger wrote the URL, it is connected to
    /// at public addresses alone.
    pub fn elsewhere(
        settings: &Settings,
        url: &Uri,
        patience: Duration,
        only_public: bool,
    ) -> io::Result<Self> {
        let https = match url.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(io::Error::other("it is no http:// or https:// URL")),
        };
        let authority = url.authority().ok_or_else(|| io::Error::other("it names no host"))?;
        let mut settings = settings.clone();
        settings.upstream = UpstreamUrl {
            https,
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(if https { 443 } else { 80 }),
            authority: authority.as_str().to_owned(),
            path_prefix: String::new(),
            version: String::new(),
            socket: None,
            only_public,
        };
        // SECURITY: what opens Kinto is no business of others.
        settings.auth = None;
        settings.upstream_http2 = false;
        settings.limits.upstream_connect_timeout = patience;
        settings.limits.upstream_timeout = patience;
        Self::new(&settings.into())
    }
}
