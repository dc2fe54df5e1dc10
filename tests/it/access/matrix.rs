//! Who may read a collection, for everybody in every way in which Kinto gives permissions, compared with what Kinto shows
//! them itself.

use serde_json::{Value, json};

use super::is_the_sidecars_own;
use crate::support::{Client, Fate, Kinto, KintoOptions, Recorder, SERVICE_ACCOUNT, Sidecar};

/// Nobody, and those who have each their own permission, or none.
const USERS: [&str; 15] = [
    "", "alice", "stranger", "creator", "sharer", "reader", "writer", "member", "bucket-reader",
    "bucket-writer", "records-by-settings", "collections-by-settings", "buckets-by-settings",
    "groups-by-settings", "maker-of-collections",
];

const BUCKET: &str = "/buckets/b";

/// One with every permission, one with none of its own, one for everybody, and one that is not there.
const COLLECTIONS: [&str; 4] = ["open", "shut", "public", "missing"];

fn of(client: &Client, user: &str) -> Client {
    if user.is_empty() { client.clone() } else { client.user(user) }
}

async fn id_of(client: &Client, user: &str) -> String {
    client.user(user).get("/").await.expect(200).json()["user"]["id"].as_str().unwrap().to_owned()
}

async fn kinto() -> Kinto {
    // Ids depend on names alone.
    let anywhere = Kinto::shared().client();
    let mut options = KintoOptions::memory();
    for (kind, others) in [
        ("record", &[][..]),
        ("collection", &[]),
        ("group", &["maker-of-collections"]),
        ("bucket", &["groups-by-settings"]),
    ] {
        let mut readers = vec![id_of(&anywhere, "sidecar").await];
        readers.push(id_of(&anywhere, &format!("{kind}s-by-settings")).await);
        for other in others {
            readers.push(id_of(&anywhere, other).await);
        }
        options = options.setting(&format!("kinto.{kind}_read_principals"), &readers.join(" "));
    }
    Kinto::start(options)
}

/// Writes what there is.
async fn fill(client: &Client) {
    let alice = client.user("alice");
    let mut ids = Vec::new();
    for user in
        ["reader", "writer", "member", "sharer", "bucket-reader", "bucket-writer", "maker-of-collections"]
    {
        ids.push(id_of(client, user).await);
    }
    let permissions = json!({"read": [ids[4]], "write": [ids[5]], "collection:create": [ids[6]]});
    alice.put(BUCKET).json(json!({"permissions": permissions})).await.expect(201);
    alice.put(&format!("{BUCKET}/groups/g")).data(json!({"members": [ids[2]]})).await.expect(201);
    let open = json!({
        "read": [ids[0], format!("{BUCKET}/groups/g")],
        "write": [ids[1]],
        "record:create": ["system.Everyone"],
    });
    let public = json!({"read": ["system.Everyone"]});
    for (id, permissions) in [("open", open), ("shut", json!({})), ("public", public)] {
        let collection = format!("{BUCKET}/collections/{id}");
        alice
            .put(&collection)
            .json(json!({"data": {"secret": secret(&collection)}, "permissions": permissions}))
            .await
            .expect(201);
        let hidden = format!("{collection}/records/hidden");
        alice.put(&hidden).data(json!({"secret": secret(&hidden)})).await.expect(201);
        let shared = json!({"data": {}, "permissions": {"read": [ids[3]]}});
        alice.put(&format!("{collection}/records/shared")).json(shared).await.expect(201);
    }
    let own = format!("{BUCKET}/collections/open/records/own");
    client.user("creator").put(&own).data(json!({})).await.expect(201);
}

/// What only those know who may read this object.
fn secret(uri: &str) -> String {
    format!("secret of {uri}.")
}

/// What Kinto says of somebody and a collection: 200 where it shows them the object and all of its records.
async fn expected(kinto: &Kinto, user: &str, collection: &str) -> u16 {
    let (theirs, owners) = (of(&kinto.client(), user), kinto.client().user("alice"));
    let object = theirs.get(collection).await;
    if object.status != 200 {
        return object.status;
    }
    let path = format!("{collection}/records?_sort=id");
    let (seen, all) = (theirs.get(&path).await, owners.get(&path).await.expect(200));
    if seen.status == 200 && seen.data() == all.data() {
        return 200;
    }
    if user.is_empty() { 401 } else { 403 }
}

