//! What the sidecar answers itself: one file per endpoint.

pub mod admin;
pub mod broadcasts;
pub mod changeset_params;
mod detour;
pub mod list;
pub mod monitor_changes;
pub mod monitor_changeset;
pub mod root;
