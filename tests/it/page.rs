//! The page on the admin listener: who is shown what, who may change something, and how it looks and works in a browser.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};

use crate::support::browser::Browser;
use crate::support::{Client, Kinto, Response, SERVICE_ACCOUNT, Sidecar, eventually, unique};

const TOKEN: (&str, &str) = ("sidecar.admin_token", "a-token-of-the-test");
const ADMIN: (&str, &str) = ("sidecar.admin_listen", "127.0.0.1:0");

/// A bucket that everybody may read, with a collection of one record.
async fn bucket() -> String {
    let bucket = format!("/buckets/{}", unique("page"));
    let direct = Kinto::shared().client().user("alice");
    direct.put(&bucket).json(json!({"permissions": {"read": ["system.Everyone"]}})).await.expect(201);
    direct.put(&format!("{bucket}/collections/c")).await.expect(201);
    direct.put(&format!("{bucket}/collections/c/records/first")).await.expect(201);
    bucket
}

fn admin(sidecar: &Sidecar) -> Client {
    Client::new(&sidecar.admin().unwrap())
}

async fn ask(client: &Client, method: Method, target: &str) -> Response {
    client.request_target(method, target).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_and_changes_are_for_who_may_and_no_secret_is_shown() {
    let bucket = bucket().await;
    let settings = [SERVICE_ACCOUNT, ADMIN, TOKEN, ("changes.resources", &*bucket)];
    let sidecar = Sidecar::start(Kinto::shared().url(), &settings);
    let changeset = format!("{bucket}/collections/c/changeset?_expected=0");
    sidecar.client().get(&changeset).await.expect(200);
    let client = admin(&sidecar);
    let state = ask(&client, Method::GET, "/page/state").await.expect(200);
    let text = state.text();
    assert!(!text.contains(TOKEN.1) && !text.contains(SERVICE_ACCOUNT.1), "{text}");
    let state = state.json();
    let name = bucket.strip_prefix("/buckets/").unwrap();
    let row = &state["collections"][0];
    assert_eq!((&row[0], &row[1]), (&json!(name), &json!("c")));
    assert!(row[2].as_u64() > Some(0) && row[4].as_u64() > Some(0), "{row}");
    let setting = |name: &str| {
        let found = state["settings"].as_array().unwrap().iter().find(|setting| setting["name"] == name);
        found.map(|setting| (setting["value"].clone(), setting["origin"].clone())).unwrap()
    };
    assert_eq!(setting("changes.resources"), (json!(bucket), json!("from --set")));
    assert_eq!(setting(TOKEN.0).0, "…");

    let query = format!("bucket={name}&collection=c");
    let purge = format!("/purge?{query}");
    ask(&client, Method::POST, &purge).await.expect(401);
    ask(&client, Method::GET, &purge).await.expect(405);
    ask(&client.with("authorization", "Bearer wrong"), Method::POST, &purge).await.expect(401);
    let shown = client.with("authorization", "Bearer a-token-of-the-test");
    ask(&shown.with("origin", "http://evil.example"), Method::POST, &purge).await.expect(403);
    ask(&shown, Method::POST, "/purge").await.expect(400);
    let reads = "kinto_sidecar_mirror_full_reads_total{reason=\"first\"}";
    let count = async || sidecar.metric(reads).await.unwrap();
    let before = count().await;
    let dropped = ask(&shown, Method::POST, &purge).await.expect(200).json();
    assert!(dropped["dropped"].as_u64() > Some(0), "{dropped}");
    sidecar.client().get(&changeset).await.expect(200);
    assert!(count().await > before, "it was read anew");

    // A name that somebody has pointed here, and a page of another site.
    ask(&client.with("host", "rebound.example"), Method::GET, "/page/state").await.expect(401);
    ask(&client.with("origin", "http://evil.example"), Method::GET, "/page/state").await.expect(403);
    ask(&client.with("sec-fetch-site", "cross-site"), Method::GET, &format!("/page/changes?{query}"))
        .await
        .expect(403);
    ask(&shown.with("host", "sidecar.example"), Method::GET, "/page/state").await.expect(200);

    let open = [SERVICE_ACCOUNT, ("sidecar.admin_listen", "0.0.0.0:0")];
    let sidecar = Sidecar::start(Kinto::shared().url(), &open);
    let client = Client::new(&sidecar.admin().unwrap().replace("0.0.0.0", "127.0.0.1"));
    ask(&client, Method::GET, "/").await.expect(200);
    ask(&client, Method::GET, "/metrics").await.expect(200);
    for target in ["/page/state", "/page/changes?bucket=a&collection=b"] {
        let refused = ask(&client, Method::GET, target).await.expect(403);
        assert!(refused.text().contains("sidecar.admin_token"), "{refused}");
    }
}

/// Opens the page, and waits until it shows something.
fn open(browser: &mut Browser, sidecar: &Sidecar) {
    browser.open(&format!("http://{}/", sidecar.admin().unwrap()));
    browser.wait("document.querySelectorAll('#rows tr').length");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_shows_a_write_within_a_second_on_a_phone_by_keyboard_and_dark() {
    let Some(mut browser) = Browser::start() else { return };
    let bucket = bucket().await;
    let settings = [SERVICE_ACCOUNT, ADMIN, TOKEN, ("changes.resources", &*bucket)];
    let sidecar = Sidecar::start(Kinto::shared().url(), &settings);
    sidecar.client().get("/buckets/monitor/collections/changes/records").await.expect(200);
    browser.show_in(390, 844, "dark");
    open(&mut browser, &sidecar);
    assert_eq!(
        browser.evaluate("document.documentElement.scrollWidth <= innerWidth"),
        true,
        "it fits a phone"
    );
    let paper = "getComputedStyle(document.body).backgroundColor";
    let dark = browser.evaluate(paper);
    browser.show_in(390, 844, "light");
    assert_ne!(browser.evaluate(paper), dark);

    // By keyboard: to the filter, on to the first collection, and into it.
    browser.evaluate("document.getElementById('filter').focus()");
    browser.press("Tab", 9);
    assert_eq!(browser.evaluate("document.activeElement.parentElement.tagName"), "TD");
    browser.press("Enter", 13);
    browser.wait("document.querySelector('#tail li')");
    assert_eq!(browser.evaluate("document.activeElement.id"), "detail-title");
    let odd = "<img src=x onerror=alert(1)>";
    let name = bucket.strip_prefix("/buckets/").unwrap();
    let alice = sidecar.client().user("alice");
    alice.put(&format!("{bucket}/collections/c/records/through")).await.expect(201);
    let took = browser
        .wait("[...document.querySelectorAll('#tail li')].some(li => li.textContent.endsWith('through'))");
    assert!(took < Duration::from_secs(1), "{took:?}");
    alice.delete(&format!("{bucket}/collections/c/records/through")).await.expect(200);
    browser.wait("document.querySelector('#tail li').textContent.endsWith('through (deleted)')");

    // Without the token nothing is dropped, and with it something is.
    browser.evaluate("document.getElementById('drop').click()");
    browser.wait("!document.getElementById('tokens').hidden");
    browser.evaluate("document.getElementById('token').value = 'a-token-of-the-test'");
    browser.evaluate("document.querySelector('#tokens button').click()");
    browser.evaluate("document.getElementById('drop').click()");
    browser.wait("document.getElementById('done').textContent.startsWith('Dropped')");
    browser.press("Escape", 27);
    browser.wait("document.getElementById('detail').hidden");

    // What others have written is shown as text.
    let shown = browser.evaluate(&format!(
        "state.troubles.unshift({{time: 1, is_error: true, words: {odd:?}}}), show(),
            document.getElementById('troubles').textContent"
    ));
    assert!(shown.as_str().unwrap().contains(odd), "{shown}");
    assert_eq!(browser.evaluate("document.querySelectorAll('img').length"), 0);
    assert_eq!(
        browser.evaluate(&format!("document.getElementById('rows').textContent.includes({name:?})")),
        true
    );
    let refused = |complaint: &String| !complaint.contains("401");
    let complaints: Vec<_> = browser.complaints().into_iter().filter(refused).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_collections_are_shown_at_once_and_found_by_name() {
    let Some(mut browser) = Browser::start() else { return };
    let bucket = bucket().await;
    let direct = Kinto::shared().client().user("alice");
    for some in (0..1000).collect::<Vec<_>>().chunks(25) {
        let path = |number: &u32| json!({"path": format!("/v1{bucket}/collections/c-{number:03}")});
        let requests: Vec<Value> = some.iter().map(path).collect();
        let batch = json!({"defaults": {"method": "PUT"}, "requests": requests});
        direct.post("/batch").json(batch).await.expect(200);
    }
    let settings = [SERVICE_ACCOUNT, ADMIN, ("changes.resources", &*bucket)];
    let sidecar = Sidecar::start(Kinto::shared().url(), &settings);
    eventually("all of them", async || {
        let state = ask(&admin(&sidecar), Method::GET, "/page/state").await.expect(200).json();
        (state["collections"].as_array().unwrap().len() == 1001).then_some(())
    })
    .await;
    open(&mut browser, &sidecar);
    browser.wait("document.getElementById('shown').textContent === '100 of 1001'");
    let begun = Instant::now();
    browser.evaluate("list()");
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    browser.evaluate("filter.value = 'C-777'; filter.dispatchEvent(new Event('input'))");
    assert_eq!(browser.evaluate("document.getElementById('shown').textContent"), "1 of 1 found");
    assert_eq!(browser.evaluate("document.querySelectorAll('#rows tr').length"), 1);
}

/// Makes the picture of the README anew where `SCREENSHOT` is set.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_readme_has_a_picture_of_the_page() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/page.png");
    if std::env::var_os("SCREENSHOT").is_none() {
        let picture = fs::read(&file).unwrap();
        assert!(picture.starts_with(b"\x89PNG") && picture.len() < 150_000, "{}", picture.len());
        return;
    }
    let Some(mut browser) = Browser::start() else { return };
    let kinto = Kinto::start(crate::support::KintoOptions::memory());
    let direct = kinto.client().user("alice");
    direct.put("/buckets/main").json(json!({"permissions": {"read": ["system.Everyone"]}})).await.expect(201);
    for collection in ["articles", "certificates", "languages", "search-config"] {
        direct.put(&format!("/buckets/main/collections/{collection}")).await.expect(201);
        direct.put(&format!("/buckets/main/collections/{collection}/records/first")).await.expect(201);
    }
    let settings = [SERVICE_ACCOUNT, ADMIN, ("changes.resources", "/buckets/main")];
    let sidecar = Sidecar::start(kinto.url(), &settings);
    for _ in 0..20 {
        sidecar.client().get("/buckets/main/collections/articles/changeset?_expected=0").await.expect(200);
    }
    browser.show_in(1000, 760, "light");
    open(&mut browser, &sidecar);
    browser.evaluate("document.querySelector('#rows button').click()");
    for record in ["a-new-article", "another"] {
        let path = format!("/buckets/main/collections/articles/records/{record}");
        sidecar.client().user("alice").put(&path).await.expect(201);
    }
    browser.wait("[...document.querySelectorAll('#tail li')].some(li => li.textContent.endsWith('another'))");
    std::thread::sleep(Duration::from_secs(3));
    browser.evaluate("scrollTo(0, 0)");
    fs::write(file, browser.screenshot()).unwrap();
}
