//! What the service account may not read, or where there is none: its readers read it with their own credentials.

use serde_json::json;

use super::ids;
use crate::support::{Kinto, Sidecar, unique};

#[tokio::test]
async fn a_private_collection_has_its_feed_without_a_service_account_but_for_live_ones() {
    let kinto = Kinto::shared();
    for auth in [&[][..], &[("sidecar.auth", "mallory:secret")]] {
        let sidecar = Sidecar::start(kinto.url(), auth);
        let (alice, bob) = (sidecar.client().user("alice"), sidecar.client().user("bob"));
        let bucket = format!("/buckets/{}", unique("unreadable"));
        let collection = format!("{bucket}/collections/c");
        alice.put(&bucket).await.expect(201);
        alice.put(&collection).data(json!({"filters": {"f/g": {"n": 1}}})).await.expect(201);
        let mut seq = json!(0);
        for (id, n) in [("a", 1), ("b", 2), ("c", 3)] {
            let record =
                alice.put(&format!("{collection}/records/{id}")).data(json!({"n": n})).await.expect(201);
            seq = record.data()["last_modified"].clone();
        }
        alice.delete(&format!("{collection}/records/c")).await.expect(200);
        for _ in 0..2 {
            let answer = alice.get(&format!("{collection}/_changes?include_docs=true")).await.expect(200);
            assert_eq!(ids(&answer.json()), ["a", "b", "c"]);
            assert_eq!(answer.json()["results"][1]["doc"]["n"], 2);
            assert_eq!(answer.header("cdn-cache-control"), Some("no-store"));
        }
        let filtered = alice.get(&format!("{collection}/_changes?filter=f/g")).await.expect(200).json();
        assert_eq!(ids(&filtered), ["a"]);
        let newest = alice.get(&format!("{collection}/_changes?descending=true&limit=1")).await.expect(200);
        assert_eq!(ids(&newest.json()), ["c"]);
        let later = alice.get(&format!("{collection}/_changes?since={seq}")).await.expect(200).json();
        assert!(ids(&later).contains(&"c"), "{later}");
        let database = alice.get(&format!("{collection}/")).await.expect(200).json();
        assert_eq!((&database["doc_count"], &database["update_seq"]), (&json!(2), &later["last_seq"]));
        for feed in ["longpoll", "continuous", "eventsource"] {
            let refused = alice.get(&format!("{collection}/_changes?feed={feed}")).await.expect(403);
            let message = refused.json()["message"].as_str().unwrap().to_owned();
            assert!(message.contains("\"read\"") && message.contains("/c "), "{message}");
        }
        for path in ["/_changes", "/", "/_changes?feed=longpoll"] {
            bob.get(&format!("{collection}{path}")).await.expect(403);
            sidecar.client().get(&format!("{collection}{path}")).await.expect(401);
        }
        let name = collection.replace("/buckets/", "").replace("/collections/", "/");
        let log = sidecar.log();
        let told = log.lines().filter(|line| line.contains("live feeds of")).count();
        assert_eq!(told, 1, "{log}");
        assert!(sidecar.log().contains(&name), "{}", sidecar.log());
    }
}
