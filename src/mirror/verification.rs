//! Whether a content's signature is good: found out once for all who ask, and kept with the content.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

/// What was found out of a signature.
#[derive(Debug, Clone, Copy)]
pub struct Verification {
    /// Whether it is good.
    pub is_good: bool,
    /// When it is to be looked at again; `None` where nothing but another content changes it.
    pub again: Option<Instant>,
}

/// The last verification of a content, if it was ever looked at.
#[derive(Debug, Default)]
pub struct Verifications {
    last: Mutex<Option<Verification>>,
    /// Held while the signature is looked at.
    pub turn: Arc<tokio::sync::Mutex<()>>,
}

impl Verification {
    /// Whether it is to be looked at again.
    pub fn is_due(&self) -> bool {
        self.again.is_some_and(|again| again <= Instant::now())
    }
}

impl Verifications {
    /// The last one.
    pub fn last(&self) -> Option<Verification> {
        *self.last.lock()
    }

    /// The signature was found to be so.
    pub fn set(&self, verification: Verification) {
        *self.last.lock() = Some(verification);
    }
}
