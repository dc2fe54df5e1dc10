//! The example page that copies a collection, in a real browser, served from another origin than the sidecar.

use std::path::Path;

use serde_json::json;

use super::World;
use crate::support::browser::Browser;
use crate::support::pages::Pages;
use crate::support::{Chaos, Environment, environment};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_origin_shows_a_collection_without_a_network_and_catches_up() {
    let Some(mut browser) = Browser::start() else { return };
    let scripts = environment(Environment::Node).node_folder().join("node_modules/pouchdb/dist");
    let pages = Pages::serve(&[Path::new("examples/offline"), &scripts]);
    let origin = pages.origin();
    let world = World::new(&[("cors_origins", &origin)]).await;
    let chaos = Chaos::before(world.sidecar.url());
    for (id, text) in [("a", "one"), ("b", "two"), ("c", "three")] {
        world.write(id, json!({"text": text})).await;
    }
    let bucket = world.bucket.trim_start_matches("/buckets/");
    browser.open(&format!("{origin}/?server={}&bucket={bucket}&collection=c", chaos.url()));
    browser.wait("document.querySelector('#account button:enabled')");
    browser.evaluate("document.getElementById('name').value = 'alice'");
    browser.evaluate("document.getElementById('password').value = 'secret'");
    browser.evaluate("document.querySelector('#account button').click()");
    let shows = |id: &str, text: &str| {
        format!("document.querySelector('tr[data-id={id}]')?.textContent.includes('\"{text}\"')")
    };
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
