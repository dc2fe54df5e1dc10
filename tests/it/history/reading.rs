//! What a list of entries is to those who read it while the world goes on.

use http::Method;
use serde_json::{Value, json};

use crate::support::{Chaos, Client, Kinto, SERVICE_ACCOUNT, Sidecar, unique};

/// The entries of a page, and where the next one is.
async fn page(client: &Client, path: &str) -> (Vec<String>, Option<String>) {
    let page = client.get(path).await.expect(200);
    let next =
        page.header("next-page").map(|address| address.split_once("/v1").expect("our address").1.to_owned());
    let entries = page.data();
    let ids = entries.as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap().to_owned());
    (ids.collect(), next)
}

#[tokio::test]
async fn pages_stay_right_while_entries_arrive() {
    let sidecar = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT]);
    let bucket = format!("/buckets/{}", unique("pages"));
    let alice = sidecar.client().user("alice");
    alice.put(&bucket).await.expect(201);
    alice.put(&format!("{bucket}/collections/c")).await.expect(201);
    let write = async |n: u64| {
        let record = format!("{bucket}/collections/c/records/r{}", n % 5);
        let answer = alice.put(&record).data(json!({"n": n})).await;
        assert!(answer.status < 300, "{answer}");
    };
    for n in 0..8 {
        write(n).await;
    }
    for (sort, shows_what_arrives) in [
        ("-last_modified", false),
        ("last_modified", true),
        ("uri,-last_modified", true),
        ("-action,last_modified", true),
    ] {
        let (before, _) = page(&alice, &format!("{bucket}/history?_sort={sort}")).await;
        let mut next = Some(format!("{bucket}/history?_sort={sort}&_limit=3"));
        let mut seen = Vec::new();
        let mut n = 100;
        while let Some(path) = next {
            let (ids, following) = page(&alice, &path).await;
            seen.extend(ids);
            next = following;
            if n < 103 {
                write(n).await;
                n += 1;
            }
        }
        let mut once = seen.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), seen.len(), "{sort}: twice");
        let known: Vec<&String> = seen.iter().filter(|id| before.contains(id)).collect();
        assert_eq!(known, before.iter().collect::<Vec<_>>(), "{sort}: what was there is there, in its order");
        assert!(shows_what_arrives || seen.len() == before.len(), "{sort}");
    }
}

#[tokio::test]
async fn nobody_is_shown_a_history_while_the_upstream_cannot_say_whether_they_may() {
    let chaos = Chaos::before(Kinto::shared().url());
    let settings = [SERVICE_ACCOUNT, ("sidecar.permission_ttl", "0s")];
    let sidecar = Sidecar::start(chaos.url(), &settings);
    let bucket = format!("/buckets/{}", unique("unsaid"));
    let alice = sidecar.client().user("alice");
    alice.put(&bucket).json(json!({"permissions": {"read": ["system.Everyone"]}})).await.expect(201);
    let history = format!("{bucket}/history");
    let snapshot = format!("{bucket}/snapshot/collections/c@5");
    chaos.cut();
    for path in [&history, &snapshot] {
        for client in [&alice, &sidecar.client()] {
            let answer = client.get(path).await;
            assert!(matches!(answer.status, 502..=504), "{answer}");
            assert_eq!(answer.json()["data"], Value::Null);
        }
    }
    assert!(matches!(alice.delete(&history).await.status, 502..=504));
    chaos.restore();
    let entries = sidecar.client().get(&history).await.expect(200).data();
    assert_eq!(entries.as_array().unwrap().len(), 1);
    sidecar.client().request(Method::DELETE, &history).await.expect(401);
}

