//! What is decided without a lock is decided by these.

pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
