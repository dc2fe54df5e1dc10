//! `GET /v2/`: which state is published, and where attachments are.

use std::fmt::Write;
use std::time::SystemTime;

use futures_util::{StreamExt, stream};
use http::request::Parts;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Refusal;
use crate::app::Core;
use crate::kinto::iso_date;
use crate::timeline::entries::Entries;
use crate::wire::body::{Body, Response};
use crate::wire::cache_control::{self, Served};
use crate::wire::compression;
use crate::wire::tagged::Coded;

/// How many collections are brought up to date at once.
const AT_ONCE: usize = 4;

/// How many bytes of a digest name a state, as many as those of a commit.
const NAME_BYTES: usize = 20;

/// Answers with what the service is.
pub(super) async fn answer(core: &Core, request: &Parts) -> Result<Response, Refusal> {
    let app = &core.app;
    let (all, is_behind) = app.poller.entries(None).await?;
    let entries = app.public.entries(&core.access, &all).await?;
    let id = state_name(core, &entries).await;
    let seconds = entries.timestamp.0 / 1000;
    let date = iso_date(seconds * 1_000_000);
    let date = date.split('.').next();
    let body = json!({
        "project_version": env!("CARGO_PKG_VERSION"),
        "git": {"common": {"id": id, "timestamp": seconds, "datetime": date}},
        "capabilities": {"attachments": attachments(core)},
    });
    let known = Coded::known(&request.headers, &id, compression::Encoding::Identity)?;
    let coded = known.unwrap_or_else(|| Coded::plain(Body::full(body.to_string()), None));
    let mut response = coded.answer(Some(&id));
    let headers = response.headers_mut();
    cache_control::allow(headers, app.settings.remote_settings.max_age.as_secs(), SystemTime::now());
    Served::from_memory(is_behind.then(|| app.poller.behind_for())).insert(headers);
    Ok(response)
}

/// The capability that names where attachments are.
fn attachments(core: &Core) -> Value {
    json!({
        "description": "Add file attachments to records",
        "url": "https://github.com/Kinto/kinto-attachment/",
        "version": env!("CARGO_PKG_VERSION"),
        "base_url": format!("{}/v2/attachments/", core.app.settings.public_url()),
    })
}

/// Names the state that is published: the timestamps and the metadata of all that anybody may read.
async fn state_name(core: &Core, entries: &Entries) -> String {
    let mirrors = &core.app.mirrors;
    let states = entries.rows.iter().map(|entry| async move {
        let mirror = mirrors.mirror(&entry.key);
        (entry, mirrors.current(&mirror, None).await.ok())
    });
    let states: Vec<_> = states.collect();
    let mut states = stream::iter(states).buffered(AT_ONCE);
    let mut digest = Sha256::new();
    while let Some((entry, state)) = states.next().await {
        digest.update(entry.key.uri());
        match &state {
            Some((state, _)) => {
                digest.update(state.content.timestamp.0.to_le_bytes());
                digest.update(&state.content.metadata.json);
            }
            // What cannot be kept is named by what is known of it.
            None => digest.update(entry.last_modified.0.to_le_bytes()),
        }
    }
    let mut name = String::with_capacity(2 * NAME_BYTES);
    for byte in digest.finalize().iter().take(NAME_BYTES) {
        // Writing to a String cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}
