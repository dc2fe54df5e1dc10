//! `…/history` and snapshots: a Kinto with its history plugin, and the sidecar in front of a plain one, over the same
//! writes.
//!
//! Entries have ids and timestamps that nobody can choose. Each server's own are named by their place in its history
//! before answers are compared, and are filled into what is asked.

mod described;
mod lists;
mod methods;
mod purges;
mod readers;
mod snapshots;
mod world;
