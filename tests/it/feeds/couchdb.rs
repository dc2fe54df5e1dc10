//! The same documents, writes and requests to a CouchDB-compatible server (that of `PouchDB`, in memory): the same rows, where the
//! meanings meet. Seqs and revisions have other values there, so each seq is compared by its place.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command};

use http::Method;
use serde_json::{Value, json};

use super::World;
use crate::support::{Client, Environment, environment, undertaker};

/// The server of `PouchDB`, stopped when dropped.
struct Peer {
    process: Child,
    address: String,
    client: Client,
}

impl Peer {
    fn start() -> Self {
        let node = environment(Environment::Node);
        let script = node.script("pouchdb_server.mjs");
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut process = undertaker::piped(
            Command::new(node.node()).arg(&script).arg(log.path()).current_dir(node.node_folder()),
        );
        let mut port = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut port).unwrap();
        let address = format!("127.0.0.1:{}", port.trim());
        Self { process, client: Client::new(&address), address }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let request = self.client.request_target(method, path);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let answer = request.await;
        assert!(answer.status < 300, "{answer}");
        answer.json()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        undertaker::release(&self.process);
    }
}

/// What is comparable of a row: which record, in which version, deleted or not, and at which place its seq is.
fn row(row: &Value, seqs: &[Value]) -> Value {
    let seq = seqs.iter().position(|seq| *seq == row["seq"]);
    let document = &row["doc"];
    json!({
        "id": row["id"], "deleted": row["deleted"], "seq": seq,
        "doc": [document["n"], document["_id"], document["_deleted"], document["_rev"] == row["changes"][0]["rev"]],
    })
}

fn rows(answer: &Value, seqs: &[Value]) -> (Vec<Value>, Option<usize>) {
    let rows = answer["results"].as_array().unwrap().iter().map(|found| row(found, seqs)).collect();
    (rows, seqs.iter().position(|seq| *seq == answer["last_seq"]))
}

#[tokio::test]
async fn rows_are_those_of_pouchdbs_server() {
    let world = World::new(&[]).await;
    let peer = Peer::start();
    peer.ask(Method::PUT, "/db", None).await;
    let mut revisions = std::collections::HashMap::new();
    // Seqs by their places: 0, and one for each write.
    let (mut own, mut theirs) = (vec![json!(0)], vec![json!(0)]);
    let writes = [
        ("a", Some(1)),
        ("b", Some(2)),
        ("c", Some(3)),
        ("b", Some(4)),
        ("d", Some(5)),
        ("c", None),
        ("e", Some(6)),
    ];
    for (number, (id, value)) in writes.into_iter().enumerate() {
        let seq = match value {
            Some(n) => world.write(id, json!({"n": n})).await,
            None => world.delete(id).await,
        };
        own.push(seq.into());
        theirs.push((number + 1).into());
        let mut document = json!({"n": value, "_deleted": value.is_none()});
        if let Some(revision) = revisions.get(id) {
            document["_rev"] = Value::clone(revision);
        }
        let answer = peer.ask(Method::PUT, &format!("/db/{id}"), Some(document)).await;
        revisions.insert(id, answer["rev"].clone());
    }
    let ids = Some(json!({"doc_ids": ["c", "b", "x"]}));
    for (query, body, since) in [
        ("", None, None),
        ("include_docs=true&", None, Some(4)),
        ("limit=2&include_docs=true&", None, None),
        ("limit=2&", None, Some(2)),
        ("", None, Some(7)),
        ("descending=true&", None, None),
        ("descending=true&limit=3&", None, None),
        ("filter=_doc_ids&", ids.clone(), None),
        ("filter=_doc_ids&limit=1&", ids.clone(), Some(4)),
        ("filter=_doc_ids&include_docs=true&", ids, None),
        ("descending=true&include_docs=true&limit=4&", None, Some(2)),
        ("style=all_docs&attachments=true&conflicts=true&seq_interval=2&unknown=1&n=4&", None, None),
        ("feed=longpoll&include_docs=true&limit=2&", None, Some(1)),
        ("limit=100&heartbeat=1000&timeout=1000&", None, Some(3)),
        ("feed=longpoll&", None, Some(3)),
    ] {
        let since = since.unwrap_or(0);
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let path = |since: &Value| format!("_changes?{query}since={since}");
        let answer = peer.ask(method.clone(), &format!("/db/{}", path(&theirs[since])), body.clone()).await;
        let request =
            world.sidecar.client().request(method, &format!("{}/{}", world.collection, path(&own[since])));
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let found = request.await.expect(200).json();
        let (their_rows, their_last) = rows(&answer, &theirs);
        let (own_rows, own_last) = rows(&found, &own);
        assert_eq!(own_rows, their_rows, "{query} since {since}: {answer}");
        // With a filter PouchDB ends with the last row that was let through, CouchDB and the sidecar with the newest.
        if !query.contains("filter") {
            assert_eq!(own_last, their_last, "{query} since {since}: {answer}");
        }
    }
    let (theirs, own) = (
        peer.ask(Method::GET, "/db/", None).await,
        world.sidecar.client().get(&format!("{}/", world.collection)).await.expect(200).json(),
    );
    assert_eq!(own["doc_count"], theirs["doc_count"]);
}

#[tokio::test]
async fn pouchdbs_server_copies_a_collection() {
    let world = World::new(&[]).await;
    let peer = Peer::start();
    peer.ask(Method::PUT, "/db", None).await;
    let source = world.sidecar.url().replace("://", "://alice:secret@") + &world.collection;
    let replicate = async || {
        let order = json!({"source": source, "target": format!("http://{}/db", peer.address)});
        let done = peer.ask(Method::POST, "/_replicate", Some(order)).await;
        assert_eq!(done["ok"], true, "{done}");
        let copy = peer.ask(Method::GET, "/db/_changes?conflicts=true&style=all_docs", None).await;
        let name = |row: &Value| (row["id"].clone(), row["changes"].clone(), row["deleted"] == true);
        let names = |feed: &Value| {
            let rows = feed["results"].as_array().unwrap().iter();
            rows.map(|row| (row["id"].to_string(), name(row))).collect::<BTreeMap<_, _>>()
        };
        assert_eq!(names(&copy), names(&world.changes("").await));
        done["docs_read"].clone()
    };
    for id in ["a", "b", "c"] {
        world.write(id, json!({"n": 1})).await;
    }
    world.delete("b").await;
    assert_eq!(replicate().await, 3);
    world.write("b", json!({"n": 2})).await;
    world.write("a", json!({"n": 2, "_own": 1})).await;
    world.delete("c").await;
    assert_eq!(replicate().await, 3);
    world.delete("a").await;
    assert_eq!(replicate().await, 1);
    let document = peer.ask(Method::GET, "/db/b", None).await;
    assert_eq!((&document["n"], &document["id"]), (&json!(2), &json!("b")));
}
