//! What the upstream says to everybody is on the sidecar's own answers, too: how busy it is, and that it ends.

use std::process::Command;

use serde_json::json;

use crate::support::{Client, Kinto, KintoOptions, Response, SERVICE_ACCOUNT, Sidecar, eventually};

const COLLECTION: &str = "/buckets/b/collections/c";

/// What the sidecar answers itself.
fn own_paths() -> [String; 7] {
    [
        format!("{COLLECTION}/changeset?_expected=0"),
        "/buckets/monitor/collections/changes/changeset?_expected=0".to_owned(),
        "/buckets/monitor/collections/changes/records".to_owned(),
        format!("{COLLECTION}/_changes"),
        "/_changes".to_owned(),
        format!("{COLLECTION}/"),
        "/buckets/b/history".to_owned(),
    ]
}

async fn before(kinto: &Kinto) -> Sidecar {
    let direct = kinto.client().user("alice");
    direct.put("/buckets/b").json(json!({"permissions": {"read": ["system.Everyone"]}})).await.expect(201);
    direct.put(COLLECTION).await.expect(201);
    Sidecar::start(
        kinto.url(),
        &[SERVICE_ACCOUNT, ("changes.resources", "/buckets/b"), ("sidecar.timestamps_ttl", "50ms")],
    )
}

async fn answered(client: &Client, path: &str) -> Response {
    eventually("an answer", async || {
        let answer = client.get(path).await;
        (answer.status != 503 && answer.status != 404).then_some(answer)
    })
    .await
}

#[tokio::test]
async fn backoff_is_on_every_answer_and_retry_after_on_errors_only() {
    let kinto = Kinto::start(KintoOptions::memory().setting("kinto.backoff", "17"));
    let sidecar = before(&kinto).await;
    let alice = sidecar.client().user("alice");
    for path in own_paths() {
        let answer = answered(&alice, &path).await.expect(200);
        assert_eq!(answer.header("backoff"), Some("17"), "{answer}");
        assert_eq!(answer.header("retry-after"), None, "{answer}");
    }
    for path in ["/buckets/b/collections/none/changeset?_expected=0", &format!("{COLLECTION}/changeset")] {
        let answer = alice.get(path).await;
        assert!(matches!(answer.status, 400 | 404), "{answer}");
        assert_eq!(answer.header("backoff"), Some("17"), "{answer}");
    }
    let resources =
        [SERVICE_ACCOUNT, ("changes.resources", "/buckets/b"), ("sidecar.compat", "remote-settings")];
    let readers = Sidecar::start(kinto.url(), &resources);
    for path in
        ["/", "/__broadcasts__", "/buckets/monitor/collections/changes/changeset?_expected=0", "/none"]
    {
        let answer = readers.client().request_target(http::Method::GET, &format!("/v2{path}")).await;
        assert_eq!(answer.header("backoff"), Some("17"), "{answer}");
    }
    drop(kinto);
    let outage = eventually("an outage", async || {
        let answer = alice.get("/buckets/b/collections/other/changeset?_expected=0").await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    assert_eq!(outage.header("retry-after"), Some("3"), "{outage}");
}

#[tokio::test]
async fn an_end_of_life_is_announced_and_then_is_all_there_is() {
    let date = Command::new("date").args(["-d", "+25 seconds", "+%FT%T"]).output().unwrap().stdout;
    let date = String::from_utf8(date).unwrap();
    let kinto = Kinto::start(
        KintoOptions::memory()
            .setting("kinto.eos", date.trim())
            .setting("kinto.eos_message", "It ends.")
            .setting("kinto.eos_url", "https://example.org/end"),
    );
    let sidecar = before(&kinto).await;
    let alice = sidecar.client().user("alice");
    for path in own_paths() {
        let answer = answered(&alice, &path).await.expect(200);
        let alert = answer.header("alert").unwrap_or_else(|| panic!("no alert: {answer}"));
        assert!(alert.contains("soft-eol") && alert.contains("It ends."), "{answer}");
    }
    let direct = kinto.client();
    let end = eventually("the end", async || {
        let answer = direct.get("/").await;
        (answer.status == 410).then_some(answer)
    })
    .await;
    // Whoever asks the sidecar for something new hears of it; whoever asks for what is kept, from then on.
    eventually("the end to be heard of", async || {
        let path =
            format!("{COLLECTION}/changeset?_expected=%229%22&_since=%22{}%22", u64::from(u32::MAX) << 8);
        (alice.get(&path).await.status == 410).then_some(())
    })
    .await;
    for path in own_paths() {
        for client in [&alice, &sidecar.client()] {
            let answer = client.get(&path).await.expect(410);
            assert_eq!(answer.json(), end.json());
            assert_eq!(answer.header("alert"), end.header("alert"));
        }
    }
    sidecar.client().get("/buckets/b").await.expect(410);
}
