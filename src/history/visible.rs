//! Which entries of a bucket's history somebody sees.
//!
//! Whoever may read the bucket, and whom `history_read_principals` names, sees all of them. Others see the entries whose
//! readers they were when they were made; of entries whose readers the sidecar does not know completely, those about
//! objects that the upstream lets them read now. Where Kinto keeps no explicit permissions, there are no such readers.
//! Who sees no entry at all gets the refusal that the upstream gave them for the bucket.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::History;
use crate::access::{Requester, Verdict};
use crate::error::Error;
use crate::journal::{
    Around, EntriesCount, EntriesPage, Journal, JournalError, Object, SeenEntry, Sees, Touched, Touches,
    Versions,
};
use crate::kinto::Timestamp;
use crate::query::Query;
use crate::upstream::Refusal;
use crate::wire::buffers::Hold;

/// What of a bucket's history somebody sees.
#[derive(Debug)]
pub struct Visible {
    journal: Journal,
    bucket: String,
    /// For somebody who does not see everything: who they are, and what they are told where they see nothing.
    limits: Option<Limits>,
}

#[derive(Debug)]
struct Limits {
    requester: Requester,
    principals: Vec<String>,
    refusal: Arc<Refusal>,
}

impl History {
    /// Finds out what somebody sees of a bucket's history in `journal`. It fails with the upstream's refusal where that is
    /// nothing for certain.
    pub async fn visible(
        &self,
        journal: &Journal,
        bucket: &str,
        requester: &Requester,
    ) -> Result<Visible, Error> {
        let everything = Visible::everything(journal, bucket);
        let settings = self.settings.all();
        let readers = &settings.kinto.history_read_principals;
        if !readers.is_empty() && requester.has_principal(readers).await? {
            return Ok(everything);
        }
        let object = Object::Bucket(bucket.to_owned());
        let refusal = match requester.may_read_object(&object).await? {
            Verdict::Granted(granted) => {
                self.writes.look_at_bucket(journal, bucket, requester, granted.metadata).await?;
                return Ok(everything);
            }
            Verdict::Refused(refusal) => refusal,
        };
        if !settings.kinto.explicit_permissions {
            return Err(Error::Refused(refusal));
        }
        let identity = requester.identity().await?;
        let mut principals = identity.principals;
        let everybody = [("system.Everyone", true), ("system.Authenticated", identity.user_id.is_some())];
        for (principal, is_theirs) in everybody {
            if is_theirs && !principals.iter().any(|known| known == principal) {
                principals.push(principal.to_owned());
            }
        }
        let limits = Some(Limits { requester: requester.clone(), principals, refusal });
        Ok(Visible { limits, ..everything })
    }
}

impl Visible {
    /// All of it.
    pub fn everything(journal: &Journal, bucket: &str) -> Self {
        Self { journal: journal.clone(), bucket: bucket.to_owned(), limits: None }
    }

    /// Whether that is everything.
    pub fn is_everything(&self) -> bool {
        self.limits.is_none()
    }

    /// Fails with the refusal where somebody sees less now than this.
    pub fn check_within(&self, now: &Self) -> Result<(), Error> {
        let Some(limits) = &now.limits else { return Ok(()) };
        let is_theirs = |principal: &String| limits.principals.contains(principal);
        match &self.limits {
            Some(then) if then.principals.iter().all(is_theirs) => Ok(()),
            _ => Err(Error::Refused(Arc::clone(&limits.refusal))),
        }
    }

    /// Whose history it is.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The timestamp of the bucket's history.
    pub async fn timestamp(&self) -> Result<Timestamp, JournalError> {
        self.journal.timestamp(&self.bucket).await
    }

    /// The entries that a query selects, with room for them beside `hold`. It fails with the refusal where the requester sees
    /// none, whatever is asked for.
    pub async fn page(&self, query: &Query, hold: Option<&Hold>) -> Result<EntriesPage, Error> {
        let page = self.ask(async |sees| self.journal.page(&self.bucket, query, sees, hold).await).await?;
        self.unless_nothing(page.sees_any, page)
    }

    /// How many entries a query selects. It fails as [`Self::page`] does.
    pub async fn count(&self, query: &Query) -> Result<EntriesCount, Error> {
        let count = self.ask(async |sees| self.journal.count(&self.bucket, query, sees).await).await?;
        self.unless_nothing(count.sees_any, count)
    }

