//! What the cache in front is told of.

use serde_json::json;

use crate::support::{Client, Fate, Kinto, KintoOptions, Recorder, SERVICE_ACCOUNT, Sidecar, eventually};

/// Waits until the cache is told to drop both collections.
async fn dropped(cache: &Recorder) {
    let has = |id: &str| {
        let tag = format!("b/{id}");
        cache.requests().iter().any(|request| {
            let headers = ["surrogate-key", "xkey"].map(|name| request.headers.get(name));
            headers.iter().flatten().any(|value| value.to_str().unwrap().contains(&tag))
        })
    };
    eventually("both collections", async || (has("one") && has("other")).then_some(())).await;
}

#[tokio::test]
async fn a_bucket_whose_readers_change_has_its_collections_dropped() {
    let kinto = Kinto::start(KintoOptions::memory());
    let cache = Recorder::before(kinto.url());
    cache.intercept(|_| Fate::Say("{}"));
    let purge_url = format!("http://{}/", cache.url().split('/').nth(2).unwrap());
    let settings = [
        SERVICE_ACCOUNT,
        ("sidecar.purge_url", &purge_url),
        ("sidecar.timestamps_ttl", "50ms"),
        ("sidecar.poll_budget", "100%"),
    ];
    let sidecar = Sidecar::start(kinto.url(), &settings);
    let alice = sidecar.client().user("alice");
    let readable = json!({"permissions": {"read": ["system.Everyone"]}});
    alice.put("/buckets/b").json(readable).await.expect(201);
    for id in ["one", "other"] {
        alice.put(&format!("/buckets/b/collections/{id}")).await.expect(201);
        let changeset = format!("/buckets/b/collections/{id}/changeset?_expected=0");
        sidecar.client().get(&changeset).await.expect(200);
    }
    let withdraw = async |client: &Client| {
        client.put("/buckets/b").json(json!({"permissions": {"read": []}})).await.expect(200);
    };
    // That they are there.
    dropped(&cache).await;
    cache.clear();
    withdraw(&alice).await;
    dropped(&cache).await;
    cache.clear();
    // Past the sidecar.
    withdraw(&kinto.client().user("alice")).await;
    dropped(&cache).await;
}
