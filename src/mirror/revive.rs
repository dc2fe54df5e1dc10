//! Mirrors from before this process: what they have is old until the upstream was asked, and is given out as such.

use std::sync::Arc;

use tokio::time::Instant;

use super::content::Content;
use super::{Mirrors, State};
use crate::kinto::CollectionKey;

impl Mirrors {
    /// Takes a content that was read at `began`, before anybody asks for any.
    pub fn revive(&self, key: &CollectionKey, content: Content, began: Instant) {
        if began.elapsed() >= self.settings.now().stale_if_error {
            return;
        }
        let mirror = self.mirror(key);
        // A lower timestamp than this voids it.
        mirror.clock.revive(content.timestamp);
        let serial = content.serial;
        // Its news are below those of any clock: whoever asks has it compared first.
        let mut state = State::new(content, 0, began);
        state.is_revived = true;
        mirror.set_state(Some(Arc::new(state)));
        mirror.moved.send_replace(serial);
        self.kept.load().insert(key.clone(), mirror);
    }
}
