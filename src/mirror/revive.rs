//! Mirrors from before this process: what they have is old until the upstream was asked, and is given out as such.

use std::sync::{Arc, OnceLock};

use tokio::time::Instant;

use super::content::Content;
use super::{Mirrors, State};
use crate::kinto::CollectionKey;
use crate::wire::lent::Stock;
use crate::wire::variants::Variants;

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
        let state = State {
            stock: Stock::new(content.weight()),
            content,
            // Below those of any clock: whoever asks has it compared first.
            news: 0,
            began,
            changed: began,
            is_revived: true,
            verdicts: Arc::default(),
            fingerprint: OnceLock::new(),
            opening: OnceLock::new(),
            variants: Variants::default(),
            dictionary: Arc::default(),
        };
        mirror.state.store(Some(Arc::new(state)));
        mirror.moved.send_replace(serial);
        self.kept.load().insert(key.clone(), mirror);
    }
}
