//! What the upstream answers: lists of records as mirrors read them, answers to writes, and the root view.
//!
//! What is served of a list is JSON, and the same rows with the same values; an answer to a write says the same to the
//! timeline and to the history; and to the root view only the sidecar's own is added.

#![no_main]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use kinto_sidecar::endpoints::root;
use kinto_sidecar::kinto::Timestamp;
use kinto_sidecar::mirror::content::{Content, Update};
use kinto_sidecar::upstream::kinto::{Metadata, Source};
use kinto_sidecar::writes::answer::Answer as Reading;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use support::{Answer, Kinto, Sidecar};

const NOW: Timestamp = Timestamp(10);

struct Bench {
    sidecar: Sidecar,
    body: Arc<Mutex<Vec<u8>>>,
}

fuzz_target!(|body: &[u8]| {
    static BENCH: OnceLock<Bench> = OnceLock::new();
    let Bench { sidecar, body: told } = BENCH.get_or_init(bench);
    written(body);
    described(body, sidecar);
    *told.lock().unwrap_or_else(PoisonError::into_inner) = body.to_vec();
    let source = Source::new(sidecar.core.upstream.clone());
    let mut pages = source.pages("/buckets/a/collections/b/records");
    let Ok(page) = sidecar.runtime.block_on(pages.first()) else { return };
    assert!(page.timestamp == NOW && !pages.has_next());
    // What is read only as far as it has to be may hold what serde_json does not take for a text or a number.
    let Ok(read) = serde_json::from_slice::<Value>(body) else { return };
    let read: Vec<&Value> =
        read["data"].as_array().expect("it was read").iter().filter(|row| is_row(row)).collect();
    assert_eq!(read.len(), page.rows.len());

    // Of two rows with one id, the last counts.
    let expected: BTreeMap<&str, &Value> =
        read.iter().map(|row| (row["id"].as_str().unwrap_or_default(), *row)).collect();
    let metadata = Metadata { json: Bytes::from_static(b"{}"), last_modified: Timestamp(1) };
    let update = Update { rows: page.rows, ..Update::default() };
    let content = Content::new(metadata.clone(), NOW, None, update);
    // What else is alive is for the upstream to tell.
    let live = |row: &&&Value| {
        let members = row.as_object().map_or(0, serde_json::Map::len);
        row["deleted"] != Value::Bool(true) || row.get("last_modified").is_none() || members > 3
    };
    assert_eq!(served(&content.all(None)).len(), expected.values().filter(live).count());
    assert_eq!(content.live(), expected.values().filter(live).count());

    let since = |content: &Content, since| {
        let selection = content.since(since, None, Duration::ZERO);
        served(&content.chunks(&selection))
    };
    let newer = since(&content, Timestamp::ZERO);
    for row in &newer {
        assert_eq!(Some(&row), expected.get(row["id"].as_str().unwrap_or_default()));
    }
    assert_eq!(newer.len(), expected.values().filter(|row| is_above_zero(&row["last_modified"])).count());
    // All of them vanish: a reader who had them is told of each live one.
    let gone = Content::new(metadata, Timestamp(11), Some(&content), Update::default());
    assert_eq!((gone.live(), since(&gone, NOW).len()), (0, content.live()));
});

/// Whether a row can be one of Kinto's: others are left out.
fn is_row(row: &Value) -> bool {
    let is_dated = row.get("last_modified").is_none_or(|date| date.is_number() || date.is_boolean());
    row.is_object() && row["id"].is_string() && is_dated
}

fn is_above_zero(date: &Value) -> bool {
    *date == true || date.as_f64().is_some_and(|date| date > 0.0)
}

fn served(chunks: &[Bytes]) -> Vec<Value> {
    let text = [&b"["[..], &chunks.concat(), b"]"].concat();
    serde_json::from_slice(&text)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&text)))
}

fn written(body: &[u8]) {
    let answer = Reading::read(StatusCode::OK, &Bytes::copy_from_slice(body), None);
    let versions = answer.version(false).map(|version| vec![version]).or_else(|| answer.tombstones());
    let Some(versions) = versions else { return };
    if let Some(timestamps) = answer.timestamps() {
        assert!(timestamps.into_iter().eq(versions.iter().map(|version| version.modified)));
    }
    assert!(answer.ids().eq(versions.iter().map(|version| version.id.as_str())));
}

fn described(body: &[u8], sidecar: &Sidecar) {
    let body = Bytes::copy_from_slice(body);
    for add in [root::add_capabilities, root::add_paths] {
        let added = add(&body, &sidecar.core.app.settings);
        let read = |text: &Bytes| serde_json::from_slice::<Value>(text);
        if let (true, Ok(before)) = (added != body, read(&body)) {
            holds(&read(&added).expect("it was JSON before"), &before);
        }
    }
}

/// Whether everything that was there still is.
fn holds(more: &Value, less: &Value) {
    match (more, less) {
        (Value::Object(more), Value::Object(less)) => {
            for (name, value) in less {
                holds(more.get(name).unwrap_or_else(|| panic!("{name} is lost")), value);
            }
        }
        (Value::Array(more), Value::Array(less)) => assert!(more.starts_with(less)),
        (more, less) => assert_eq!(more, less),
    }
}

fn bench() -> Bench {
    let body: Arc<Mutex<Vec<u8>>> = Arc::default();
    let told = Arc::clone(&body);
    let kinto = Kinto::start(move |_| {
        let body = told.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Answer { status: 200, headers: vec![("etag", format!("\"{NOW}\""))], body }
    });
    Bench { sidecar: Sidecar::before(&kinto, &[]), body }
}
