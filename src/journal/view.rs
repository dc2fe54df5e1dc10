//! A journal that is looked at, and neither made nor changed. A sidecar may use it meanwhile.

use std::sync::Arc;

use super::engine::{DEADLINE, Engine};
use super::{Export, JournalError, schema, state};
use crate::kinto::Timestamp;
use crate::settings::JournalUrl;

/// See the module.
#[derive(Debug)]
pub struct JournalView {
    pub(super) engine: Arc<Engine>,
}

impl JournalView {
    /// Finds the journal; `None` where there is none.
    pub async fn open(url: &JournalUrl) -> Result<Option<Self>, JournalError> {
        let Some(engine) = Engine::beside(url)? else { return Ok(None) };
        let is_there = schema::look(&engine, url).await?;
        Ok(is_there.then(|| Self { engine: Arc::new(engine) }))
    }

    /// The watermark of a list, see [`Outcome::watermarks`](super::Outcome::watermarks).
    pub async fn watermark(&self, list: &str) -> Result<Option<Timestamp>, JournalError> {
        self.engine.ask(DEADLINE, async |connection| state::watermark(connection, list).await).await
    }

    /// Writes the journal, or one bucket's part of it, as lines.
    pub fn export(&self, bucket: Option<String>) -> Export {
        Export::new(Arc::clone(&self.engine), bucket)
    }
}
