//! A content of a collection, how new it is, and what was made of it once for all who ask.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::content::{Content, RowSelection};
use super::opening;
use super::verification::Verifications;
use crate::aside;
use crate::kinto::CollectionKey;
use crate::settings::Compat;
use crate::wire::lent::Stock;
use crate::wire::variants::Variants;

/// A content, and how new it is.
#[derive(Debug)]
pub struct State {
    /// The content.
    pub content: Content,
    /// The clock's news that it accounts for: those when the read of it began, and what told no more than was read.
    pub(super) news: u64,
    /// When the read of it began.
    pub began: Instant,
    /// When the content last became another.
    pub(super) changed: Instant,
    /// Whether it is from before this process, and has not been compared with the upstream's since.
    pub(super) is_revived: bool,
    /// A changeset of it up to its first change, once it was asked for.
    opening: OnceLock<Bytes>,
    /// How its signature was found to be.
    pub verifications: Arc<Verifications>,
    /// See [`State::fingerprint`].
    fingerprint: OnceLock<[u8; 32]>,
    /// Compressed changesets of it: by rows, or of all live records up to a limit.
    pub variants: Variants<(Option<RowSelection>, Option<usize>)>,
    /// What a whole changeset of it is called where clients may name it (see [`crate::wire::dictionaries`]).
    pub dictionary: Arc<OnceLock<[u8; 32]>>,
    /// What its readers are lent.
    pub stock: Stock,
}

impl State {
    /// A content that was read at `began`, and accounts for these news.
    pub(super) fn new(content: Content, news: u64, began: Instant) -> Self {
        Self {
            stock: Stock::new(content.weight()),
            content,
            news,
            began,
            changed: began,
            is_revived: false,
            opening: OnceLock::new(),
            verifications: Arc::default(),
            fingerprint: OnceLock::new(),
            variants: Variants::default(),
            dictionary: Arc::default(),
        }
    }

    /// Makes the opening at once where that takes long, and nobody else is served.
    pub(super) async fn open(&self, compat: Compat, key: &CollectionKey) {
        let metadata = &self.content.metadata;
        let bytes = metadata.json.len();
        if bytes <= aside::LITTLE {
            return;
        }
        let (key, metadata, timestamp) = (key.clone(), metadata.clone(), self.content.timestamp);
        let made = aside::run(bytes, move || opening::opening(compat, &key, &metadata, timestamp));
        if let Ok(made) = made.await {
            self.opening.get_or_init(|| made);
        }
    }

    /// What stands before the first change in each changeset of this content, made once.
    pub fn opening(&self, compat: Compat, key: &CollectionKey) -> Bytes {
        let make = || opening::opening(compat, key, &self.content.metadata, self.content.timestamp);
        self.opening.get_or_init(make).clone()
    }

    /// Takes what was found out of the same content when it was read before.
    pub(super) fn inherit(&mut self, before: &Self) {
        self.changed = before.changed;
        self.verifications = Arc::clone(&before.verifications);
        self.fingerprint = before.fingerprint.clone();
    }

    /// Tells its timestamp and attributes from all others, for every process alike.
    pub fn fingerprint(&self) -> &[u8; 32] {
        self.fingerprint.get_or_init(|| {
            let digest = Sha256::new().chain_update(self.content.timestamp.0.to_le_bytes());
            digest.chain_update(&self.content.metadata.json).finalize().into()
        })
    }

    /// The whole changeset: all live records.
    pub fn changeset(&self, compat: Compat, key: &CollectionKey) -> Vec<Bytes> {
        let mut chunks = vec![self.opening(compat, key)];
        chunks.extend(self.content.all(None));
        chunks.push(Bytes::from_static(opening::CLOSING));
        chunks
    }
}
