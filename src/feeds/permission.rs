//! Who may read what, and which source they mean.

use std::ops::ControlFlow;
use std::sync::Arc;

use http::StatusCode;
use http::request::Parts;

use super::{Subject, View};
use crate::access::{Access, Credentials, Refusal, Verdict};
use crate::endpoints::history::requester::Requester;
use crate::error::{Error, Response};
use crate::handler::Core;
use crate::history::History;
use crate::journal::Object;
use crate::kinto::CollectionKey;
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
            Subject::Collection(key) => {
                let collection = Object::Collection(key.bucket.to_string(), key.collection.to_string());
                access.may_read_object(upstream, &collection, credentials).await
            }
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

/// Checks who asks. Gives what is asked for as it was called and as it is.
pub async fn admitted(
    core: &Core,
    subject: Subject,
    credentials: &Credentials,
    request: &Parts,
) -> Result<ControlFlow<Response, (Subject, Subject)>, Error> {
    let (access, history) = (Arc::clone(&core.app.access), Arc::clone(&core.app.history));
    let principals = core.app.settings.changes.principals.clone();
    let questions = Questions { access, upstream: core.upstream.clone(), history, principals };
    if let Subject::History(bucket, _) = &subject {
        let bucket = match Requester::of(core, &request.headers, bucket).await? {
            ControlFlow::Break(refusal) => return Ok(ControlFlow::Break(refusal)),
            ControlFlow::Continue(requester) => requester.bucket,
        };
        return Ok(match questions.seen(&bucket, credentials).await? {
            ControlFlow::Break(refusal) => ControlFlow::Break(refusal.replay()),
            ControlFlow::Continue(view) => {
                let subject = Subject::History(bucket.into(), view);
                ControlFlow::Continue((subject.clone(), subject))
            }
        });
    }
    match questions.ask(&subject, credentials).await? {
        Verdict::Granted(_) => {
            let real = resolve(core, &subject, credentials).await?;
            Ok(ControlFlow::Continue((subject, real)))
        }
        Verdict::Refused(refusal) if refusal.status() == StatusCode::NOT_FOUND => Err(Error::NotFound),
        Verdict::Refused(refusal) => Ok(ControlFlow::Break(refusal.replay())),
    }
}

/// The source that is meant: `default` is a name for a bucket of the requester's own.
async fn resolve(core: &Core, subject: &Subject, credentials: &Credentials) -> Result<Subject, Error> {
    let access = &core.app.access;
    Ok(match subject {
        Subject::Collection(key) => {
            Subject::Collection(access.resolve(&core.upstream, key.clone(), credentials).await?)
        }
        Subject::Bucket(bucket) => {
            let key = CollectionKey { bucket: Arc::clone(bucket), collection: "".into() };
            Subject::Bucket(access.resolve(&core.upstream, key, credentials).await?.bucket)
        }
        Subject::Monitor | Subject::History(..) => subject.clone(),
    })
}
