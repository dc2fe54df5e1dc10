//! What the sidecar answers itself: one file per endpoint.

pub mod changeset_params;
