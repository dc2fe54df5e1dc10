//! An answer is given again, unless anything moved or somebody says more.

use serde_json::json;

use crate::support::{Kinto, SERVICE_ACCOUNT, Sidecar, unique};

#[tokio::test]
async fn what_was_given_a_moment_ago_is_given_again_only_while_it_stands() {
    let bucket = format!("/buckets/{}", unique("recent"));
    let collection = format!("{bucket}/collections/c");
    let sidecar = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT, ("changes.resources", &bucket)]);
    let (alice, anybody) = (sidecar.client().user("alice"), sidecar.client());
    alice.put(&bucket).await.expect(201);
    let open = json!({"permissions": {"read": ["system.Everyone"]}});
    alice.put(&collection).json(open).await.expect(201);
    let list = "/buckets/monitor/collections/changes/records";
    let changeset = format!("{collection}/changeset?_expected=0");
    for n in 0..20 {
        let written =
            alice.put(&format!("{collection}/records/r{n}")).data(json!({"n": n})).await.timestamp();
        let mut ids = Vec::new();
        for path in [&*changeset, list] {
            for _ in 0..3 {
                let answer = anybody.get(path).await.expect(200);
                let newest = answer.json()["timestamp"].as_u64();
                assert_eq!(newest.unwrap_or_else(|| answer.timestamp()), written, "{path} after {n}");
                ids.push(answer.header("x-request-id").unwrap().to_owned());
            }
        }
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 6, "each answer has the id of its own request");
    }
    let given = anybody.get(&changeset).await.expect(200);
    let etag = given.header("etag").unwrap().to_owned();
    anybody.get(&changeset).header("if-none-match", &etag).await.expect(304);
    let named = alice.get(&changeset).await.expect(200);
    assert_eq!(named.header("cdn-cache-control"), Some("no-store"), "{named}");
    let head = anybody.head(&changeset).await.expect(200);
    assert!(head.body.is_empty());
    assert_eq!(anybody.get(&changeset).await.expect(200).body, given.body);
    let closed = json!({"permissions": {"read": []}});
    alice.patch(&collection).json(closed).await.expect(200);
    anybody.get(&changeset).await.expect(401);
}
