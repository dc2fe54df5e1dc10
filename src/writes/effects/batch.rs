//! What a batch that passes through tells: each sub-request by its own answer, unless the batch says that its answers
//! cannot be believed.
//!
//! After a sub-request's 409 Kinto has rolled back what came before it and committed what came after, and still answers
//! 200 with 201s for both: what was really written is asked of the upstream.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode};

use crate::kinto::{CollectionKey, RequestPath, Timestamp};
use crate::writes::effects::{Observer, Passing, Target};
use crate::writes::objects::Objects;

/// The writes of a batch on their way.
#[derive(Debug)]
pub struct PassingBatch {
    /// Each with the places of its sub-requests: those on one collection's records become visible together.
    passing: Vec<(Passing, Vec<Place>)>,
}

#[derive(Debug, Clone)]
struct Place {
    index: usize,
    method: Method,
}

/// A sub-request, as far as it tells what it may write.
#[derive(Debug, Clone)]
pub struct SubRequest {
    /// Its method.
    pub method: Method,
    /// What its path names.
    pub path: RequestPath,
    /// The bucket that its requester knows as `default`.
    pub default: Option<Arc<str>>,
}

/// The answer to a request, or to a sub-request of a batch.
#[derive(Debug)]
pub struct SubAnswer {
    /// Its status.
    pub status: StatusCode,
    /// Its body.
    pub body: Bytes,
    /// The timestamp in its `ETag`.
    pub modified: Option<Timestamp>,
    /// What its body names.
    pub objects: Objects,
}

impl SubAnswer {
    /// Reads an answer, which takes long where its body is.
    pub fn read(status: StatusCode, body: Bytes, modified: Option<Timestamp>) -> Self {
        let objects = Objects::of(&body);
        Self { status, body, modified, objects }
    }
}

impl Observer {
    /// What the sub-requests of a batch may write.
    pub fn begin_batch(self: &Arc<Self>, requests: &[SubRequest]) -> PassingBatch {
        let mut records: HashMap<CollectionKey, usize> = HashMap::new();
        let mut passing: Vec<(Passing, Vec<Place>)> = Vec::new();
        for (index, SubRequest { method, path, default }) in requests.iter().enumerate() {
            let place = Place { index, method: method.clone() };
            let known = Self::records_of(path, default.as_ref()).and_then(|key| records.get(&key).copied());
            if let Some((_, places)) = known.and_then(|at| passing.get_mut(at)) {
                if !matches!(*method, Method::GET | Method::HEAD) {
                    places.push(place);
                }
                continue;
            }
            let Some(begun) = self.begin(method, path, default.as_ref()) else { continue };
            if let Target::Records(write) = &begun.target {
                records.insert(write.clock().key().clone(), passing.len());
            }
            passing.push((begun, vec![place]));
        }
        PassingBatch { passing }
    }
}

impl PassingBatch {
    /// The upstream answered the batch as a whole with an error.
    pub async fn failed(self, status: StatusCode) {
        for (passing, _) in self.passing {
            passing.answered(status, &Objects::default()).await;
        }
    }

    /// None of the answers can be believed.
    pub async fn doubtful(self) {
        for (passing, _) in self.passing {
            passing.doubtful().await;
        }
    }

    /// The upstream answered with these sub-answers, by the places of the sub-requests.
    pub async fn answered(self, answers: &[SubAnswer]) {
        let is_rolled_back = answers.iter().any(|answer| answer.status == StatusCode::CONFLICT);
        for (passing, places) in self.passing {
            let own: Option<Vec<_>> =
                places.iter().map(|place| Some((place, answers.get(place.index)?))).collect();
            match own.as_deref() {
                None => passing.doubtful().await,
                Some(own) if is_rolled_back => rolled_back(passing, own).await,
                Some([(_, answer)]) => passing.answered(answer.status, &answer.objects).await,
                Some(own) => several(passing, own).await,
            }
        }
    }
}

/// Writes of which nobody knows whether they were.
async fn rolled_back(passing: Passing, own: &[(&Place, &SubAnswer)]) {
    if let Target::Collections(bucket) = &passing.target {
        for (_, answer) in own {
            // One that is new is known by its answer only.
            for id in answer.objects.ids() {
                let key = CollectionKey { bucket: bucket.clone(), collection: id.into() };
                passing.observer.ask(&key).await;
            }
        }
    }
    passing.doubtful().await;
}

/// Several writes of records of one collection.
async fn several(mut passing: Passing, own: &[(&Place, &SubAnswer)]) {
    let mut timestamps: Vec<Timestamp> = Vec::new();
    for (place, answer) in own {
        if answer.status.is_server_error() {
            return passing.doubtful().await;
        }
        let objects = &answer.objects;
        let changed_nothing =
            place.method == Method::POST && answer.status == StatusCode::OK && objects.is_one();
        if !answer.status.is_success() || changed_nothing {
            continue;
        }
        let Some(written) = objects.timestamps() else { return passing.doubtful().await };
        timestamps.extend(written);
    }
    passing.is_settled = true;
    if let Target::Records(write) = &passing.target {
        passing.acknowledged(write, &timestamps);
    }
}
