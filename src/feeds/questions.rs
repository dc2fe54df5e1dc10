//! Who may read what there is a feed of.

use std::sync::Arc;

use super::subject::{Subject, View};
use crate::access::{Requester, Verdict};
use crate::error::Error;
use crate::history::History;
use crate::kinto::object::Object;
use crate::settings::InForce;

/// Whom to ask who may read what.
#[derive(Debug)]
pub struct Questions {
    /// Histories.
    pub history: Arc<History>,
    /// They say who may read the list of monitored collections.
    pub settings: InForce,
}

impl Questions {
    /// Whether somebody may read a source; of a history, as much of it as the subject says.
    pub async fn ask(&self, subject: &Subject, requester: &Requester) -> Result<Verdict, Error> {
        match subject {
            Subject::Collection(key) => requester.may_read(key).await,
            Subject::Bucket(bucket) => requester.may_read_object(&Object::Bucket(bucket.to_string())).await,
            Subject::Monitor => {
                requester.check_principals(&self.settings.all().changes.principals).await?;
                Ok(Verdict::open())
            }
            Subject::History(bucket, view) => {
                match self.seen(bucket, requester).await {
                    Err(Error::Refused(refusal)) => Ok(Verdict::Refused(refusal)),
                    Err(error) => Err(error),
                    // Who sees less than before comes back for it.
                    Ok(View::Of(_)) if *view == View::Everything => Err(Error::Forbidden),
                    Ok(_) => Ok(Verdict::open()),
                }
            }
        }
    }

    /// How much of a bucket's history somebody sees. It fails with the upstream's refusal where that is nothing.
    pub async fn seen(&self, bucket: &str, requester: &Requester) -> Result<View, Error> {
        let history = &self.history;
        let Some(journal) = history.journal(requester.upstream()).await? else { return Err(Error::NotFound) };
        let visible = history.visible(journal, bucket, requester).await?;
        if visible.is_everything() {
            return Ok(View::Everything);
        }
        visible.check().await?;
        Ok(View::Of(requester.credentials.clone()))
    }
}
