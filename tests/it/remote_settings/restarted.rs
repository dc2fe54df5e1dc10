//! A restart while Kinto is down: what was published stays so.

use std::time::Duration;

use serde_json::json;

use super::signatures::Signer;
use super::{changeset_of, public_bucket, v2};
use crate::stale::is_marked;
use crate::support::{Chaos, Kinto, SERVICE_ACCOUNT, Sidecar, eventually, unique};

const LIST: &str = "/buckets/monitor/collections/changes/changeset?_expected=0";

/// A sidecar before a Kinto that can go away.
fn kept(chaos: &Chaos, buckets: &[&str], folder: &tempfile::TempDir, more: &[(&str, &str)]) -> Sidecar {
    let uris: Vec<String> = buckets.iter().map(|bucket| format!("/buckets/{bucket}")).collect();
    let (resources, folder) = (uris.join(" "), folder.path().to_str().unwrap());
    let mut settings = vec![
        SERVICE_ACCOUNT,
        ("sidecar.compat", "remote-settings"),
        ("changes.resources", &*resources),
        ("sidecar.state_dir", folder),
    ];
    settings.extend(more);
    Sidecar::start(chaos.url(), &settings)
}

fn restart(sidecar: &mut Sidecar) {
    sidecar.terminate();
    assert!(sidecar.wait(Duration::from_secs(10)).is_some_and(|status| status.success()));
    sidecar.restart();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_anybody_may_read_is_listed_and_nothing_else_is() {
    let owner = Kinto::shared().client().user("owner");
    let (open, closed) = (unique("open"), unique("closed"));
    public_bucket(&owner, &open, &["read", "unread"]).await;
    owner.put(&format!("/buckets/{closed}")).await.expect(201);
    for (collection, readers) in [("hidden", json!([])), ("shown", json!(["system.Everyone"]))] {
        let uri = format!("/buckets/{closed}/collections/{collection}");
        owner.put(&uri).json(json!({"permissions": {"read": readers}})).await.expect(201);
        owner.put(&format!("{uri}/records/r")).await.expect(201);
    }
    let (chaos, folder) = (Chaos::before(Kinto::shared().url()), tempfile::tempdir().unwrap());
    let mut sidecar = kept(&chaos, &[&open, &closed], &folder, &[]);
    let client = sidecar.client();
    let changeset =
        |bucket: &str, collection: &str| format!("{}?_expected=0", changeset_of(bucket, collection));
    let (read, hidden) = (changeset(&open, "read"), changeset(&closed, "hidden"));
    v2(&client, &hidden).await.expect(404);
    let paths = [LIST.to_owned(), read.clone(), changeset(&closed, "shown")];
    let mut before = Vec::new();
    for path in &paths {
        before.push(v2(&client, path).await.expect(200));
    }
    assert_eq!(before[0].json()["changes"].as_array().unwrap().len(), 3);

    chaos.cut();
    restart(&mut sidecar);
    for (path, before) in paths.iter().zip(&before) {
        let answer = v2(&client, path).await.expect(200);
        assert!(is_marked(&answer), "{path}: {answer}");
        assert_eq!(answer.json(), before.json(), "{path}");
    }
    // What was not kept is not told of; and who may read it, Kinto alone knows.
    v2(&client, &changeset(&open, "unread")).await.expect(503);
    v2(&client, &hidden).await.expect(503);

    chaos.restore();
    eventually("Kinto's own word", async || {
        let list = v2(&client, LIST).await;
        (list.status == 200 && !is_marked(&list)).then_some(())
    })
    .await;
    v2(&client, &hidden).await.expect(404);
    assert_eq!(v2(&client, &read).await.expect(200).json(), before[1].json());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_changeset_that_verified_is_published() {
    let mut signer = Signer::start();
    let (bucket, uri, _) = signer.bucket("signed", "").await;
    let (chaos, folder) = (Chaos::before(Kinto::shared().url()), tempfile::tempdir().unwrap());
    let public = signer.public();
    let verified = [("sidecar.verify_signatures", "true"), ("sidecar.signature_key", &*public)];
    let mut sidecar = kept(&chaos, &[&bucket], &folder, &verified);
    let client = sidecar.client();
    let path = format!("{}?_expected=0", changeset_of(&bucket, "c"));
    let good = v2(&client, &path).await.expect(200).json();
    // A record that nobody has signed for yet.
    sidecar.client().user("owner").put(&format!("{uri}/records/unsigned")).await.expect(201);
    assert_eq!(v2(&client, &path).await.expect(200).json(), good);

    chaos.cut();
    restart(&mut sidecar);
    let answer = v2(&client, &path).await.expect(200);
    assert!(is_marked(&answer), "{answer}");
    assert_eq!(answer.json(), good);
    chaos.restore();
    // With Kinto back the record is seen again, and held back again.
    eventually("Kinto's own word", async || {
        let answer = v2(&client, &path).await;
        (answer.status == 200 && !is_marked(&answer)).then_some(())
    })
    .await;
    assert_eq!(v2(&client, &path).await.expect(200).json(), good);
    signer.sign(&sidecar.client().user("owner"), &uri, "").await;
    let signed = v2(&client, &path).await.expect(200).json();
    assert!(signer.is_good(&signed) && signed["timestamp"].as_u64() > good["timestamp"].as_u64());
}
