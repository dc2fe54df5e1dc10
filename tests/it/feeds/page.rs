//! The example page in a real browser: it is told of everything, served from another origin than the feed.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Barrier};

use serde_json::json;
use tokio::sync::mpsc;

use super::World;
use crate::support::{PATIENCE, undertaker};

/// Where Chromium is. Says what is left out where it is not.
fn chromium() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = std::env::split_paths(&folders)
        .flat_map(|folder| names.map(|name| folder.join(name)))
        .find(|path| path.is_file());
    if found.is_none() {
        // Past the capture of output: what was not tested should be seen.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: Chromium is not installed, so the example page was not opened"
        );
    }
    found
}

/// What the test adds to the page: it says how many changes it was told, and is not loaded before the test lets it.
const WATCHING: &[u8] = b"<script>
    const say = () => fetch(`/told/${document.getElementById('count').textContent}`);
    new MutationObserver(say).observe(document.getElementById('count'), { childList: true });
</script><img src='/loaded'>";

/// Serves the page; gives the port, what the page says, and what lets it be loaded.
fn serve() -> (u16, mpsc::UnboundedReceiver<u64>, Arc<Barrier>) {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/feeds/live.html");
    let page = [&std::fs::read(page).unwrap(), WATCHING].concat();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (told, counts) = mpsc::unbounded_channel();
    let loaded = Arc::new(Barrier::new(2));
    let barrier = Arc::clone(&loaded);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (page, told, barrier) = (page.clone(), told.clone(), Arc::clone(&barrier));
            std::thread::spawn(move || answer(stream.unwrap(), &page, &told, &barrier));
        }
    });
    (port, counts, loaded)
}

fn answer(mut stream: TcpStream, page: &[u8], told: &mpsc::UnboundedSender<u64>, loaded: &Barrier) {
    let mut request = [0; 4096];
    let length = stream.read(&mut request).unwrap_or(0);
    let request = String::from_utf8_lossy(&request[..length]);
    let path = request.split(' ').nth(1).unwrap_or_default();
    let (status, body) =
        if path.starts_with("/live.html") { ("200 OK", page) } else { ("404 Not Found", &b""[..]) };
    if let Some(count) = path.strip_prefix("/told/") {
        let _ = told.send(count.parse().unwrap());
    }
    if path == "/loaded" {
        loaded.wait();
    }
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(body);
}

/// Waits until the page was told of so many changes.
async fn until(counts: &mut mpsc::UnboundedReceiver<u64>, number: u64) {
    let reached = async { while counts.recv().await.unwrap() < number {} };
    tokio::time::timeout(PATIENCE, reached).await.expect("the page is told");
}

#[tokio::test]
async fn the_example_page_shows_each_record_as_it_is() {
    let Some(chromium) = chromium() else { return };
    let world = World::new(&[]).await;
    for (id, text) in [("a", "one"), ("b", "two"), ("c", "three")] {
        world.write(id, json!({"text": text})).await;
    }
    world.write("a", json!({"text": "changed"})).await;
    world.delete("b").await;
    let profile = tempfile::tempdir().unwrap();
    let bucket = world.bucket.trim_start_matches("/buckets/");
    let (port, mut counts, loaded) = serve();
    let server = world.sidecar.url();
    let page = format!("http://localhost:{port}/live.html?server={server}&bucket={bucket}&collection=c");
    let command = Command::new(chromium)
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg("--dump-dom")
        .arg(page)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    undertaker::watch(&command);
    until(&mut counts, 3).await;
    // What comes while the page is open is shown, too.
    world.write("d", json!({"text": "four"})).await;
    until(&mut counts, 4).await;
    loaded.wait();
    undertaker::release(&command);
    let output = tokio::task::spawn_blocking(move || command.wait_with_output().unwrap()).await.unwrap();
    let dom = String::from_utf8(output.stdout).unwrap();
    for (id, expected) in [("a", "changed"), ("b", "deleted"), ("c", "three"), ("d", "four")] {
        let rows: Vec<&str> =
            dom.split("<tr").skip(1).filter(|row| row.contains(&format!("data-id=\"{id}\""))).collect();
        assert_eq!(rows.len(), 1, "{dom}");
        assert!(rows[0].contains(expected), "{dom}");
    }
    assert!(dom.contains("<strong id=\"count\">4</strong>"), "{dom}");
}
