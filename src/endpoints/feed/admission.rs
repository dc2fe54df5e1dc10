//! Whether a requester may read a feed, and of what it is.

use std::sync::Arc;

use crate::access::{Requester, Verdict};
use crate::app::Core;
use crate::endpoints::own_bucket;
use crate::error::Error;
use crate::feeds::Subject;
use crate::feeds::questions::Questions;

/// Checks who asks. Gives what is asked for by its real id, and whether the permission is an old answer of an upstream that
/// fails now.
pub async fn admitted(
    core: &Core,
    subject: Subject,
    requester: &Requester,
) -> Result<(Subject, bool), Error> {
    let (subject, verdict) = match subject {
        Subject::Collection(key) => {
            let (key, verdict) = own_bucket::readable(core, key, requester).await?;
            (Subject::Collection(key), verdict)
        }
        Subject::Bucket(bucket) => {
            let (bucket, verdict) = own_bucket::readable_bucket(core, &bucket, requester).await?;
            (Subject::Bucket(bucket), verdict)
        }
        Subject::Monitor => (Subject::Monitor, questions(core).ask(&subject, requester).await?),
        Subject::History(bucket, _) => {
            let bucket = own_bucket::of_history(core, &bucket, requester).await?;
            let view = questions(core).seen(&bucket, requester).await?;
            return Ok((Subject::History(bucket.into(), view), false));
        }
    };
    match verdict {
        Verdict::Granted(granted) => Ok((subject, granted.stale)),
        Verdict::Refused(refusal) if refusal.is_absence() => Err(Error::NotFound),
        Verdict::Refused(refusal) => Err(Error::Refused(refusal)),
    }
}

fn questions(core: &Core) -> Questions {
    Questions { history: Arc::clone(&core.app.history), settings: core.app.in_force().clone() }
}