    /// The objects that the entries are about which a query selects. It fails as [`Self::page`] does.
    pub async fn touched(
        &self,
        query: &Query,
        versions: Option<Versions>,
        most: usize,
        hold: Option<&Hold>,
    ) -> Result<Touches, Error> {
        let journal = &self.journal;
        let touches = self
            .ask(async |sees| journal.touched(&self.bucket, query, versions, sees, most, hold).await)
            .await?;
        self.unless_nothing(touches.sees_any, touches)
    }

    /// What is seen of objects beside what was selected of them.
    pub async fn around(&self, touched: &[Touched]) -> Result<Vec<Around>, Error> {
        self.ask(async |sees| self.journal.around(&self.bucket, touched, sees).await).await
    }

    /// Of the entries with these timestamps, those that are seen; all of each that is in `whole`.
    pub async fn entries_at(
        &self,
        whole: &BTreeSet<Timestamp>,
        heads: &BTreeSet<Timestamp>,
    ) -> Result<Vec<SeenEntry>, Error> {
        self.ask(async |sees| self.journal.entries_at(&self.bucket, whole, heads, sees).await).await
    }

    /// How many of these sets of entries, each with what is read beside it, have no more than so many bytes together, from the
    /// first on; one at least. Beside it, how many bytes that are.
    pub async fn fitting(
        &self,
        sets: &[(BTreeSet<Timestamp>, usize)],
        most: usize,
    ) -> Result<(usize, usize), JournalError> {
        let entries = sets.iter().flat_map(|(set, _)| set).copied().collect();
        let lengths = self.journal.lengths(&self.bucket, &entries).await?;
        let (mut number, mut bytes) = (0, 0_usize);
        for (set, beside) in sets {
            let read: usize = set.iter().filter_map(|entry| lengths.get(entry)).sum();
            let more = read.saturating_add(*beside);
            if number > 0 && bytes.saturating_add(more) > most {
                break;
            }
            (number, bytes) = (number + 1, bytes.saturating_add(more));
        }
        Ok((number, bytes))
    }

    /// Fails with the refusal where the requester sees nothing.
    pub async fn check(&self) -> Result<(), Error> {
        if self.limits.is_some() {
            self.page(&Query::between(Timestamp::ZERO, Timestamp::LAST, 1, true), None).await?;
        }
        Ok(())
    }

    /// What was read of a request. Whoever sees nothing is not told what is wrong with it.
    pub async fn disclose<T>(&self, read: Result<T, Error>) -> Result<T, Error> {
        if read.is_err() {
            self.check().await?;
        }
        read
    }

    /// Asks the journal for what of it they see.
    async fn ask<T>(&self, ask: impl AsyncFnOnce(&Sees<'_>) -> Result<T, JournalError>) -> Result<T, Error> {
        let Some(limits) = &self.limits else { return Ok(ask(&Sees::Everything).await?) };
        let failure = Mutex::new(None);
        let verdict =
            |object: Object| -> BoxFuture<'_, bool> { Box::pin(Self::verdict(limits, object, &failure)) };
        let given = ask(&Sees::Some { principals: &limits.principals, verdict: &verdict }).await?;
        // Entries of which nobody could say whether they are to be seen would be missing.
        failure.into_inner().map_or(Ok(given), Err)
    }

    /// Whether they may see what is about this object now.
    async fn verdict(limits: &Limits, object: Object, failure: &Mutex<Option<Error>>) -> bool {
        // All that is asked is of no use any more.
        if failure.lock().is_some() {
            return false;
        }
        match limits.requester.may_read_object(&object).await {
            Ok(verdict) => matches!(verdict, Verdict::Granted(_)),
            Err(error) => {
                *failure.lock() = Some(error);
                false
            }
        }
    }

    /// What they are given; the refusal where they see nothing at all.
    fn unless_nothing<T>(&self, sees_any: bool, given: T) -> Result<T, Error> {
        match &self.limits {
            Some(limits) if !sees_any => Err(Error::Refused(Arc::clone(&limits.refusal))),
            _ => Ok(given),
        }
    }
}
