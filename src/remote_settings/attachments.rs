//! Where attachments are, and how they are fetched from there.

use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::servers::Servers;
use crate::settings::Settings;
use crate::upstream::Upstream;

/// How long whoever has them is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// The server that has the attachments.
#[derive(Debug)]
pub struct Attachments {
    settings: Settings,
    /// Where clients are sent here.
    own: String,
    /// Asks for an attachment.
    pub(crate) servers: Servers,
}

impl Attachments {
    /// Nothing is known yet.
    pub fn new(settings: &Settings) -> Self {
        let servers = Servers::new(settings, PATIENCE);
        Self { settings: settings.clone(), own: settings.attachments_base_url(), servers }
    }

    /// Where they are, with a slash at the end; `None` where nobody has any.
    async fn base_url(&self, upstream: &Upstream) -> Option<String> {
        let url = match &self.settings.remote_settings.attachments_upstream {
            Some(url) => url.to_string(),
            None => upstream.described().await.ok()?.said_of("attachments", "base_url")?.to_owned(),
        };
        let url = format!("{}/", url.trim_end_matches('/'));
        // A Kinto that names this sidecar has nobody else.
        (url != self.own).then_some(url)
    }

    /// The address of the attachment at this path, as it stands in a URL, below `base_url`; `None` where nobody has any.
    ///
    /// SECURITY: what leads out of the folder, or is a question to the server, is no attachment, whoever names it.
    pub async fn url(&self, path: &str, upstream: &Upstream) -> Option<String> {
        let decoded = percent_decode_str(path).decode_utf8_lossy();
        let is_out =
            decoded.contains(['\\', '\0']) || decoded.split('/').any(|part| matches!(part, "." | ".."));
        if is_out || path.is_empty() || path.contains(['?', '#']) {
            return None;
        }
        Some(format!("{}{path}", self.base_url(upstream).await?))
    }
}