#[tokio::test]
async fn entries_of_writes_that_changed_nothing_can_be_left_out_of_the_list() {
    let sidecar = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT]);
    let bucket = format!("/buckets/{}", unique("changed"));
    let alice = sidecar.client().user("alice");
    alice.put(&bucket).await.expect(201);
    alice.put(&format!("{bucket}/collections/c")).await.expect(201);
    let record = format!("{bucket}/collections/c/records/r");
    for n in [1, 1, 1, 2, 2, 1] {
        alice.put(&record).data(json!({"n": n})).await;
    }
    let shared = json!({"permissions": {"read": ["system.Everyone"]}});
    alice.patch(&record).json(shared.clone()).await.expect(200);
    alice.patch(&record).json(shared).await.expect(200);
    let all = page(&alice, &format!("{bucket}/history")).await.0;
    assert_eq!(all.len(), 10);
    assert_eq!(page(&alice, &format!("{bucket}/history?_changed=false")).await.0, all);
    let expected: Vec<_> = [1, 2, 4, 7, 8, 9].iter().map(|place| all[*place].clone()).collect();
    let (mut seen, mut next) = (Vec::new(), Some(format!("{bucket}/history?_changed=true&_limit=2")));
    while let Some(path) = next {
        let (ids, after) = page(&alice, &path).await;
        seen.extend(ids);
        next = after;
    }
    assert_eq!(seen, expected);
    let counted = alice.request(Method::HEAD, &format!("{bucket}/history?_changed=true&record_id=r")).await;
    assert_eq!(counted.header("total-objects"), Some("4"));
    // Whoever sees some entries only is told by the same rule.
    let seen = page(&sidecar.client(), &format!("{bucket}/history?_changed=true")).await.0;
    assert_eq!(seen, expected[..1]);
    for value in ["", "1", "yes", "True", "true&_changed=x"] {
        let refused = alice.get(&format!("{bucket}/history?_changed={value}")).await.expect(400).json();
        assert_eq!((&refused["errno"], &refused["details"][0]["name"]), (&json!(107), &json!("_changed")));
    }
}

#[tokio::test]
async fn more_than_an_engine_can_take_is_the_requests_fault() {
    let sidecar = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT]);
    let bucket = format!("/buckets/{}", unique("filters"));
    let alice = sidecar.client().user("alice");
    alice.put(&bucket).await.expect(201);
    let history = |query: String| alice.get(&format!("{bucket}/history?{query}"));
    let entries = |number: usize| vec!["action=create"; number].join("&");
    assert_eq!(history(entries(100)).await.expect(200).data().as_array().unwrap().len(), 1);
    let answer = history(entries(1_100)).await.expect(400);
    assert_eq!(answer.json()["errno"], 107);
    for query in [
        vec!["uri"; 1_100].join(",").replacen("uri", "_sort=uri", 1),
        vec!["uri"; 1_100].join(",").replacen("uri", "_fields=uri", 1),
        vec!["*a*"; 1_100].join(",").replacen("*a*", "in_like_uri=*a*", 1),
    ] {
        history(query).await.expect(400);
    }
    // Long lists of what is looked for are none of these.
    let ids = vec!["x"; 10_000].join(",");
    history(format!("in_user_id={ids}")).await.expect(200);
    history(format!("exclude_uri={ids}&exclude_user_id={ids}")).await.expect(200);
    alice.delete(&format!("{bucket}/history?{}", entries(1_100))).await.expect(400);
}

#[tokio::test]
async fn a_page_that_ends_with_a_value_that_is_too_long_for_an_address_says_so() {
    let sidecar = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT]);
    let bucket = format!("/buckets/{}", unique("pages"));
    let alice = sidecar.client().user("alice");
    alice.put(&bucket).await.expect(201);
    alice.put(&format!("{bucket}/collections/c")).await.expect(201);
    for id in ["a", "b"] {
        let data = json!({"l": "x".repeat(20_000)});
        alice.put(&format!("{bucket}/collections/c/records/{id}")).data(data).await.expect(201);
    }
    let history = format!("{bucket}/history?resource_name=record&_sort=target.data.l");
    let refused = alice.get(&format!("{history}&_limit=1")).await.expect(400);
    assert!(refused.json()["message"].as_str().unwrap().contains("too long to lead to the next one"));
    let whole = alice.get(&format!("{history}&_limit=2")).await.expect(200);
    assert_eq!((whole.data().as_array().unwrap().len(), whole.header("next-page")), (2, None));
}
