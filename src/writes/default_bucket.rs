//! What the default bucket made by itself: the bucket and the collection that a request was about.
//!
//! Follows `kinto.plugins.default_bucket`: a request below `/buckets/default` creates the requester's bucket, and one
//! below a collection that collection, with the requester as their author.

use super::Writes;
use super::answer::Version;
use super::changes::changed;
use super::write::{Target, Write};
use crate::error::Error;
use crate::journal::{Action, Change, Journal, JournalError, Object};
use crate::kinto::Resource;
use crate::upstream::kinto::KintoError;

/// The method of intents that say that the default bucket may make something by itself.
pub(super) const METHOD: &str = "GET";

/// The creations that a request in the default bucket brought about, as far as they are not known yet.
pub(super) async fn created(room: &Writes, journal: &Journal, write: &Write) -> Result<Vec<Change>, Error> {
    let mut changes = Vec::new();
    let unknown = unknown(journal, write).await?;
    if unknown.is_empty() {
        return Ok(changes);
    }
    let requester = room.requester(&write.credentials);
    let (user_id, source) = (requester.identity().await?.user_id, requester.source());
    for object in unknown {
        match source.object(&object.to_string()).await {
            Ok(body) => {
                let Some(version) = Version::of_object(&body) else { continue };
                let change = changed(version, object, user_id.clone());
                changes.push(Change { action: Some(Action::Create), is_found: true, ..change });
            }
            Err(KintoError::Absent | KintoError::Refused(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(changes)
}

/// Whether a request in the default bucket may bring about creations.
pub(super) async fn may_create(journal: &Journal, write: &Write) -> Result<bool, JournalError> {
    Ok(!unknown(journal, write).await?.is_empty())
}

/// What the default bucket makes for a request, as far as it is not known to be there.
async fn unknown(journal: &Journal, write: &Write) -> Result<Vec<Object>, JournalError> {
    if write.default().is_none() {
        return Ok(Vec::new());
    }
    let objects = objects(&write.uri());
    let known = journal.known(&objects).await?;
    let unknown = objects
        .into_iter()
        .filter(|object| known.get(object).is_none_or(|known| known.deleted))
        // What the request itself writes stands in its own answer.
        .filter(|object| write.target != Some(Target::Object(object.clone())));
    Ok(unknown.collect())
}

/// What the default bucket makes for a request to a URI in it, whatever there is at that URI.
pub(super) fn objects(uri: &str) -> Vec<Object> {
    let (bucket, collection) = match Resource::of(uri) {
        Resource::Collection(bucket, collection)
        | Resource::Records(bucket, collection)
        | Resource::Record(bucket, collection, _)
        | Resource::Part(bucket, collection, ..) => (bucket, Some(collection)),
        other => match other.bucket() {
            Some(bucket) => (bucket.to_owned(), None),
            None => return Vec::new(),
        },
    };
    let collection = collection.map(|collection| Object::Collection(bucket.clone(), collection));
    std::iter::once(Object::Bucket(bucket)).chain(collection).collect()
}
