//! What everybody could read before this process. What somebody could read by credentials is nothing to be kept.

use tokio::time::Instant;

use super::memory::Name;
use super::{Access, Credentials, Granted, Verdict};
use crate::kinto::{CollectionKey, Timestamp};

/// That everybody may read a collection, as the upstream said it.
#[derive(Debug, Clone, Copy)]
pub struct PublicSince {
    /// The `last_modified` of the collection object that was shown.
    pub metadata: Option<Timestamp>,
    /// When the upstream was asked.
    pub asked: Instant,
}

impl Access {
    /// Whether everybody may read a collection, as far as the upstream said so and nobody has changed that.
    pub fn public(&self, key: &CollectionKey) -> Option<PublicSince> {
        let permissions = &self.0.permissions;
        let (name, epoch) = (name(key), self.epoch_for(&key.bucket, &Credentials::default()));
        match permissions.verdicts.given_at(name, &epoch, permissions.settings.now().stale_if_error)? {
            (Verdict::Granted(Granted { metadata, .. }), asked) => Some(PublicSince { metadata, asked }),
            (Verdict::Refused(_), _) => None,
        }
    }

    /// Takes what the upstream said before this process began. That counts while it cannot be asked.
    pub fn revive(&self, key: &CollectionKey, public: PublicSince) {
        let epoch = self.epoch_for(&key.bucket, &Credentials::default());
        let granted = Granted { metadata: public.metadata, stale: false };
        self.0.permissions.verdicts.revive(name(key), &epoch, Verdict::Granted(granted), public.asked);
    }
}

fn name(key: &CollectionKey) -> Name {
    Name::collection(key, &Credentials::default())
}
