//! What was given a moment ago is given again, unless anything moved that it stands on.

use serde_json::json;

use super::{changeset_of, public_bucket, sidecar_before, sidecar_of, v2};
use crate::reload::Reloaded;
use crate::support::{Chaos, Client, Kinto, Response, eventually, unique};

const LIST: &str = "/buckets/monitor/collections/changes/changeset?_expected=0";

/// Asks so often that all but the first may be given what the one before was given. All say the same, each to its own.
async fn asked(client: &Client, path: &str) -> Response {
    let first = v2(client, path).await;
    let mut ids = vec![first.header("x-request-id").map(str::to_owned)];
    for _ in 0..3 {
        let again = v2(client, path).await;
        assert_eq!((again.status, &again.body), (first.status, &first.body), "{path}");
        assert_eq!(again.header("cache-control"), first.header("cache-control"), "{path}");
        ids.push(again.header("x-request-id").map(str::to_owned));
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4, "each answer has the id of its own request");
    first
}

#[tokio::test]
async fn all_of_v2_shows_a_write_with_the_next_answer_however_often_it_was_asked() {
    let bucket = unique("standing");
    let owner = Kinto::shared().client().user("owner");
    owner.put(&format!("/buckets/{bucket}")).await.expect(201);
    let collection = format!("/buckets/{bucket}/collections/c");
    let readable = |readers: &[&str]| json!({"permissions": {"read": readers}});
    for uri in [&collection, &format!("/buckets/{bucket}/collections/other")] {
        owner.put(uri).json(readable(&["system.Everyone"])).await.expect(201);
        owner.put(&format!("{uri}/records/first")).await.expect(201);
    }
    let sidecar = sidecar_of(&[&bucket], &[("push_broadcast_min_debounce_interval_seconds", "0")]);
    let (client, owner) = (sidecar.client(), sidecar.client().user("owner"));
    let changeset = format!("{}?_expected=0", changeset_of(&bucket, "c"));
    // What shows the newest timestamp in each answer.
    let shown = async |path: &str| {
        let answer = asked(&client, path).await.expect(200).json();
        match path {
            "/__broadcasts__" => answer["broadcasts"]["remote-settings/monitor_changes"].clone(),
            "/" => answer["git"]["common"]["id"].clone(),
            _ => answer["timestamp"].clone(),
        }
    };
    let mut records = (0..).map(|number| format!("{collection}/records/r{number}"));
    for path in [&*changeset, LIST, "/__broadcasts__", "/"] {
        for _ in 0..3 {
            let before = shown(path).await;
            let written = owner.put(&records.next().unwrap()).await.expect(201).timestamp();
            match (path, shown(path).await) {
                ("/", id) => assert_ne!(id, before, "another state has another name"),
                ("/__broadcasts__", newest) => assert_eq!(newest, format!("\"{written}\"")),
                (_, newest) => assert_eq!(newest, written, "{path}"),
            }
        }
    }
    let broadcast = async || client.get("/__broadcasts__").await.expect(200).text();
    for _ in 0..3 {
        broadcast().await;
        let written = owner.put(&records.next().unwrap()).await.expect(201).timestamp();
        assert!(broadcast().await.contains(&written.to_string()), "on /v1, too");
    }
    for n in 0..3 {
        shown(&changeset).await;
        let before = shown("/").await;
        owner.patch(&collection).data(json!({"displayFields": [n.to_string()]})).await.expect(200);
        let metadata = asked(&client, &changeset).await.expect(200).json()["metadata"].clone();
        assert_eq!(metadata["displayFields"], json!([n.to_string()]));
        assert_ne!(shown("/").await, before, "metadata is part of the state");
    }
    let rows = async || asked(&client, LIST).await.expect(200).json()["changes"].as_array().unwrap().len();
    let status = async || asked(&client, &changeset).await.status;
    for (readers, expected) in [(&[][..], (404, 1)), (&["system.Everyone"][..], (200, 2))] {
        let before = (status().await, rows().await);
        owner.patch(&collection).json(readable(readers)).await.expect(200);
        assert_eq!((status().await, rows().await), expected, "after {before:?}");
    }
    owner.delete(&collection).await.expect(200);
    assert_eq!((status().await, rows().await), (404, 1));
}

#[tokio::test]
async fn what_is_given_again_says_that_it_is_stale_once_kinto_is_known_to_be_down() {
    let bucket = unique("standing-stale");
    public_bucket(&Kinto::shared().client().user("owner"), &bucket, &["c"]).await;
    let chaos = Chaos::before(Kinto::shared().url());
    let sidecar = sidecar_before(chaos.url(), &[&bucket], &[]);
    let client = sidecar.client();
    let changeset = format!("{}?_expected=0", changeset_of(&bucket, "c"));
    for path in [LIST, &changeset, "/"] {
        v2(&client, path).await.expect(200);
        assert_eq!(asked(&client, path).await.header("cache-status"), Some("kinto-sidecar; hit"), "{path}");
    }
    chaos.cut();
    eventually("the outage to be known", async || {
        for path in [LIST, &changeset] {
            v2(&client, path).await.expect(200);
        }
        (client.get(&format!("/buckets/{bucket}")).await.status == 503).then_some(())
    })
    .await;
    for path in [LIST, &changeset, "/"] {
        let answer = asked(&client, path).await.expect(200);
        let status = answer.header("cache-status").unwrap();
        assert!(status.contains("upstream-failed"), "{path}: {status}");
    }
}

#[tokio::test]
async fn what_is_given_again_is_that_of_the_settings_in_force() {
    let (one, two) = (unique("standing-one"), unique("standing-two"));
    let owner = Kinto::shared().client().user("owner");
    for bucket in [&one, &two] {
        public_bucket(&owner, bucket, &["c"]).await;
    }
    let common = ["sidecar.compat = remote-settings", "sidecar.auth = sidecar:secret"];
    let with = |more: &[String]| -> Vec<String> {
        common.iter().map(|line| (*line).to_owned()).chain(more.iter().cloned()).collect()
    };
    let both = with(&[format!("changes.resources = /buckets/{one} /buckets/{two}")]);
    let both: Vec<&str> = both.iter().map(String::as_str).collect();
    let reloaded = Reloaded::start(&Kinto::shared().url(), &both);
    let client = reloaded.sidecar.client();
    let [of_one, of_two] = [&one, &two].map(|bucket| format!("{}?_expected=0", changeset_of(bucket, "c")));
    assert_eq!(asked(&client, LIST).await.expect(200).json()["changes"].as_array().unwrap().len(), 2);
    for path in [&of_one, &of_two, "/"] {
        let answer = asked(&client, path).await.expect(200);
        assert_eq!(answer.header("cache-control"), Some("max-age=3600"), "{path}");
    }
    let one = with(&[format!("changes.resources = /buckets/{one}"), "sidecar.v2_max_age = 5s".to_owned()]);
    let one: Vec<&str> = one.iter().map(String::as_str).collect();
    reloaded.read(&one, "sidecar.v2_max_age").await;
    for path in [&of_one, "/"] {
        let answer = asked(&client, path).await.expect(200);
        assert_eq!(answer.header("cache-control"), Some("max-age=5"), "{path}");
    }
    asked(&client, &of_two).await.expect(404);
    assert_eq!(asked(&client, LIST).await.expect(200).json()["changes"].as_array().unwrap().len(), 1);
}
