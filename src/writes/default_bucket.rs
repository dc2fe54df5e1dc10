//! What the default bucket made by itself: the bucket and the collection that a request was about.
//!
//! Follows `kinto.plugins.default_bucket`: a request below `/buckets/default` creates the requester's bucket, and one
//! below a collection that collection, with the requester as their author.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Response};

use super::Writes;
use super::answer::{Answer, Version};
use super::changes::changed;
use super::write::{Target, Write};
use crate::access::Requester;
use crate::error::Error;
use crate::journal::{Action, Change, Journal, JournalError, Object};
use crate::kinto::{RequestPath, Resource};
use crate::upstream::kinto::KintoError;

/// The method of intents that say that the default bucket may make something by itself.
pub(super) const METHOD: &str = "GET";

impl Writes {
    /// Has the upstream make what stands at a URI below `/buckets/default`, and records what it made.
    pub async fn make(self: &Arc<Self>, uri: &str, requester: &Requester) -> Result<Response<Bytes>, Error> {
        let own = requester.identity().await?.default_bucket;
        let (path, credentials) = (RequestPath::of_uri(uri), requester.credentials.clone());
        let read = Write::new(&Method::GET, path, &HeaderMap::new(), credentials, own.clone());
        let passing = self.begin([read]).await?;
        let answer = requester.source().get(uri).await?;
        if let Some(own) = own.filter(|_| answer.status().is_success()) {
            self.effects.access.invalidate_bucket(&own);
        }
        passing.answered([Answer::with_status(answer.status())]).await?;
        Ok(answer)
    }

    /// Has the upstream make what writes are to change or to delete, where the default bucket would make it for them: what was
    /// made would be gone, or another version, when it could be looked at.
    pub(super) async fn make_before(
        self: &Arc<Self>,
        journal: &Journal,
        writes: &[Write],
    ) -> Result<(), Error> {
        // For a longer batch Kinto makes nothing: it refuses it.
        if writes.len() > self.settings.now().kinto.batch_max_requests {
            return Ok(());
        }
        let (mut put, mut named, mut implied) = (HashSet::new(), HashSet::new(), HashSet::new());
        for write in writes.iter().filter(|write| write.default().is_some()) {
            let own = write.object_of_default_bucket();
            if let Some(object) = own {
                let bucket = Object::Bucket(object.bucket().to_owned());
                // The bucket that somebody makes themself is not made for them.
                let makes_bucket = *object != bucket && put.contains(&bucket);
                let is_made = match write.method {
                    Method::PATCH | Method::DELETE => !put.contains(object),
                    // What comes before it in a batch makes it.
                    Method::PUT => !named.contains(object) && implied.contains(object),
                    _ => false,
                };
                if is_made && !makes_bucket && !absent(journal, vec![object.clone()]).await?.is_empty() {
                    let requester = self.requester(&write.credentials);
                    Box::pin(self.make(&write.default_uri(), &requester)).await?;
                }
                put.extend(own.filter(|_| write.method == Method::PUT).cloned());
                named.insert(object.clone());
            }
            implied.extend(objects(&write.uri()).into_iter().filter(|object| own != Some(object)));
        }
        Ok(())
    }
}

/// Those of some objects that are not known to be there.
async fn absent(journal: &Journal, mut objects: Vec<Object>) -> Result<Vec<Object>, JournalError> {
    let known = journal.known(&objects).await?;
    objects.retain(|object| known.get(object).is_none_or(|known| known.deleted));
    Ok(objects)
}

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
            // Kinto makes the bucket before it looks at an id that no collection can have.
            Err(KintoError::Status(status)) if status.is_client_error() => {}
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
    let mut absent = absent(journal, objects(&write.uri())).await?;
    // What the request itself writes stands in its own answer.
    absent.retain(|object| write.target != Some(Target::Object(object.clone())));
    Ok(absent)
}

/// What the default bucket makes for a request to a URI in it, whatever there is at that URI.
pub(super) fn objects(uri: &str) -> Vec<Object> {
    let resource = Resource::of(uri);
    let Some(bucket) = resource.bucket().map(str::to_owned) else { return Vec::new() };
    let collection = match &resource {
        Resource::Records(_, collection) => Some(collection.as_str()),
        Resource::Object(object) | Resource::Part(object, _) => object.collection(),
        _ => None,
    };
    let collection = collection.map(|collection| {
        // Kinto's route into the default bucket ends before a line feed at the end.
        let id = collection.strip_suffix('\n').unwrap_or(collection).to_owned();
        Object::Collection(bucket.clone(), id)
    });
    std::iter::once(Object::Bucket(bucket)).chain(collection).collect()
}
