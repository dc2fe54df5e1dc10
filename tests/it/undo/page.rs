//! The example page in a real browser, served from another origin: what changed is shown, undone, and brought back.

use std::path::Path;

use serde_json::json;

use super::{World, user_id};
use crate::support::browser::Browser;
use crate::support::pages::Pages;
use crate::support::{Kinto, Recorder, SERVICE_ACCOUNT, Sidecar, unique};

/// Opens the page for a bucket, and connects as alice.
fn open(browser: &mut Browser, pages: &Pages, world: &World) {
    let bucket = world.bucket.strip_prefix("/buckets/").unwrap();
    browser.open(&format!("{}/?server={}&bucket={bucket}", pages.origin(), world.sidecar.url()));
    browser.wait("document.getElementById('server')?.value");
    fill(browser, "user", "alice");
    fill(browser, "password", "secret");
    browser.evaluate("document.getElementById('password').focus()");
    browser.press("Enter", 13);
    browser.wait("document.activeElement.id === 'bucket'");
}

fn fill(browser: &mut Browser, id: &str, text: &str) {
    browser.evaluate(&format!("document.getElementById({id:?}).value = {text:?}"));
}

/// Waits until an element shows this text.
fn wait_for(browser: &mut Browser, id: &str, text: &str) {
    browser.wait(&format!("document.getElementById({id:?}).textContent.includes({text:?})"));
}

/// What an element of the list or of the preview says.
fn text(browser: &mut Browser, selector: &str) -> String {
    let text = browser.evaluate(&format!("document.querySelector({selector:?})?.textContent ?? ''"));
    text.as_str().unwrap().to_owned()
}

/// Clicks on what a selector finds.
fn click(browser: &mut Browser, selector: &str) {
    browser.evaluate(&format!("document.querySelector({selector:?}).click()"));
}

