//! What all that is asked of a history begins and ends with.

use http::header::{HOST, HeaderValue};
use http::request::Parts;

use crate::access::Requester;
use crate::app::Core;
use crate::endpoints::{list, own_bucket};
use crate::error::Error;
use crate::history::Visible;
use crate::journal::Journal;
use crate::kinto::segment;
use crate::wire::peer::Peer;

/// The history of a bucket, which the sidecar keeps, and who asks for it.
pub(in crate::endpoints) struct Opened<'h> {
    pub(in crate::endpoints) journal: &'h Journal,
    pub(in crate::endpoints) requester: Requester,
    /// The bucket's id, also of the one that the requester knows as `default`.
    pub(in crate::endpoints) bucket: String,
}

impl<'h> Opened<'h> {
    /// Finds it. Somebody who has no bucket of their own is refused.
    pub(in crate::endpoints) async fn of(
        core: &'h Core,
        bucket: &str,
        request: &Parts,
    ) -> Result<Self, Error> {
        let journal = core.app.history.journal(&core.upstream).await?.ok_or(Error::NotFound)?;
        let requester = core.requester(&request.headers);
        let bucket = own_bucket::of_history(core, bucket, &requester).await?;
        Ok(Self { journal, requester, bucket })
    }

    /// What its requester may see of it. Somebody who may see nothing is refused.
    pub(in crate::endpoints) async fn visible(&self, core: &Core) -> Result<Visible, Error> {
        core.app.history.visible(self.journal, &self.bucket, &self.requester).await
    }

    /// The address of the next page of what is asked for below the bucket, under its own id.
    pub(super) fn next_page(
        &self,
        core: &Core,
        below: &str,
        request: &Parts,
        peer: &Peer,
        (limit, token): (usize, &str),
    ) -> Option<HeaderValue> {
        let settings = &core.app.settings;
        let host = request.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let base_url = list::base_url(settings, peer.scheme(), host);
        let path = format!("/{}/buckets/{}/{below}", settings.upstream.version, segment(&self.bucket));
        list::next_page(&base_url, &path, request.uri.query(), limit, token)
    }
}
