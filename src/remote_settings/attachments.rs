//! Where attachments are, and how they are fetched from there.

use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderMap;
use http::{Method, Request, Response, Uri};
use parking_lot::Mutex;

use crate::settings::Settings;
use crate::upstream::{Upstream, UpstreamError};
use crate::wire::body::Body;

/// How long whoever has them is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// The server that has the attachments.
#[derive(Debug)]
pub struct Attachments {
    settings: Settings,
    /// Where clients are sent here.
    own: String,
    /// The client of the server that had them last.
    client: Mutex<Option<(Arc<str>, Upstream)>>,
}

impl Attachments {
    /// Nothing is known yet.
    pub fn new(settings: &Settings) -> Self {
        Self { settings: settings.clone(), own: settings.attachments_base_url(), client: Mutex::default() }
    }

    /// Where they are, with a slash at the end; `None` where nobody has any.
    pub async fn base_url(&self, upstream: &Upstream) -> Option<String> {
        let url = match &self.settings.remote_settings.attachments_upstream {
            Some(url) => url.to_string(),
            None => upstream.described().await.ok()?.said_of("attachments", "base_url")?.to_owned(),
        };
        let url = format!("{}/", url.trim_end_matches('/'));
        // A Kinto that names this sidecar has nobody else.
        (url != self.own).then_some(url)
    }

    /// Asks for the attachment at this address.
    pub async fn ask(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
    ) -> Result<Response<Body>, UpstreamError> {
        let url: Uri = url.parse().map_err(|_| UpstreamError::Unaskable)?;
        let client = self.client(&url).map_err(|_| UpstreamError::Unaskable)?;
        let mut request = Request::new(Body::empty());
        *request.method_mut() = method;
        *request.uri_mut() = match url.path_and_query() {
            Some(target) => Uri::from(target.clone()),
            None => return Err(UpstreamError::Unaskable),
        };
        *request.headers_mut() = headers;
        client.send(request).await
    }

    fn client(&self, url: &Uri) -> std::io::Result<Upstream> {
        let place = format!("{:?} {:?}", url.scheme_str(), url.authority());
        let mut client = self.client.lock();
        if let Some((known, client)) = &*client
            && **known == *place
        {
            return Ok(client.clone());
        }
        let made = Upstream::elsewhere(&self.settings, url, PATIENCE)?;
        *client = Some((place.into(), made.clone()));
        Ok(made)
    }
}
