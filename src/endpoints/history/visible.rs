//! Which entries of a bucket's history a requester sees.
//!
//! Whoever may read the bucket, and whom `history_read_principals` names, sees all of them. Others see the entries whose
//! readers they were when they were made; of entries whose readers the sidecar does not know completely, those about
//! objects that the upstream lets them read now. Where Kinto keeps no explicit permissions, there are no such readers.
//! Who sees no entry at all gets the refusal that the upstream gave them for the bucket.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;

use super::requester::Requester;
use super::rules;
use crate::access::{Refusal, Verdict};
use crate::error::{Error, Response};
use crate::handler::Core;
use crate::journal::{EntriesCount, EntriesPage, Journal, Object, Sees};
use crate::query::Query;

/// What of a bucket's history its requester sees.
pub(super) struct Visible<'v> {
    core: &'v Core,
    journal: &'v Journal,
    requester: &'v Requester,
    /// For somebody who does not see everything: their principals, and what they are told where they see nothing.
    limits: Option<(Vec<String>, Arc<Refusal>)>,
}

impl<'v> Visible<'v> {
    /// Finds out what somebody sees; a refusal where that is nothing for certain.
    pub(super) async fn to(
        core: &'v Core,
        journal: &'v Journal,
        requester: &'v Requester,
    ) -> Result<ControlFlow<Arc<Refusal>, Self>, Error> {
        let (access, kinto) = (&core.app.access, &core.app.settings.kinto);
        let credentials = &requester.credentials;
        let everything = Self { core, journal, requester, limits: None };
        let readers = &kinto.history_read_principals;
        if !readers.is_empty() && access.has_principal(&core.upstream, credentials, readers).await? {
            return Ok(ControlFlow::Continue(everything));
        }
        let bucket = Object::Bucket(requester.bucket.clone());
        let refusal = match access.may_read_object(&core.upstream, &bucket, credentials).await? {
            Verdict::Granted(_) => return Ok(ControlFlow::Continue(everything)),
            Verdict::Refused(refusal) => refusal,
        };
        if !kinto.explicit_permissions {
            return Ok(ControlFlow::Break(refusal));
        }
        let identity = access.identity(&core.upstream, credentials).await?;
        let mut principals = identity.principals;
        let everybody = [("system.Everyone", true), ("system.Authenticated", identity.user_id.is_some())];
        for (principal, is_theirs) in everybody {
            if is_theirs && !principals.iter().any(|known| known == principal) {
                principals.push(principal.to_owned());
            }
        }
        Ok(ControlFlow::Continue(Self { limits: Some((principals, refusal)), ..everything }))
    }

    /// The entries that a query selects; a refusal where the requester sees none, whatever is asked for.
    pub(super) async fn page(&self, query: &Query) -> Result<ControlFlow<Arc<Refusal>, EntriesPage>, Error> {
        let bucket = &self.requester.bucket;
        let Some((principals, refusal)) = &self.limits else {
            return Ok(ControlFlow::Continue(self.journal.page(bucket, query, &Sees::Everything).await?));
        };
        let failure = Mutex::new(None);
        let verdict = |object: Object| -> BoxFuture<'_, bool> { Box::pin(self.verdict(object, &failure)) };
        let page = self.journal.page(bucket, query, &Sees::Some { principals, verdict: &verdict }).await?;
        seen(failure, page.sees_any, page, refusal)
    }

    /// How many entries a query selects; a refusal as for [`Self::page`].
    pub(super) async fn count(
        &self,
        query: &Query,
    ) -> Result<ControlFlow<Arc<Refusal>, EntriesCount>, Error> {
        let bucket = &self.requester.bucket;
        let Some((principals, refusal)) = &self.limits else {
            return Ok(ControlFlow::Continue(self.journal.count(bucket, query, &Sees::Everything).await?));
        };
        let failure = Mutex::new(None);
        let verdict = |object: Object| -> BoxFuture<'_, bool> { Box::pin(self.verdict(object, &failure)) };
        let count = self.journal.count(bucket, query, &Sees::Some { principals, verdict: &verdict }).await?;
        seen(failure, count.sees_any, count, refusal)
    }

    /// The refusal of a requester who sees nothing.
    pub(super) async fn any(&self) -> Result<Option<Response>, Error> {
        if self.limits.is_none() {
            return Ok(None);
        }
        let query = Query::parse(Some("_limit=1"), &rules(self.core))?;
        Ok(self.page(&query).await?.break_value().map(|refusal| refusal.replay()))
    }

    /// Whether the requester may see what is about this object now.
    async fn verdict(&self, object: Object, failure: &Mutex<Option<Error>>) -> bool {
        let Self { core, requester, .. } = self;
        let asked = core.app.access.may_read_object(&core.upstream, &object, &requester.credentials).await;
        match asked {
            Ok(verdict) => matches!(verdict, Verdict::Granted(_)),
            Err(error) => {
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                false
            }
        }
    }
}

/// What somebody is given who may not see everything.
fn seen<T>(
    failure: Mutex<Option<Error>>,
    sees_any: bool,
    given: T,
    refusal: &Arc<Refusal>,
) -> Result<ControlFlow<Arc<Refusal>, T>, Error> {
    // Entries of which nobody could say whether they are to be seen would be missing.
    if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    Ok(if sees_any { ControlFlow::Continue(given) } else { ControlFlow::Break(Arc::clone(refusal)) })
}
