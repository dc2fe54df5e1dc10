//! Who may read what, and which source they mean.

use std::ops::ControlFlow;
use std::sync::Arc;

use http::StatusCode;
use http::request::Parts;

use super::{Subject, View};
use crate::access::{Access, Credentials, Refusal, Verdict};
use crate::endpoints::history::requester::Requester;
use crate::endpoints::own_bucket;
use crate::error::{Error, Response};
use crate::handler::Core;
use crate::history::History;
use crate::journal::Object;
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

/// Checks who asks. Gives what is asked for under the name that it has for everybody, and whether the upstream's last word on
/// it had to do.
pub async fn admitted(
    core: &Core,
    subject: Subject,
    credentials: &Credentials,
    request: &Parts,
) -> Result<ControlFlow<Response, (Subject, bool)>, Error> {
    let (subject, verdict) = match subject {
        Subject::Collection(key) => {
            let (key, verdict) = own_bucket::readable(core, key, credentials).await?;
            (Subject::Collection(key), verdict)
        }
        Subject::Bucket(bucket) => {
            let (bucket, verdict) = own_bucket::readable_bucket(core, &bucket, credentials).await?;
            (Subject::Bucket(bucket), verdict)
        }
        Subject::Monitor => (Subject::Monitor, questions(core).ask(&subject, credentials).await?),
        Subject::History(bucket, _) => {
            let bucket = match Requester::of(core, &request.headers, &bucket).await? {
                ControlFlow::Break(refusal) => return Ok(ControlFlow::Break(refusal)),
                ControlFlow::Continue(requester) => requester.bucket,
            };
            return Ok(match questions(core).seen(&bucket, credentials).await? {
                ControlFlow::Break(refusal) => ControlFlow::Break(refusal.replay()),
                ControlFlow::Continue(view) => {
                    ControlFlow::Continue((Subject::History(bucket.into(), view), false))
                }
            });
        }
    };
    match verdict {
        Verdict::Granted(granted) => Ok(ControlFlow::Continue((subject, granted.stale))),
        Verdict::Refused(refusal) if refusal.status() == StatusCode::NOT_FOUND => Err(Error::NotFound),
        Verdict::Refused(refusal) => Ok(ControlFlow::Break(refusal.replay())),
    }
}

fn questions(core: &Core) -> Questions {
    Questions {
        access: Arc::clone(&core.app.access),
        upstream: core.upstream.clone(),
        history: Arc::clone(&core.app.history),
        principals: core.app.settings.changes.principals.clone(),
    }
}
