//! A collection that ended, and another that somebody else makes under its name.

use serde_json::json;

use super::entries;
use crate::support::{Client, Kinto, KintoOptions, SERVICE_ACCOUNT, Sidecar, database, eventually, unique};

async fn id_of(client: &Client) -> String {
    client.get("/").await.expect(200).json()["user"]["id"].as_str().unwrap().to_owned()
}

/// All that somebody can be shown of what was in the collection `c` of a bucket at a moment.
async fn shown(client: &Client, bucket: &str, moment: &str) -> String {
    let mut shown = String::new();
    for path in [
        "/history",
        "/history?target.previous.secret=alice",
        "/history?like_target.previous.secret=ali",
        "/history/_changes?include_docs=true",
        "/history/diff?from=0",
        &format!("/snapshot/collections/c@{moment}"),
    ] {
        let answer = client.get(&format!("{bucket}{path}")).await;
        assert!(answer.status < 500, "{path}: {answer}");
        shown.push_str(&String::from_utf8_lossy(&answer.body));
    }
    for path in ["/history/revert?from=0", &format!("/snapshot/collections/c@{moment}/restore")] {
        let answer = client.post(&format!("{bucket}{path}")).json(json!({"dry_run": true})).await;
        assert!(answer.status < 500, "{path}: {answer}");
        shown.push_str(&String::from_utf8_lossy(&answer.body));
    }
    shown
}

/// How the collection of alice's ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// By somebody whose writes make no entries.
    Excluded,
    /// Past the sidecar.
    Elsewhere,
}

#[tokio::test]
async fn who_makes_a_collection_anew_does_not_see_what_was_in_the_one_before() {
    // Whatever others write into a Kinto that is shared would be looked at first.
    let kinto = Kinto::start(KintoOptions::memory());
    let direct = kinto.client();
    let robot = id_of(&direct.user("robot")).await;
    let postgres = database();
    for journal in ["sqlite::memory:", postgres.as_str()] {
        let settings = [
            SERVICE_ACCOUNT,
            ("sidecar.journal", journal),
            ("history.exclude_user_ids", &robot),
            ("history.include_previous", "true"),
            ("sidecar.timestamps_ttl", "100ms"),
            ("sidecar.poll_budget", "100%"),
        ];
        let sidecar = Sidecar::start(kinto.url(), &settings);
        let (alice, bob) = (sidecar.client().user("alice"), sidecar.client().user("bob"));
        let may_make = json!({"write": [robot], "collection:create": [id_of(&bob).await]});
        for end in [End::Excluded, End::Elsewhere] {
            // Who may read what was written elsewhere, the upstream is asked.
            for writer in [alice.clone(), direct.user("alice")] {
                let bucket = format!("/buckets/{}", unique("remade"));
                let collection = format!("{bucket}/collections/c");
                alice.put(&bucket).json(json!({"permissions": may_make})).await.expect(201);
                writer.put(&collection).await.expect(201);
                for id in ["r0", "r1"] {
                    let data = json!({"secret": "alice"});
                    writer.put(&format!("{collection}/records/{id}")).data(data).await.expect(201);
                }
                let moment = alice.get(&format!("{collection}/records")).await.expect(200).timestamp();
                eventually("the entries", async || (entries(&alice, &bucket).await.len() == 4).then_some(()))
                    .await;
                let ending = if end == End::Excluded { sidecar.client() } else { direct.clone() };
                ending.user("robot").delete(&collection).await.expect(200);
                bob.put(&collection).await.expect(201);
                bob.put(&format!("{collection}/records/r0")).data(json!({"of": "bob"})).await.expect(201);
                let shown = shown(&bob, &bucket, &moment.to_string()).await;
                assert!(!shown.contains("alice"), "{journal}, {end:?}: {shown}");
                assert!(shown.contains("bob"), "{shown}");
                let of_collection = entries(&alice, &bucket).await;
                let told: Vec<_> = of_collection
                    .iter()
                    .filter(|entry| entry["uri"] == collection.as_str())
                    .map(|entry| entry["action"].as_str().unwrap().to_owned())
                    .collect();
                let deletion: &[&str] = if end == End::Elsewhere { &["delete"] } else { &[] };
                assert_eq!(told, [&["create"], deletion, &["create"]].concat(), "{end:?}");
            }
        }
    }
}

#[tokio::test]
async fn the_version_before_is_shown_to_those_who_see_the_whole_history() {
    let kinto = Kinto::shared();
    let sidecar = Sidecar::start(kinto.url(), &[SERVICE_ACCOUNT, ("history.include_previous", "true")]);
    let (alice, bob) = (sidecar.client().user("alice"), sidecar.client().user("bob"));
    let bucket = format!("/buckets/{}", unique("previous"));
    let record = format!("{bucket}/collections/c/records/r");
    alice.put(&bucket).await.expect(201);
    alice.put(&format!("{bucket}/collections/c")).await.expect(201);
    alice.put(&record).data(json!({"secret": "x".repeat(100_000)})).await.expect(201);
    let shared = json!({"data": {"n": 1}, "permissions": {"read": [id_of(&bob).await]}});
    alice.put(&record).json(shared).await.expect(200);
    let theirs = entries(&bob, &bucket).await;
    assert_eq!(theirs.len(), 1);
    assert_eq!((&theirs[0]["target"]["data"]["n"], theirs[0]["target"].get("previous")), (&json!(1), None));
    let all = entries(&alice, &bucket).await;
    assert!(all.iter().any(|entry| entry["target"]["previous"]["secret"].is_string()));
    for path in ["/history?like_target.previous.secret=xx", "/history?has_target.previous=true"] {
        let found = async |client: &Client| client.get(&format!("{bucket}{path}")).await.expect(200).json();
        assert_eq!(found(&bob).await["data"], json!([]), "{path}");
        assert_eq!(found(&alice).await["data"].as_array().unwrap().len(), 1, "{path}");
    }
}
