//! `/v2`, as Remote Settings' readers ask for it.

mod bundles;
mod changesets;
mod clients;
mod deletions;
mod firefox;
mod live;
mod parameters;
mod restarted;
mod service;
mod signatures;
mod standing;

use http::Method;
use serde_json::json;

use crate::support::{Client, Kinto, Request, SERVICE_ACCOUNT, Sidecar};

/// A sidecar in remote-settings' way that monitors these buckets of the shared Kinto, and what else is set.
fn sidecar_of(buckets: &[&str], more: &[(&str, &str)]) -> Sidecar {
    sidecar_before(Kinto::shared().url(), buckets, more)
}

/// The same in front of another upstream.
fn sidecar_before(upstream: impl AsRef<str>, buckets: &[&str], more: &[(&str, &str)]) -> Sidecar {
    let uris: Vec<String> = buckets.iter().map(|bucket| format!("/buckets/{bucket}")).collect();
    let resources = uris.join(" ");
    let mut settings =
        vec![SERVICE_ACCOUNT, ("sidecar.compat", "remote-settings"), ("changes.resources", &resources)];
    settings.extend(more);
    Sidecar::start(upstream, &settings)
}

/// A request for a path below `/v2`.
fn v2(client: &Client, path: &str) -> Request {
    client.request_target(Method::GET, &format!("/v2{path}"))
}

/// A bucket that anybody may read, with some collections of two records each.
async fn public_bucket(owner: &Client, bucket: &str, collections: &[&str]) {
    let everybody = json!({"permissions": {"read": ["system.Everyone"]}});
    owner.put(&format!("/buckets/{bucket}")).json(everybody).await.expect(201);
    for collection in collections {
        let uri = format!("/buckets/{bucket}/collections/{collection}");
        owner.put(&uri).await.expect(201);
        for record in ["one", "two"] {
            owner.put(&format!("{uri}/records/{record}")).data(json!({"text": "x"})).await.expect(201);
        }
    }
}

/// The path of a collection's changeset below `/v2`.
fn changeset_of(bucket: &str, collection: &str) -> String {
    format!("/buckets/{bucket}/collections/{collection}/changeset")
}