/// Has the page begin at a moment, and shows what changed since.
fn show_since(browser: &mut Browser, moment: u64) {
    let local = format!("new Date({moment} - new Date({moment}).getTimezoneOffset() * 60000)");
    browser.evaluate(&format!("document.getElementById('from').value = {local}.toISOString().slice(0, 23)"));
    click(browser, "[value=changes]");
    wait_for(browser, "status", "shown.");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_shown_undone_and_brought_back_on_a_phone_by_keyboard_and_dark() {
    let Some(mut browser) = Browser::start() else { return };
    let pages = Pages::serve(&[Path::new("examples/undo")]);
    let world = World::new("undo-page").await;
    let (alice, bob) = (&world.alice, world.sidecar.client().user("bob"));
    let (alices, bobs) = (user_id(alice).await, user_id(&bob).await);
    alice.patch(&world.bucket).json(json!({"permissions": {"write": [bobs]}})).await.expect(200);
    for id in ["first", "second", "third"] {
        alice.put(&world.record(id)).data(json!({"title": "old", "kept": 1})).await.expect(201);
    }
    let (from, before) = (world.now().await, world.state().await);
    let odd = "<img src=x onerror=alert(1)>";
    alice.put(&world.record("first")).data(json!({"title": odd, "kept": 1})).await.expect(200);
    alice.put(&world.record("second")).data(json!({"title": "hers", "kept": 1})).await.expect(200);
    bob.put(&world.record("second")).data(json!({"title": "his", "kept": 1})).await.expect(200);

    browser.show_in(390, 844, "dark");
    open(&mut browser, &pages, &world);
    let paper = "getComputedStyle(document.body).backgroundColor";
    let dark = browser.evaluate(paper);
    browser.show_in(390, 844, "light");
    assert_ne!(browser.evaluate(paper), dark);
    // Enter shows what changed within a day: all of it.
    browser.press("Enter", 13);
    wait_for(&mut browser, "rows", "c/third");
    show_since(&mut browser, from);
    let rows = text(&mut browser, "#rows");
    assert!(rows.contains("c/first") && rows.contains(odd) && !rows.contains("third"), "{rows}");
    assert!(!rows.contains("kept"), "only what differs: {rows}");
    assert_eq!(browser.evaluate("document.querySelectorAll('img').length"), 0);
    assert_eq!(
        browser.evaluate("document.documentElement.scrollWidth <= innerWidth"),
        true,
        "it fits a phone"
    );

    // What alice did is a conflict where bob changed it since. All by keyboard: chosen, looked at, written.
    fill(&mut browser, "author", &alices);
    show_since(&mut browser, from);
    assert_eq!(text(&mut browser, "#rows .conflict"), "it was changed since");
    browser.evaluate("document.getElementById('all').focus()");
    browser.press(" ", 32);
    wait_for(&mut browser, "undo", "Undo 2");
    browser.press("Tab", 9);
    browser.press("Enter", 13);
    wait_for(&mut browser, "do", "Write 1");
    wait_for(&mut browser, "outcome", "1 will be written, 1 left alone");
    assert_eq!(world.state().await["first"]["title"], odd, "nothing is written yet");
    fill(&mut browser, "reason", "a slip");
    browser.evaluate("document.getElementById('do').focus()");
    browser.press("Enter", 13);
    wait_for(&mut browser, "do", "Written");
    assert_eq!(world.state().await["first"], before["first"]);
    click(&mut browser, "#overwrite");
    wait_for(&mut browser, "do", "Write 1");
    click(&mut browser, "#do");
    wait_for(&mut browser, "do", "Written");
    assert_eq!(world.state().await, before);
    let reasons = alice.get(&format!("{}?reason=a%20slip", world.history())).await.expect(200).data();
    assert_eq!(reasons.as_array().unwrap().len(), 2);
    browser.press("Escape", 27);
    browser.wait("!document.getElementById('preview').open");

    // The bin.
    bob.delete(&world.record("third")).await.expect(200);
    // More than a page of what was deleted since is there again.
    let groups = format!("{}/groups", world.bucket);
    let make = |id: usize| json!({"path": format!("{groups}/{id}"), "body": {"data": {"members": []}}});
    for is_again in [false, true] {
        for first in [0, 25, 50] {
            let requests: Vec<_> = (first..first + 25).map(make).collect();
            let batch = json!({"defaults": {"method": "PUT"}, "requests": requests});
            alice.post("/batch").json(batch).await.expect(200);
        }
        if !is_again {
            alice.delete(&groups).await.expect(200);
        }
    }
    fill(&mut browser, "author", "");
    click(&mut browser, "[value=bin]");
    wait_for(&mut browser, "rows", "c/third");
    click(&mut browser, "#rows input");
    wait_for(&mut browser, "undo", "Bring back 1");
    click(&mut browser, "#undo");
    wait_for(&mut browser, "do", "Write 1");
    click(&mut browser, "#do");
    wait_for(&mut browser, "do", "Written");
    assert_eq!(world.state().await, before);
    click(&mut browser, "#close");
    wait_for(&mut browser, "status", "Nothing was deleted.");

    // Credentials are nowhere but in memory.
    let kept = browser.evaluate("localStorage.length + sessionStorage.length + document.cookie.length");
    assert_eq!((kept, browser.evaluate("location.href.includes('secret')")), (json!(0), json!(false)));
    assert!(browser.complaints().is_empty(), "{:?}", browser.complaints());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_is_said_and_a_token_is_sent_as_one() {
    let Some(mut browser) = Browser::start() else { return };
    let pages = Pages::serve(&[Path::new("examples/undo")]);
    let recorder = Recorder::before(Kinto::shared().url());
    let sidecar = Sidecar::start(recorder.url(), &[SERVICE_ACCOUNT]);
    let alice = sidecar.client().user("alice");
    let world = World { sidecar, bucket: format!("/buckets/{}", unique("page-refused")), alice };
    world.alice.put(&world.bucket).await.expect(201);
    open(&mut browser, &pages, &world);
    fill(&mut browser, "bucket", "nobody's");
    click(&mut browser, "[value=changes]");
    wait_for(&mut browser, "status", "403: ");
    fill(&mut browser, "scheme", "bearer");
    browser.evaluate("document.getElementById('scheme').dispatchEvent(new Event('change'))");
    assert_eq!(browser.evaluate("document.getElementById('token').offsetParent !== null"), true);
    fill(&mut browser, "token", "a-token");
    click(&mut browser, "#who button");
    wait_for(&mut browser, "status", "does not know these credentials");
    assert_eq!(
        recorder.count(|request| request
            .headers
            .get("authorization")
            .is_some_and(|sent| sent == "Bearer a-token")),
        1
    );
    fill(&mut browser, "server", "http://127.0.0.1:9/v1");
    click(&mut browser, "#who button");
    wait_for(&mut browser, "status", "127.0.0.1:9 does not answer");
}
