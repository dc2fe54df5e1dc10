//! The state that is published: the contents of all collections that anybody may read, at one look.

use std::collections::HashSet;
use std::fmt::Write;
use std::future::pending;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, stream};
use sha2::{Digest, Sha256};
use tokio::time::sleep;

use crate::kinto::CollectionKey;
use crate::mirror::{Mirror, Mirrors, State};
use crate::remote_settings::signatures::{Signatures, Waits};
use crate::timeline::Timeline;
use crate::timeline::entries::Entries;
use crate::upstream::kinto::KintoError;

/// How many collections are brought up to date at once.
const AT_ONCE: usize = 4;

/// How long what is not published is left alone where nothing is heard of it.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// How long it is left alone while it changes faster than it is looked at.
const AT_LEAST_BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// How many bytes of a digest name a state, as many as those of a commit.
const NAME_BYTES: usize = 20;

/// A collection's content; `None` where it cannot be kept, or is not there any more.
pub type Published = (CollectionKey, Option<Arc<State>>);

/// The contents of these collections, in their order; none of one that does not verify.
pub async fn states(
    mirrors: &Arc<Mirrors>,
    signatures: &Arc<Signatures>,
    entries: &Entries,
) -> Vec<Published> {
    of_keys(mirrors, signatures, entries.rows.iter().map(|entry| &entry.key), Waits::Shortly).await
}

async fn of_keys(
    mirrors: &Arc<Mirrors>,
    signatures: &Arc<Signatures>,
    keys: impl Iterator<Item = &CollectionKey>,
    waits: Waits,
) -> Vec<Published> {
    let states = keys.map(|key| {
        let (mirrors, signatures, key) = (Arc::clone(mirrors), Arc::clone(signatures), key.clone());
        async move {
            let state = state_of(&mirrors, &signatures, &key, waits).await.ok().flatten();
            (key, state)
        }
    });
    let states: Vec<_> = states.collect();
    stream::iter(states).buffered(AT_ONCE).collect().await
}

/// The content of one collection; `None` where it does not verify, and none that did is kept.
pub async fn state(
    mirrors: &Arc<Mirrors>,
    signatures: &Arc<Signatures>,
    key: &CollectionKey,
) -> Result<Option<Arc<State>>, KintoError> {
    state_of(mirrors, signatures, key, Waits::ToTheEnd).await
}

async fn state_of(
    mirrors: &Arc<Mirrors>,
    signatures: &Arc<Signatures>,
    key: &CollectionKey,
    waits: Waits,
) -> Result<Option<Arc<State>>, KintoError> {
    let mirror = mirrors.mirror(key);
    let (state, _, is_good) = signatures.published(mirrors, &mirror, None, waits).await?;
    Ok(is_good.then_some(state))
}

/// Asks whether all of these contents are still those of their collections; `None` where there are none of some.
pub fn standing(mirrors: &Arc<Mirrors>, states: &[Published]) -> Option<impl Fn() -> bool + use<>> {
    let known = |(key, state): &Published| {
        Some((Arc::downgrade(&mirrors.mirror(key)), Arc::downgrade(state.as_ref()?)))
    };
    let states: Vec<(Weak<Mirror>, Weak<State>)> = states.iter().map(known).collect::<Option<_>>()?;
    Some(move || {
        let is_still = |(mirror, state): &(Weak<Mirror>, Weak<State>)| {
            mirror.upgrade().is_some_and(|mirror| mirror.is_still(state))
        };
        states.iter().all(is_still)
    })
}

/// Names a state, in hexadecimal digits: other records or other attributes, another name. All sidecars give it the same.
pub fn name_of<'p>(states: impl IntoIterator<Item = &'p Published>) -> String {
    let mut digest = Sha256::new();
    for (key, state) in states {
        digest.update(key.uri());
        if let Some(state) = state {
            digest.update(state.fingerprint());
        }
    }
    let mut name = String::with_capacity(2 * NAME_BYTES);
    for byte in digest.finalize().iter().take(NAME_BYTES) {
        // Writing to a String cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

/// Looks at the signature of each change, before somebody asks for it. What is not published is looked at until it is:
/// readers who see nothing new in the list do not ask for it.
pub async fn keep_verified(mirrors: Arc<Mirrors>, signatures: Arc<Signatures>, timeline: Arc<Timeline>) {
    let mut moved = timeline.subscribe();
    loop {
        let entries = timeline.entries();
        signatures.forget_all_but(&entries);
        let keys = entries.rows.iter().map(|entry| &entry.key);
        of_keys(&mirrors, &signatures, keys, Waits::ToTheEnd).await;
        loop {
            tokio::select! {
                more = moved.changed() => match more {
                    Ok(()) => break,
                    Err(_) => return,
                },
                () = news_of(&mirrors, signatures.unpublished()) => {}
                () = sleep(BETWEEN_LOOKS) => {}
            }
            of_keys(&mirrors, &signatures, signatures.unpublished().iter(), Waits::ToTheEnd).await;
        }
    }
}

/// Waits until more was heard of one of these collections than its content accounts for: a signature moves no timestamp.
async fn news_of(mirrors: &Mirrors, keys: HashSet<CollectionKey>) {
    let waits = keys.iter().map(async |key| {
        let mirror = mirrors.mirror(key);
        let news = mirror.clock().news();
        if mirror.settled().is_some() {
            mirror.clock().news_beyond(news).await;
        } else if mirror.state().is_some_and(|state| state.began.elapsed() < BETWEEN_LOOKS) {
            // It came while the content was looked at.
            sleep(AT_LEAST_BETWEEN_LOOKS).await;
        } else {
            // It cannot be read now.
            pending::<()>().await;
        }
    });
    let mut waits: FuturesUnordered<_> = waits.collect();
    if waits.next().await.is_none() {
        pending::<()>().await;
    }
}
