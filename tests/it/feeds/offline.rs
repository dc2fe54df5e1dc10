//! The example page that copies a collection, in a real browser, served from another origin than the sidecar.

use std::path::Path;

use serde_json::json;

use super::World;
use crate::support::browser::Browser;
use crate::support::pages::Pages;
use crate::support::stub::Stub;
use crate::support::{Chaos, Environment, environment};

/// A browser, the page for it, and a sidecar that lets it read; `None` without a browser.
async fn page() -> Option<(Browser, Pages, World)> {
    let browser = Browser::start()?;
    let scripts = environment(Environment::Node).node_folder().join("node_modules/pouchdb/dist");
    let pages = Pages::serve(&[Path::new("examples/offline"), &scripts]);
    let world = World::new(&[("cors_origins", &pages.origin())]).await;
    Some((browser, pages, world))
}

/// Has the page ask as alice.
fn log_in(browser: &mut Browser) {
    browser.wait("document.querySelector('#account button:enabled')");
    browser.evaluate("document.getElementById('name').value = 'alice'");
    browser.evaluate("document.getElementById('password').value = 'secret'");
    browser.evaluate("document.querySelector('#account button').click()");
}

/// That the page shows a record with this text.
fn shows(id: &str, text: &str) -> String {
    format!("document.querySelector('tr[data-id={id}]')?.textContent.includes('\"{text}\"')")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_origin_shows_a_collection_without_a_network_and_catches_up() {
    let Some((mut browser, pages, world)) = page().await else { return };
    let origin = pages.origin();
    let chaos = Chaos::before(world.sidecar.url());
    for (id, text) in [("a", "one"), ("b", "two"), ("c", "three")] {
        world.write(id, json!({"text": text})).await;
    }
    let bucket = world.bucket.trim_start_matches("/buckets/");
    browser.open(&format!("{origin}/?server={}&bucket={bucket}&collection=c", chaos.url()));
    log_in(&mut browser);
    browser.wait(&shows("c", "three"));
    world.write("a", json!({"text": "changed"})).await;
    browser.wait(&shows("a", "changed"));
    browser.wait("navigator.serviceWorker.controller");

    chaos.cut();
    pages.take_away();
    browser.reload();
    browser.wait(&shows("a", "changed"));
    assert_eq!(browser.evaluate("document.getElementById('count').textContent"), "3");
    world.delete("b").await;
    world.write("d", json!({"text": "four"})).await;
    chaos.restore();
    browser.wait(&shows("d", "four"));
    assert_eq!(browser.evaluate("document.querySelector('tr[data-id=b]')"), json!(null));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_sends_a_password_only_to_the_server_for_which_it_was_entered() {
    let Some((mut browser, pages, world)) = page().await else { return };
    let origin = pages.origin();
    world.write("a", json!({"text": "one"})).await;
    let bucket = world.bucket.trim_start_matches("/buckets/");
    let own = format!("{origin}/?server={}&bucket={bucket}&collection=c", world.sidecar.url());
    browser.open(&own);
    log_in(&mut browser);
    browser.wait(&shows("a", "one"));

    let other = Stub::answering(format!(
        "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: {origin}\r\nAccess-Control-Allow-Credentials: true\r\n\
         Access-Control-Allow-Headers: authorization, content-type\r\nContent-Length: 2\r\n\r\n{{}}"
    ));
    browser.open(&format!("{origin}/?server={}&bucket={bucket}&collection=c", other.url()));
    loop {
        let seen = other.next();
        assert!(seen.header("authorization").is_empty(), "{}", seen.line());
        let asked = seen.header("access-control-request-headers").concat();
        assert!(!asked.contains("authorization"), "{asked}");
        if seen.line().starts_with("GET ") {
            break;
        }
    }
    assert_eq!(browser.evaluate("document.getElementById('server').textContent"), other.url());

    world.write("b", json!({"text": "two"})).await;
    browser.open(&own);
    browser.wait(&shows("b", "two"));

    let mut name = |collection: &str| {
        browser.open(&format!("{origin}/?server={}&collection={collection}", other.url()));
        browser.wait("document.querySelector('#account button:enabled')");
        browser.evaluate("copy.name")
    };
    assert_ne!(name("a-b"), name("a_b"));
}
