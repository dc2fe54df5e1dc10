//! What a program that copies a collection asks for beside the feed: documents with the names of their earlier versions, and
//! a place for its checkpoints.
//!
//! Follows CouchDB's replication protocol as PouchDB and CouchDB speak it. Documents go out of a collection and never into
//! one: Kinto alone takes or refuses writes.

mod documents;

use std::sync::Arc;

use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::access::Requester;
use crate::app::Core;
use crate::aside;
use crate::bounded;
use crate::endpoints::feed::admission::admitted;
use crate::endpoints::feed::body;
use crate::endpoints::list;
use crate::error::Error;
use crate::feeds::Subject;
use crate::feeds::params::refused;
use crate::feeds::revised::Revisions;
use crate::journal::CheckpointName;
use crate::kinto::CollectionKey;
use crate::route::Replication;
use crate::wire::body::{Body, Response};
use crate::wire::cache_control;
use crate::wire::limited;
use crate::wire::peer::Peer;
use documents::{Asked, Copies};

/// SECURITY: the longest checkpoint, in bytes. CouchDB's have some ten thousand.
const LONGEST_CHECKPOINT: usize = 32 << 10;
/// SECURITY: the longest id of one.
const LONGEST_ID: usize = 512;

/// Answers a request.
pub async fn answer(
    core: &Arc<Core>,
    key: CollectionKey,
    asked: Replication,
    request: &Parts,
    body: Body,
    peer: &Peer,
) -> Result<Response, Error> {
    let requester = core.requester(&request.headers);
    let (Subject::Collection(key), _) = admitted(core, Subject::Collection(key), &requester).await? else {
        return Err(Error::NotFound);
    };
    let Some(revisions) = core.app.feeds.sources.revisions(&key).await? else {
        return Err(forbidden(
            "Nothing can be replicated from here: the server keeps no journal (sidecar.history), and knows of each record \
             only what it is now.",
        ));
    };
    let mut hold = core.hold(&request.headers, peer);
    let limits = &core.app.settings.limits;
    let body = limited::limited(body, limits)?;
    let object = body::read(request, body, limits.body_limit(), &mut hold).await?;
    let mut response = match asked {
        Replication::Documents => {
            // It is let go of there, too.
            let work = object.as_ref().map_or(0, bounded::weight);
            let asked = aside::run(work, move || Asked::of_body(object.as_ref())).await??;
            let copies = Copies::new(core, &key, &revisions, &requester, request.uri.query())?;
            list::json(Body::chunks(copies.many(asked, &mut hold).await?))
        }
        Replication::Document(id) => {
            let copies = Copies::new(core, &key, &revisions, &requester, request.uri.query())?;
            copies.one(&id, &request.headers, &mut hold).await?
        }
        Replication::Checkpoint(id) => checkpoint(&key, &revisions, &requester, id, request, object).await?,
        Replication::Commit => {
            let answer = json!({"ok": true, "instance_start_time": revisions.began()});
            let mut response = list::json(Body::full(answer.to_string()));
            *response.status_mut() = StatusCode::CREATED;
            response
        }
        Replication::Push => {
            return Err(forbidden("Nothing is replicated into a Kinto: write through its own API."));
        }
    };
    if request.method == Method::HEAD {
        *response.body_mut() = Body::empty();
    }
    cache_control::forbid(response.headers_mut());
    if !requester.is_anonymous() {
        cache_control::keep_private(response.headers_mut());
    }
    Ok(response.map(|body| body.held(hold)))
}

/// CouchDB's 403, with a reason.
fn forbidden(reason: &str) -> Error {
    Error::Feed { status: StatusCode::FORBIDDEN, reason: reason.to_owned() }
}

fn missing() -> Error {
    Error::Feed { status: StatusCode::NOT_FOUND, reason: "missing".to_owned() }
}

/// Reads, keeps or removes a checkpoint of the requester's.
async fn checkpoint(
    key: &CollectionKey,
    revisions: &Revisions,
    requester: &Requester,
    id: String,
    request: &Parts,
    object: Option<Value>,
) -> Result<Response, Error> {
    let is_write = matches!(request.method, Method::PUT | Method::DELETE);
    let user_id = if requester.is_anonymous() { None } else { requester.identity().await?.user_id };
    let Some(user_id) = user_id else {
        return Err(if is_write {
            forbidden(
                "Checkpoints are kept for those who are logged in. Others keep them at the target alone: checkpoint: \
                 'target' in PouchDB, use_checkpoints: false in CouchDB.",
            )
        } else {
            missing()
        });
    };
    if id.len() > LONGEST_ID {
        return Err(refused("The id is too long."));
    }
    let journal = revisions.journal();
    let (name, id) =
        (CheckpointName { user_id, collection: key.uri(), id: id.clone() }, format!("_local/{id}"));
    if !is_write {
        let found = journal.checkpoint(&name).await?.ok_or_else(missing)?;
        let mut document: Map<String, Value> = serde_json::from_str(&found.json).unwrap_or_default();
        document.insert("_id".to_owned(), id.into());
        document.insert("_rev".to_owned(), format!("0-{}", found.revision).into());
        return Ok(list::json(Body::full(Value::Object(document).to_string())));
    }
    let json = match (request.method == Method::PUT, object) {
        (false, _) => None,
        // As CouchDB has it, and PouchDB asks for.
        (true, Some(Value::Object(members))) if members.get("_deleted") == Some(&Value::Bool(true)) => None,
        (true, Some(Value::Object(mut members))) => {
            members.retain(|name, _| !name.starts_with('_'));
            let json = Value::Object(members).to_string();
            if json.len() > LONGEST_CHECKPOINT {
                return Err(Error::TooLarge);
            }
            Some(json)
        }
        (true, _) => return Err(refused("Document must be a JSON object")),
    };
    let is_kept = json.is_some();
    let revision = journal.keep_checkpoint(name, json).await?;
    let answer = json!({"ok": true, "id": id, "rev": format!("0-{revision}")});
    let mut response = list::json(Body::full(answer.to_string()));
    if is_kept {
        *response.status_mut() = StatusCode::CREATED;
    }
    Ok(response)
}
