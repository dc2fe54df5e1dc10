//! The state that is published: the contents of all collections that anybody may read, at one look.

use std::fmt::Write;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use sha2::{Digest, Sha256};

use crate::kinto::CollectionKey;
use crate::mirror::{Mirrors, State};
use crate::timeline::entries::Entries;

/// How many collections are brought up to date at once.
const AT_ONCE: usize = 4;

/// How many bytes of a digest name a state, as many as those of a commit.
const NAME_BYTES: usize = 20;

/// A collection's content; `None` where it cannot be kept, or is not there any more.
pub type Published = (CollectionKey, Option<Arc<State>>);

/// The contents of these collections, in their order.
pub async fn states(mirrors: &Arc<Mirrors>, entries: &Entries) -> Vec<Published> {
    let states = entries.rows.iter().map(|entry| {
        let (mirrors, key) = (Arc::clone(mirrors), entry.key.clone());
        async move {
            let mirror = mirrors.mirror(&key);
            let state = mirrors.current(&mirror, None).await.ok();
            (key, state.map(|(state, _)| state))
        }
    });
    let states: Vec<_> = states.collect();
    stream::iter(states).buffered(AT_ONCE).collect().await
}

/// Names a state, in hexadecimal digits: other records or other attributes, another name. All sidecars give it the same.
pub fn name_of<'p>(states: impl IntoIterator<Item = &'p Published>) -> String {
    let mut digest = Sha256::new();
    for (key, state) in states {
        digest.update(key.uri());
        if let Some(state) = state {
            digest.update(state.content.timestamp.0.to_le_bytes());
            digest.update(&state.content.metadata.json);
        }
    }
    let mut name = String::with_capacity(2 * NAME_BYTES);
    for byte in digest.finalize().iter().take(NAME_BYTES) {
        // Writing to a String cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}
