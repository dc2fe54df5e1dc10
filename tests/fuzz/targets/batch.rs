//! The body of a `POST /batch`, answered by a sidecar before an upstream that takes every batch.
//!
//! Each sub-request is answered in its place, by the sidecar or by the upstream and never by both; those of the upstream
//! go up as they came and in their order. A body that is no batch is refused, or goes up to the byte.

#![no_main]

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use http::{Request, StatusCode};
use kinto_sidecar::wire::body::read_limited;
use kinto_sidecar::endpoints::batch;
use kinto_sidecar::route::Route;
use kinto_sidecar::wire::peer::Peer;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use support::{Answer, Heard, Kinto, Sidecar};

const MARK: &str = "x-fuzz";

struct Bench {
    sidecar: Sidecar,
    peer: Peer,
    /// The body of the batch that went up.
    sent: Arc<Mutex<Option<Vec<u8>>>>,
}

fuzz_target!(|body: &[u8]| {
    static BENCH: OnceLock<Bench> = OnceLock::new();
    let Bench { sidecar, peer, sent } = BENCH.get_or_init(bench);
    let sent = || sent.lock().unwrap_or_else(PoisonError::into_inner).take();
    sent();
    let request = Request::post("/v1/batch").header("host", "h").header(MARK, "1");
    let request = request.header("content-type", "application/json").body(()).expect("it is well formed");
    let (parts, ()) = request.into_parts();
    let answered = sidecar.runtime.block_on(async {
        let hold = sidecar.core.app.buffers.hold(None);
        let answer = batch::answer(&sidecar.core, parts, Bytes::copy_from_slice(body), peer, hold).await.ok()?;
        let (parts, body) = answer.into_parts();
        Some((parts.status, read_limited(body, usize::MAX).await.ok()?))
    });
    let settings = &sidecar.core.app.settings;
    let is_own = |request: &&Value| {
        let path = request["path"].as_str().unwrap_or_default();
        let path = if path.starts_with("/v1") { path.to_owned() } else { format!("/v1{path}") };
        let path = path.split_once('?').map_or(&*path, |(path, _)| path);
        matches!(Route::of(path, settings), Route::Own(_))
    };
    let up = sent();
    let read: Option<Value> = serde_json::from_slice(body).ok();
    if read.is_none() && up.as_deref() != Some(body) {
        // It is read only as far as it has to be, and may hold what serde_json does not take for a text or a number.
        return;
    }
    let requests = read.as_ref().and_then(|read| read["requests"].as_array());
    let Some(up) = up else {
        // Nothing of the upstream's was in it, or it was refused here.
        let is_all_own = requests
            .is_some_and(|requests| requests.iter().all(|request| has_default(&read) || is_own(&request)));
        let is_refused = answered.as_ref().is_none_or(|(status, _)| !status.is_success());
        return assert!(is_all_own || is_refused, "nobody answered it");
    };
    if up == body {
        return;
    }
    let up: Value = serde_json::from_slice(&up).expect("what was made anew is JSON");
    let requests = requests.expect("what is no batch goes up to the byte");
    let defaults = |batch: &Value| batch.get("defaults").filter(|defaults| !defaults.is_null()).cloned();
    assert_eq!(defaults(&up), read.as_ref().and_then(defaults));
    if !has_default(&read) {
        let theirs: Vec<&Value> = requests.iter().filter(|request| !is_own(request)).collect();
        assert_eq!(up["requests"].as_array().map(|requests| requests.iter().collect()), Some(theirs));
    }
    if let Some((StatusCode::OK, answered)) = answered {
        let answered: Value = serde_json::from_slice(&answered).expect("an answer is JSON");
        assert_eq!(answered["responses"].as_array().map(Vec::len), Some(requests.len()));
    }
});

/// Whether sub-requests may have their paths from elsewhere.
fn has_default(batch: &Option<Value>) -> bool {
    batch.as_ref().is_some_and(|batch| batch.pointer("/defaults/path").is_some())
}

fn bench() -> Bench {
    let sent: Arc<Mutex<Option<Vec<u8>>>> = Arc::default();
    let noted = Arc::clone(&sent);
    let kinto = Kinto::start(move |heard| {
        if heard.only(MARK).is_none() || heard.target != "/v1/batch" {
            return Answer { status: 404, body: b"{}".to_vec(), ..Answer::default() };
        }
        *noted.lock().unwrap_or_else(PoisonError::into_inner) = Some(heard.body.clone());
        Answer { status: 200, body: responses(heard).to_string().into(), ..Answer::default() }
    });
    let sidecar = Sidecar::before(&kinto, &["changes.resources=/buckets/a", "batch_max_requests=5"]);
    let peer = Peer::new(None, false, &sidecar.core.app.settings);
    Bench { sidecar, peer, sent }
}

fn responses(heard: &Heard) -> Value {
    let batch: Value = serde_json::from_slice(&heard.body).unwrap_or_default();
    let requests = batch["requests"].as_array().map(Vec::as_slice).unwrap_or_default();
    let respond = |request: &Value| json!({"status": 200, "path": request["path"].as_str().unwrap_or("/v1/"), "body": {}, "headers": {}});
    json!({"responses": requests.iter().map(respond).collect::<Vec<_>>()})
}
