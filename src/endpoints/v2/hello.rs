//! `GET /v2/`: which state is published, and where attachments are.

use std::time::SystemTime;

use http::request::Parts;
use serde::Serialize;
use serde_json::{Value, json};

use super::V2Refusal;
use super::changesets::public_at_once;
use crate::app::Core;
use crate::endpoints::recent::Standing;
use crate::endpoints::root;
use crate::error::Error;
use crate::kinto::iso_date;
use crate::remote_settings::published;
use crate::wire::body::{Body, Response};
use crate::wire::cache_control::{self, Served};
use crate::wire::compression;
use crate::wire::tagged::Coded;

/// An answer that stands on more contents than this is not remembered: it would take too much room.
const MOST_STATES: usize = 1000;

/// What the service is; its members stand as git-reader has them.
#[derive(Serialize)]
struct Hello<'h> {
    project_version: &'static str,
    git: Git<'h>,
    capabilities: Value,
}

#[derive(Serialize)]
struct Git<'h> {
    common: Common<'h>,
}

#[derive(Serialize)]
struct Common<'h> {
    id: &'h str,
    timestamp: u64,
    datetime: Option<&'h str>,
}

/// Answers with what the service is.
pub(super) async fn answer(core: &Core, request: &Parts) -> Result<Response, V2Refusal> {
    let app = &core.app;
    let (all, is_behind) = app.poller.entries(None).await?;
    let entries = app.public.entries(&core.access, &all).await?;
    let states = published::states(&app.mirrors, &app.signatures, &entries).await;
    let id = published::name_of(&states);
    let seconds = entries.timestamp.0 / 1000;
    let date = iso_date(seconds * 1_000_000);
    let date = date.split('.').next();
    let common = Common { id: &id, timestamp: seconds, datetime: date };
    let capabilities = json!({"attachments": root::attachments(&app.settings)});
    let hello = Hello { project_version: env!("CARGO_PKG_VERSION"), git: Git { common }, capabilities };
    let body = serde_json::to_string(&hello).map_err(|error| Error::Internal(error.into()))?;
    let known = Coded::known(&request.headers, &id, compression::Encoding::Identity)?;
    let coded = known.unwrap_or_else(|| Coded::plain(Body::full(body), None));
    let mut response = coded.answer(Some(&id));
    let headers = response.headers_mut();
    cache_control::allow_for(headers, app.settings.remote_settings.max_age, SystemTime::now());
    Served::from_memory(is_behind.then(|| app.poller.behind_for())).insert(headers);
    if !is_behind
        && states.len() <= MOST_STATES
        && let Some(are_still) = published::standing(&app.mirrors, &states)
    {
        response.extensions_mut().insert(Standing::on_entries(&entries, public_at_once));
        Standing::narrow_to_contents(&mut response, move |_| are_still());
    }
    Ok(response)
}
