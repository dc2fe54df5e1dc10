//! What is decided without a lock is decided by these. `tests/loom` puts others in their place, which try each order in which
//! threads may see what others wrote.

pub(crate) use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
