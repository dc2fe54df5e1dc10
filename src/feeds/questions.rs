//! Who may read what there is a feed of.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::subject::{Subject, View};
use crate::access::{Access, Credentials, Refusal, Verdict};
use crate::error::Error;
use crate::history::History;
use crate::kinto::object::Object;
use crate::upstream::Upstream;

/// Whom to ask who may read what.
#[derive(Debug)]
pub struct Questions {
    /// Permissions, as the upstream says.
    pub access: Arc<Access>,
    /// The upstream.
    pub upstream: Upstream,
    /// Histories.
    pub history: Arc<History>,
    /// Who may read the list of monitored collections.
    pub principals: Vec<String>,
}

impl Questions {
    /// Whether somebody may read a source; of a history, as much of it as the subject says.
    pub async fn ask(&self, subject: &Subject, credentials: &Credentials) -> Result<Verdict, Error> {
        let Self { access, upstream, principals, .. } = self;
        match subject {
            Subject::Collection(key) => access.may_read(upstream, key, credentials).await,
            Subject::Bucket(bucket) => {
                access.may_read_object(upstream, &Object::Bucket(bucket.to_string()), credentials).await
            }
            Subject::Monitor => {
                if access.has_principal(upstream, credentials, principals).await? {
                    return Ok(Verdict::open());
                }
                Err(if credentials.is_anonymous() { Error::Unauthorized } else { Error::Forbidden })
            }
            Subject::History(bucket, view) => {
                match self.seen(bucket, credentials).await? {
                    ControlFlow::Break(refusal) => Ok(Verdict::Refused(refusal)),
                    // Who sees less than before comes back for it.
                    ControlFlow::Continue(View::Of(_)) if *view == View::Everything => Err(Error::Forbidden),
                    ControlFlow::Continue(_) => Ok(Verdict::open()),
                }
            }
        }
    }

    /// How much of a bucket's history somebody sees; a refusal where that is nothing.
    pub async fn seen(
        &self,
        bucket: &str,
        credentials: &Credentials,
    ) -> Result<ControlFlow<Arc<Refusal>, View>, Error> {
        let Self { history, upstream, .. } = self;
        let Some(journal) = history.journal(upstream).await? else { return Err(Error::NotFound) };
        let visible = match history.visible(upstream, journal, bucket, credentials).await? {
            ControlFlow::Break(refusal) => return Ok(ControlFlow::Break(refusal)),
            ControlFlow::Continue(visible) => visible,
        };
        if visible.is_everything() {
            return Ok(ControlFlow::Continue(View::Everything));
        }
        let refusal = visible.refusal().await?;
        Ok(refusal.map_or_else(|| ControlFlow::Continue(View::Of(credentials.clone())), ControlFlow::Break))
    }
}
