//! Who sees what.

use http::Method;
use serde_json::{Value, json};

use super::world::{BUCKET, Side, USERS, World, id_of};
use crate::parity::ask::Ask;
use crate::support::{Kinto, Recorder, SERVICE_ACCOUNT, Sidecar, eventually, unique};

fn history(user: Option<&'static str>, query: &str) -> Ask {
    let ask = Ask::get(&format!("{BUCKET}/history{query}"));
    user.map_or(ask.clone(), |user| ask.by(user))
}

#[tokio::test]
async fn everybody_sees_what_the_plugin_shows_them() {
    for world in World::on_each_engine().await {
        everybody_sees_the_same(world).await;
    }
}

async fn everybody_sees_the_same(world: &World) {
    for query in ["", "?_limit=2", "?resource_name=collection", "?_limit=x", "?unknown=1", "?_since=0"] {
        world.assert_same(USERS.map(|user| history(user, query))).await;
    }
    let heads = USERS.map(|user| {
        let ask = Ask::new(Method::HEAD, &format!("{BUCKET}/history"));
        user.map_or(ask.clone(), |user| ask.by(user))
    });
    world.assert_same(heads).await;
    let strange =
        ["", "Basic x", "Frobnicate x"].map(|value| history(None, "").header("Authorization", value));
    world.assert_same(strange).await;
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_nobodys() {
    let world = World::shared().await;
    for method in [Method::GET, Method::HEAD, Method::DELETE] {
        for path in ["/buckets/nosuch/history", "/buckets/nosuch/history?_limit=x"] {
            let ask = Ask::new(method.clone(), path);
            world.assert_same([ask.clone(), ask.clone().by("owner"), ask.by("stranger")]).await;
        }
    }
}

/// What a user sees: action and URI of each entry, oldest first; the status where it is an error.
async fn seen(side: &Side, user: &str) -> Result<Vec<String>, u16> {
    let answer = side.client.user(user).get(&format!("{BUCKET}/history?_sort=last_modified")).await;
    if answer.status != 200 {
        return Err(answer.status);
    }
    let name =
        |entry: &Value| format!("{} {}", entry["action"].as_str().unwrap(), entry["uri"].as_str().unwrap());
    Ok(answer.data().as_array().unwrap().iter().map(name).collect())
}

async fn assert_all_see_the_same(world: &World) {
    for user in USERS.into_iter().flatten() {
        assert_eq!(seen(&world.sidecar, user).await, seen(&world.plugin, user).await, "{user}");
    }
}

#[tokio::test]
async fn entries_keep_the_readers_that_they_had_when_they_were_made() {
    let world = World::start(&[]).await;
    let collection = format!("{BUCKET}/collections/c");
    let record = format!("{collection}/records/r");
    let nobody = json!({"permissions": {"read": []}});
    world.write("owner", |client| client.patch(&collection).json(nobody.clone())).await;
    world.write("owner", |client| client.put(&record).data(json!({"n": 10}))).await;
    assert_all_see_the_same(&world).await;

    let stranger = id_of(&world.sidecar.client, "stranger").await;
    let strangers = json!({"permissions": {"read": [stranger]}});
    world.write("owner", |client| client.patch(&collection).json(strangers.clone())).await;
    assert_all_see_the_same(&world).await;
    world.write("owner", |client| client.put(&record).data(json!({"n": 11}))).await;
    assert_all_see_the_same(&world).await;

    world.write("owner", |client| client.delete(&record)).await;
    world.write("owner", |client| client.delete(&collection)).await;
    assert_all_see_the_same(&world).await;

    // In a bucket, a right that is taken away is gone for the past, too.
    let nobody = json!({"permissions": {"read": [], "collection:create": []}});
    world.write("owner", |client| client.patch(BUCKET).json(nobody.clone())).await;
    assert_all_see_the_same(&world).await;
}

#[tokio::test]
async fn a_bucket_takes_its_history_along() {
    let world = World::start(&[]).await;
    world.write("owner", |client| client.delete(BUCKET)).await;
    assert_all_see_the_same(&world).await;
    world.write("owner", |client| client.put(BUCKET)).await;
    assert_all_see_the_same(&world).await;
}

#[tokio::test]
async fn without_explicit_permissions_only_the_buckets_readers_see_anything() {
    let world = World::start(&[("explicit_permissions", "false")]).await;
    assert_all_see_the_same(&world).await;
}

#[tokio::test]
async fn readers_of_all_histories_see_them() {
    let stranger = id_of(&World::shared().await.sidecar.client, "stranger").await;
    let world = World::start(&[("history_read_principals", stranger.as_str().unwrap())]).await;
    world.assert_same(USERS.map(|user| history(user, ""))).await;
    world.assert_same([history(Some("stranger"), "?_limit=x")]).await;
    let nowhere = Ask::get("/buckets/nosuch/history").by("stranger");
    assert_eq!(world.sidecar.ask(&nowhere).await.data(), world.plugin.ask(&nowhere).await.data());
    let purge = Ask::new(Method::DELETE, &format!("{BUCKET}/history"));
    world.assert_same([purge.by("stranger")]).await;
}

#[tokio::test]
async fn everybody_has_a_default_history() {
    let world = World::shared().await;
    let default = "/buckets/default/history";
    for side in [&world.plugin, &world.sidecar] {
        let newcomer = side.client.user("newcomer");
        // To look is enough to make the bucket; the plugin shows that from the next time on.
        newcomer.get(default).await.expect(200);
        let first = newcomer.get(default).await.expect(200).data();
        let bucket = newcomer.get("/").await.json()["user"]["bucket"].as_str().unwrap().to_owned();
        assert_eq!(first[0]["uri"], format!("/buckets/{bucket}"));
        assert_eq!((first.as_array().unwrap().len(), &first[0]["action"]), (1, &json!("create")));
        newcomer.get("/buckets/default/collections/read").await.expect(200);
        newcomer.put("/buckets/default/collections/written/records/r").await.expect(201);
        let page = newcomer.get(&format!("{default}?_limit=2&_sort=last_modified")).await.expect(200);
        let next = page.header("next-page").unwrap();
        let path = format!("http://www.example.org/v1/buckets/{bucket}/history?");
        assert!(next.starts_with(&path), "{next}");
        let uris = |page: &Value| {
            let uris = page.as_array().unwrap().iter().map(|entry| entry["uri"].as_str().unwrap());
            uris.map(|uri| uri.replace(&bucket, "mine")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(uris(&page.data()), "/buckets/mine /buckets/mine/collections/read");
        let all = newcomer.get(&format!("/buckets/{bucket}/history?_sort=last_modified")).await.expect(200);
        assert_eq!(
            uris(&all.data()),
            "/buckets/mine /buckets/mine/collections/read /buckets/mine/collections/written \
             /buckets/mine/collections/written/records/r"
        );
        let purged = newcomer.delete(&format!("{default}?_limit=1")).await.expect(200).data();
        assert_eq!(purged[0]["deleted"], true);
        let left = newcomer.get(default).await.expect(200).data();
        assert_eq!(left.as_array().unwrap().len(), 3);
    }
    let anonymous = [Method::GET, Method::DELETE, Method::POST].map(|method| Ask::new(method, default));
    world.assert_same(anonymous).await;
    world
        .assert_same([
            Ask::get(&format!("{default}?_limit=x")).by("newcomer"),
            Ask::new(Method::POST, default).by("newcomer"),
        ])
        .await;
}

#[tokio::test]
async fn what_was_written_elsewhere_is_seen_by_those_who_may_read_it_now() {
    let world = World::start_with(
        &[],
        &[("sidecar.timestamps_ttl", "50ms"), ("sidecar.poll_budget", "100%"), ("sidecar.overlap", "1s")],
    )
    .await;
    // Past the sidecar, where nobody tells it of permissions.
    let direct = world.past_the_sidecar().user("owner");
    let secret = format!("{BUCKET}/collections/7/records/secret");
    let open = format!("{BUCKET}/collections/public/records/open");
    direct.put(&secret).data(json!({"n": 1})).await.expect(201);
    direct.put(&open).data(json!({"n": 2})).await.expect(201);
    let find = |entries: &[String], uri: &str| entries.iter().any(|entry| entry.ends_with(uri));
    eventually("the owner sees both", async || {
        let entries = seen(&world.sidecar, "owner").await.unwrap();
        (find(&entries, &secret) && find(&entries, &open)).then_some(())
    })
    .await;
    let strangers = seen(&world.sidecar, "stranger").await.unwrap();
    assert!(find(&strangers, &open) && !find(&strangers, &secret), "{strangers:?}");
}

#[tokio::test]
async fn what_is_shared_of_what_was_there_first_is_asked_for_at_once() {
    let bucket = format!("/buckets/{}", unique("shared"));
    let collection = format!("{bucket}/collections/c");
    let kinto = Kinto::shared();
    let direct = kinto.client().user("owner");
    direct.put(&bucket).await.expect(201);
    direct.put(&collection).await.expect(201);
    let stranger = id_of(&kinto.client(), "stranger").await;
    for n in 0..20 {
        let readers = if n == 7 { json!([stranger]) } else { json!([]) };
        let body = json!({"data": {"n": n}, "permissions": {"read": readers}});
        direct.put(&format!("{collection}/records/r{n}")).json(body).await.expect(201);
    }
    let recorder = Recorder::before(kinto.url());
    let settings = [SERVICE_ACCOUNT, ("history.resources", &*bucket), ("history.backfill", "current")];
    let sidecar = Sidecar::start(recorder.url(), &settings);
    let entries = async |user: &str| {
        let answer = sidecar.client().user(user).get(&format!("{bucket}/history?_sort=uri")).await;
        answer.json()["data"].as_array().cloned().unwrap_or_default()
    };
    eventually("all that was there first", async || (entries("owner").await.len() == 22).then_some(())).await;
    recorder.clear();
    let seen = entries("stranger").await;
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0]["record_id"], "r7");
    let of_records = recorder.count(|request| request.path().contains("/records/r"));
    assert_eq!(of_records, 0);
}
