//! The example page in a real browser: it is told of everything, served from another origin than the feed.

use std::path::Path;

use serde_json::json;

use super::World;
use crate::support::browser::Browser;
use crate::support::pages::Pages;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_page_shows_each_record_as_it_is() {
    let Some(mut browser) = Browser::start() else { return };
    let pages = Pages::serve(&[Path::new("examples/feeds")]);
    let world = World::new(&[]).await;
    for (id, text) in [("a", "one"), ("b", "two"), ("c", "three")] {
        world.write(id, json!({"text": text})).await;
    }
    world.write("a", json!({"text": "changed"})).await;
    world.delete("b").await;
    let bucket = world.bucket.trim_start_matches("/buckets/");
    let (page, server) = (pages.origin(), world.sidecar.url());
    browser.open(&format!("{page}/live.html?server={server}&bucket={bucket}&collection=c"));
    let count = |number: u64| format!("document.getElementById('count')?.textContent === '{number}'");
    browser.wait(&count(3));
    // What comes while the page is open is shown, too.
    world.write("d", json!({"text": "four"})).await;
    browser.wait(&count(4));
    for (id, expected) in [("a", "changed"), ("b", "deleted"), ("c", "three"), ("d", "four")] {
        let rows = format!("Array.from(document.querySelectorAll('tr[data-id={id}]'), row => row.outerHTML)");
        let rows = browser.evaluate(&rows);
        assert_eq!(rows.as_array().unwrap().len(), 1, "{id}: {rows}");
        assert!(rows[0].as_str().unwrap().contains(expected), "{id}: {rows}");
    }
}
