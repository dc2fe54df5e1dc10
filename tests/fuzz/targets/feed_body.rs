//! The body of a `POST _changes`: a line with its `Content-Encoding`, then the body.
//!
//! What is taken is an object, and the same one where the client compresses it.

#![no_main]

use std::io::Write;
use std::sync::LazyLock;

use http::request::Parts;
use kinto_sidecar::wire::body::Body;
use kinto_sidecar::wire::buffers::Buffers;
use kinto_sidecar::error::Error;
use kinto_sidecar::endpoints::feed::body;
use kinto_sidecar::settings::Settings;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

/// What is long or compressed is read on another thread.
static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(1).build().expect("threads start"));

fuzz_target!(|input: &[u8]| {
    let line = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (coding, body) = input.split_at(line);
    let body = body.strip_prefix(b"\n").unwrap_or(body);
    let Some(parts) = parts(coding) else { return };
    let Ok(Some(read)) = outcome(&parts, body.to_vec()) else { return };
    assert!(read.is_object());

    if let Ok(plain) = serde_json::to_vec(&read) {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(1));
        gzip.write_all(&plain).and_then(|()| gzip.flush()).expect("memory takes it");
        let gzip = gzip.finish().expect("memory takes it");
        let parts = self::parts(b"gzip").expect("it is a header's value");
        assert_eq!(outcome(&parts, gzip).ok().flatten().as_ref(), Some(&read));
    }
});

fn parts(coding: &[u8]) -> Option<Parts> {
    let request = http::Request::post("/").header("content-type", "application/json");
    Some(request.header("content-encoding", coding).body(()).ok()?.into_parts().0)
}

fn outcome(parts: &Parts, body: Vec<u8>) -> Result<Option<Value>, Error> {
    let mut settings = Settings::default();
    settings.limits.buffered_bytes = usize::MAX;
    let mut hold = Buffers::new(settings.into()).hold(None);
    RUNTIME.block_on(body::read(parts, Body::full(body), usize::MAX, &mut hold))
}