/// What is asked for of a collection, and with which credentials it is refused.
fn asked(collection: &str) -> [String; 4] {
    [
        format!("{collection}/changeset?_expected=0"),
        format!("{collection}/_changes?include_docs=true"),
        format!("{collection}/_changes?feed=longpoll&since=0&include_docs=true"),
        format!("{collection}/"),
    ]
}

async fn compare(kinto: &Kinto, sidecar: &Sidecar) {
    let mut yes = 0;
    for collection in COLLECTIONS.map(|collection| format!("{BUCKET}/collections/{collection}")) {
        for user in USERS {
            let expected = expected(kinto, user, &collection).await;
            yes += usize::from(expected == 200);
            let theirs = of(&sidecar.client(), user);
            for path in asked(&collection) {
                let answer = theirs.get(&path).await;
                assert_eq!(answer.status, expected, "{user:?}: {answer}");
                let text = String::from_utf8_lossy(&answer.body);
                assert!(expected == 200 || !text.contains("secret"), "{user:?}: {answer}");
            }
            let path = asked(&collection)[0].clone();
            let batch = theirs.post("/batch").json(json!({"requests": [{"path": path}]})).await.expect(200);
            let answers: Value = batch.json();
            assert_eq!(answers["responses"][0]["status"], expected, "{user:?} {path}: {batch}");
            if !collection.ends_with("missing") {
                let moment = collection.replace("/collections/", "/snapshot/collections/");
                let answer = theirs.get(&format!("{moment}@99999999999999")).await;
                assert_eq!(answer.status, expected, "{user:?}: {answer}");
            }
        }
    }
    // The owner, three of the bucket, three of the collection that says so, and all of what is public.
    assert!(yes > 20 && yes < USERS.len() * COLLECTIONS.len() / 2 + 3, "{yes}");
}

#[tokio::test]
async fn everybody_gets_what_kinto_shows_them_and_no_more() {
    let kinto = kinto().await;
    fill(&kinto.client()).await;
    compare(&kinto, &Sidecar::start(kinto.url(), &[SERVICE_ACCOUNT])).await;
    // Where the upstream takes no batch, each is asked singly.
    let front = Recorder::before(kinto.url());
    front.intercept(|request| if request.path() == "/v1/batch" { Fate::Answer(405) } else { Fate::Pass });
    let sidecar = Sidecar::start(front.url(), &[SERVICE_ACCOUNT]);
    for collection in COLLECTIONS.map(|collection| format!("{BUCKET}/collections/{collection}")) {
        for user in USERS {
            let answer = of(&sidecar.client(), user).get(&asked(&collection)[0]).await;
            assert_eq!(answer.status, expected(&kinto, user, &collection).await, "{user:?}: {answer}");
        }
    }
    let asked = front.count(|request| request.path() == "/v1/batch" && !is_the_sidecars_own(request));
    assert_eq!(asked, 1, "batches for an upstream that takes none");
}

#[tokio::test]
async fn nobody_is_told_in_a_bucket_of_an_object_that_kinto_does_not_show_them() {
    let kinto = kinto().await;
    let sidecar = Sidecar::start(kinto.url(), &[SERVICE_ACCOUNT]);
    fill(&sidecar.client()).await;
    let collections = COLLECTIONS[..3].iter().map(|id| format!("{BUCKET}/collections/{id}"));
    let objects: Vec<String> = collections.flat_map(|uri| [format!("{uri}/records/hidden"), uri]).collect();
    let revert = json!({"dry_run": true});
    for user in USERS {
        let (theirs, direct) = (of(&sidecar.client(), user), of(&kinto.client(), user));
        let mut unknown = Vec::new();
        for uri in &objects {
            if direct.get(uri).await.status != 200 {
                unknown.push(secret(uri));
            }
        }
        let mut answers = Vec::new();
        for path in [
            "history",
            "history/diff?from=0",
            "history/deleted",
            "history/_changes?include_docs=true",
            "_changes?include_docs=true",
        ] {
            answers.push(theirs.get(&format!("{BUCKET}/{path}")).await);
        }
        answers.push(theirs.post(&format!("{BUCKET}/history/revert?from=0")).json(revert.clone()).await);
        for answer in &answers {
            let text = String::from_utf8_lossy(&answer.body);
            let told: Vec<_> = unknown.iter().filter(|secret| text.contains(*secret)).collect();
            assert!(told.is_empty(), "{user:?} is told {told:?}: {answer}");
        }
        if unknown.is_empty() {
            let history = String::from_utf8_lossy(&answers[0].body);
            assert!(objects.iter().all(|uri| history.contains(&secret(uri))), "{user:?}: {}", answers[0]);
        }
    }
}
