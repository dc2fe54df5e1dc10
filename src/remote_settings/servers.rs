//! Other servers than Kinto, which have attachments or chains of certificates.

use std::io;
use std::time::Duration;

use http::{HeaderMap, Method, Request, Response, Uri};

use crate::cache::Cache;
use crate::settings::Settings;
use crate::upstream::{Upstream, UpstreamError};
use crate::wire::body::Body;

/// SECURITY: of how many servers the connections are kept. Their addresses are whatever somebody wrote.
const SERVERS: u64 = 8;

/// Asks servers by whole addresses, and keeps the connections to those that it asked last.
#[derive(Debug)]
pub(crate) struct Servers {
    settings: Settings,
    patience: Duration,
    /// SECURITY: where strangers write the addresses, the hosts that may be in a private network.
    private_hosts: Option<Vec<String>>,
    clients: Cache<String, Upstream>,
}

impl Servers {
    /// Each is waited for so long.
    pub(super) fn new(settings: &Settings, patience: Duration) -> Self {
        let clients = Cache::builder(SERVERS).build();
        Self { settings: settings.clone(), patience, private_hosts: None, clients }
    }

    /// The same where strangers write the addresses: but for these hosts, they lead to the public Internet alone.
    pub(super) fn of_strangers(settings: &Settings, patience: Duration, private_hosts: &[String]) -> Self {
        Self { private_hosts: Some(private_hosts.to_vec()), ..Self::new(settings, patience) }
    }

    /// Asks for what is at this address.
    pub(crate) async fn ask(
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

    fn client(&self, url: &Uri) -> io::Result<Upstream> {
        let place = format!("{:?} {:?}", url.scheme_str(), url.authority());
        if let Some(client) = self.clients.get(&place) {
            return Ok(client);
        }
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
        let is_named = |hosts: &Vec<String>| hosts.iter().any(|named| named.eq_ignore_ascii_case(host));
        let only_public = self.private_hosts.as_ref().is_some_and(|hosts| !is_named(hosts));
        let client = Upstream::elsewhere(&self.settings, url, self.patience, only_public)?;
        self.clients.insert(place, client.clone());
        Ok(client)
    }
}
