//! What the upstream says of itself in `GET /v1/`: which plugins it has, and how much it takes at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use super::{Upstream, UpstreamError};

/// How long the upstream is taken to be what it was.
const REMEMBERED: Duration = Duration::from_secs(300);

/// What the upstream says of itself.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Description {
    /// Its plugins, by name.
    pub capabilities: BTreeMap<String, Value>,
    #[serde(default)]
    settings: BTreeMap<String, Value>,
    /// Its version.
    pub project_version: Option<String>,
    /// The version of its API.
    pub http_api_version: Option<String>,
    /// Whom it takes the one who asks for.
    pub user: Option<User>,
}

/// Whom the upstream takes somebody for.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct User {
    /// The user id.
    pub id: Option<String>,
    /// Their principals.
    #[serde(default)]
    pub principals: Vec<String>,
    /// The bucket that they know as `default`.
    pub bucket: Option<String>,
}

/// The last description, and the asking for it; one for all threads.
#[derive(Debug, Default)]
pub(super) struct Described {
    known: ArcSwapOption<(Instant, Arc<Description>)>,
    /// Held while the upstream is asked.
    gate: tokio::sync::Mutex<()>,
}

impl Description {
    /// Reads an answer to `GET /v1/`.
    pub fn read(answer: &Response<Bytes>) -> Result<Self, UpstreamError> {
        if answer.status() != StatusCode::OK {
            return Err(UpstreamError::of_status(answer.status(), "the root view"));
        }
        serde_json::from_slice(answer.body())
            .map_err(|error| UpstreamError::Unexpected(format!("the root view: {error}").into()))
    }

    /// Whether it has a plugin.
    pub fn has(&self, capability: &str) -> bool {
        self.capabilities.contains_key(capability)
    }

    /// A member of what it says of a plugin.
    pub fn said_of(&self, capability: &str, member: &str) -> Option<&str> {
        self.capabilities.get(capability)?.get(member)?.as_str()
    }

    /// Whether it says what Kinto does.
    pub fn is_kinto(&self) -> bool {
        self.http_api_version.is_some()
    }

    /// The user id of the one who asks; `None` for nobody.
    pub fn user_id(&self) -> Option<&str> {
        self.user.as_ref()?.id.as_deref()
    }

    /// The most requests that it takes in a batch; `None` where it does not say, and for any number.
    pub fn batch_max_requests(&self) -> Option<usize> {
        let said = self.settings.get("batch_max_requests")?;
        let number = said.as_u64().or_else(|| said.as_str()?.trim().parse().ok())?;
        usize::try_from(number).ok().filter(|number| *number > 0)
    }
}

impl Described {
    pub(super) fn forget(&self) {
        self.known.store(None);
    }

    fn fresh(&self) -> Option<Arc<Description>> {
        let known = self.known.load();
        let known = known.as_ref().filter(|known| known.0.elapsed() < REMEMBERED)?;
        Some(Arc::clone(&known.1))
    }
}

impl Upstream {
    /// What the upstream says of itself, asked for once in a while for all. Where it cannot say now, what it said before.
    pub async fn described(&self) -> Result<Arc<Description>, UpstreamError> {
        let described = &self.0.described;
        if let Some(description) = described.fresh() {
            return Ok(description);
        }
        let known = || described.known.load().as_ref().map(|known| Arc::clone(&known.1));
        // SECURITY: who holds the gate has a place, and keeps those who wait for it waiting for the upstream alone.
        let _place = match self.turn().await {
            Ok(place) => place,
            Err(error) => return known().ok_or(error),
        };
        let _turn = described.gate.lock().await;
        if let Some(description) = described.fresh() {
            return Ok(description);
        }
        let answer = self.ask(Method::GET, "/", HeaderMap::new(), Bytes::new()).await;
        match answer.and_then(|answer| Description::read(&answer)) {
            Ok(description) => {
                let description = Arc::new(description);
                described.known.store(Some(Arc::new((Instant::now(), Arc::clone(&description)))));
                Ok(description)
            }
            Err(error) => known().ok_or(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_batches_is_read_as_a_number() {
        let most = |settings: &str| {
            let root = format!(r#"{{"capabilities":{{"history":{{}}}},"settings":{settings}}}"#);
            let description: Description = serde_json::from_str(&root).unwrap();
            assert!(description.has("history") && !description.has("changes"));
            description.batch_max_requests()
        };
        assert_eq!(most(r#"{"batch_max_requests":7}"#), Some(7));
        assert_eq!(most(r#"{"batch_max_requests":"7"}"#), Some(7));
        for unbounded in [r#"{"batch_max_requests":0}"#, r#"{"batch_max_requests":null}"#, "{}"] {
            assert_eq!(most(unbounded), None);
        }
    }
}
