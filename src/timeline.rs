//! What the sidecar knows of each collection's timestamp, and who wants to know.

pub mod entries;
