//! What Dockerflow has a service say of itself.

use serde_json::{Value, json};

/// What this is. The commit is known to those who build it with `KINTO_SIDECAR_COMMIT`, and the build with
/// `KINTO_SIDECAR_BUILD`.
pub(super) fn version() -> Value {
    json!({
        "name": env!("CARGO_PKG_NAME"),
        "version": env!("CARGO_PKG_VERSION"),
        "source": option_env!("CARGO_PKG_REPOSITORY").unwrap_or_default(),
        "commit": option_env!("KINTO_SIDECAR_COMMIT").unwrap_or_default(),
        "build": option_env!("KINTO_SIDECAR_BUILD").unwrap_or_default(),
    })
}
