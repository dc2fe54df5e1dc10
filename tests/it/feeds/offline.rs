//! The example page that copies a collection, in a real browser, served from another origin than the sidecar.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use super::World;
use crate::support::browser::Browser;
use crate::support::{Chaos, Environment, environment};

/// Serves the page and PouchDB's script until it is told that there is no network.
fn serve(listener: TcpListener, is_away: Arc<AtomicBool>) {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/offline");
    let script =
        environment(Environment::Node).node_folder().join("node_modules/pouchdb/dist/pouchdb.min.js");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            if is_away.load(Ordering::Relaxed) {
                continue;
            }
            let (page, script) = (page.clone(), script.clone());
            std::thread::spawn(move || answer(stream.unwrap(), &page, &script));
        }
    });
}

fn answer(mut stream: TcpStream, page: &Path, script: &Path) {
    let mut request = [0; 4096];
    let length = stream.read(&mut request).unwrap_or(0);
    let request = String::from_utf8_lossy(&request[..length]);
    let path = request.split(' ').nth(1).unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    let (kind, body) = match path {
        "/" => ("text/html", std::fs::read(page.join("index.html")).unwrap()),
        "/worker.js" => ("text/javascript", std::fs::read(page.join("worker.js")).unwrap()),
        "/pouchdb.min.js" => ("text/javascript", std::fs::read(script).unwrap()),
        _ => ("text/plain", Vec::new()),
    };
    let status = if body.is_empty() { "404 Not Found" } else { "200 OK" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(&body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_origin_shows_a_collection_without_a_network_and_catches_up() {
    let Some(mut browser) = Browser::start() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = format!("http://localhost:{}", listener.local_addr().unwrap().port());
    let is_away = Arc::new(AtomicBool::new(false));
    serve(listener, Arc::clone(&is_away));
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
    is_away.store(true, Ordering::Relaxed);
    browser.reload();
    browser.wait(&shows("a", "changed"));
    assert_eq!(browser.evaluate("document.getElementById('count').textContent"), "3");
    world.delete("b").await;
    world.write("d", json!({"text": "four"})).await;
    chaos.restore();
    browser.wait(&shows("d", "four"));
    assert_eq!(browser.evaluate("document.querySelector('tr[data-id=b]')"), json!(null));
}
