//! Bodies that are not wanted, and answers that nobody reads.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;

use super::{Dice, MIB, ROOM, ask, at_once, bounded, memory, neighbours, public, unread};
use crate::support::stub::Stub;
use crate::support::{Client, Sidecar, eventually};

/// Sends a batch of so many bytes as fast as it is taken; gives the status, or none where the answer was lost.
fn batch(sidecar: &Sidecar, bytes: usize, is_chunked: bool) -> Option<u16> {
    let mut stream = TcpStream::connect(sidecar.address()).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let framing =
        if is_chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {bytes}") };
    let head =
        format!("POST /v1/batch HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n{framing}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let piece = vec![b'x'; 1 << 20];
    let mut sent = 0;
    while sent < bytes {
        let written = if is_chunked { stream.write_all(b"100000\r\n") } else { Ok(()) };
        let written = written.and_then(|()| stream.write_all(&piece));
        if written.and_then(|()| if is_chunked { stream.write_all(b"\r\n") } else { Ok(()) }).is_err() {
            break;
        }
        sent += piece.len();
    }
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).ok()?;
    std::str::from_utf8(&answer[9..]).ok()?.parse().ok()
}

#[tokio::test]
async fn batches_have_a_limit_each_and_one_together() {
    let (sidecar, _) = public(&[]).await;
    for (number, bytes, is_chunked) in [(6, 40 << 20, false), (6, 40 << 20, true), (14, 15 << 20, true)] {
        bounded(&sidecar, &format!("{number} batches of {bytes}"), || {
            at_once(number, |_| {
                let status = batch(&sidecar, bytes, is_chunked);
                assert!(matches!(status, None | Some(413 | 503)), "{status:?}");
            });
        });
    }
}

/// Takes whatever is written, at once, and answers with all of it.
fn generous(record: &str, in_a_batch: usize) -> Stub {
    let ok = |status: &str, body: &str| {
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let answer = format!(
        "{{\"status\":201,\"path\":\"/v1/x\",\"headers\":{{\"ETag\":\"\\\"5\\\"\"}},\"body\":{record}}}"
    );
    let batch = ok("200 OK", &format!("{{\"responses\":[{}]}}", vec![answer; in_a_batch].join(",")));
    // A question of the sidecar's own, about something that may be as large.
    let absent = "{\"status\":404,\"body\":{\"code\":404,\"errno\":111,\"details\":{\"id\":\"x\",\"resource_name\":\"record\"}}}";
    let absent = ok("200 OK", &format!("{{\"responses\":[{{\"status\":200,\"body\":{record}}},{absent}]}}"));
    let (root, one) =
        (ok("200 OK", "{\"user\":{\"id\":\"basicauth:x\"},\"capabilities\":{}}"), ok("201 Created", record));
    Stub::start(move |mut upstream| {
        while let Some(seen) = upstream.read() {
            upstream.write(match seen.line().split_once(" HTTP").unwrap().0 {
                "POST /v1/batch" if seen.body.len() < 4096 => &absent,
                "POST /v1/batch" => &batch,
                line if line.starts_with("PUT") => &one,
                _ => &root,
            });
        }
    })
}

#[test]
fn what_is_large_is_read_where_nobody_else_is_served() {
    const REQUESTS: usize = 20;
    let data =
        format!("{{\"id\":\"r\",\"last_modified\":5,\"x\":[{}]}}", vec!["{\"a\":[1]}"; 20_000].join(","));
    let stub = generous(&format!("{{\"permissions\":{{}},\"data\":{data}}}"), REQUESTS);
    let directory = tempfile::tempdir().unwrap();
    let journal = format!("sqlite:{}", directory.path().join("journal.db").display());
    let sidecar = Sidecar::start(stub.url(), &[("sidecar.journal", &journal)]);
    let batch = |defaults: &str, requests: Vec<String>| {
        let body = format!("{{\"defaults\":{defaults},\"requests\":[{}]}}", requests.join(","));
        ("POST /v1/batch".to_owned(), body)
    };
    let record = |number| format!("/buckets/b/collections/c/records/r{number}");
    let puts = (0..REQUESTS)
        .map(|number| format!("{{\"path\":\"{}\",\"body\":{{\"data\":{data}}}}}", record(number)));
    let member = "\"a\":[1],".repeat(700);
    let defaults = format!("{{\"method\":\"PUT\",\"body\":{{\"data\":{{{member}\"b\":1}}}}}}");
    let changeset =
        "{\"path\":\"/buckets/b/collections/c/changeset?_expected=0\",\"method\":\"GET\"}".to_owned();
    for (what, (target, body)) in [
        ("much data", batch("{\"method\":\"PUT\"}", puts.clone().collect())),
        ("much data beside a changeset", batch("{\"method\":\"PUT\"}", puts.chain([changeset]).collect())),
        (
            "much in the defaults",
            batch(&defaults, (0..500).map(|number| format!("{{\"path\":\"{}\"}}", record(number))).collect()),
        ),
        ("no batch", batch("{}", vec!["{\"path\":{}}".to_owned(); 300_000])),
        ("one with a large answer", (format!("PUT /v1{}", record(1)), "{\"data\":{}}".to_owned())),
    ] {
        let head = format!("{target} HTTP/1.1\r\nContent-Type: application/json\r\n");
        bounded(&sidecar, what, || {
            let status = ask(sidecar.address(), &head, body.as_bytes());
            assert!(status.is_some_and(|status| status < 500), "{what}: {status:?}");
        });
    }
}

/// Writes so many MiB of records.
async fn fill(client: &Client, collection: &str, number: usize) {
    for index in 0..number {
        let record = format!("{collection}/records/r{index}");
        client.put(&record).data(json!({"text": "x".repeat(1 << 20)})).await.expect(201);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_are_shared_or_counted() {
    let (sidecar, collection) = public(&[("sidecar.body_timeout", "5s")]).await;
    let alice = sidecar.client().user("alice");
    fill(&alice, &collection, 20).await;
    let bucket = collection.split("/collections").next().unwrap();
    sidecar.client().get(&format!("{collection}/changeset?_expected=0")).await.expect(200);
    let path = format!("{collection}/changeset?_expected=0");
    let body = json!({"defaults": {"method": "GET"}, "requests": vec![json!({"path": path}); 9]}).to_string();
    let changesets = "POST /v1/batch HTTP/1.1\r\nContent-Type: application/json\r\n";
    let pages = format!("GET /v1{bucket}/history HTTP/1.1\r\nAuthorization: Basic YWxpY2U6c2VjcmV0\r\n");
    let snapshots = format!("GET /v1{collection}/snapshot/@9999999999999 HTTP/1.1\r\n");
    for (what, number, request, body) in [
        ("batches of changesets", 4, changesets, &*body),
        ("pages of history", 36, &*pages, ""),
        ("snapshots", 8, &*snapshots, ""),
    ] {
        bounded(&sidecar, what, || {
            let connections = unread(sidecar.address(), number, request, body);
            // What begins was made, as far as it is made before it is sent.
            for connection in &connections {
                connection.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
                connection.peek(&mut [0]).unwrap();
            }
        });
    }
    // Whoever reads has all of it.
    let answer = alice.post("/batch").body(body).header("content-type", "application/json").await.expect(200);
    assert!(answer.body.len() > 9 * (20 << 20) && answer.json()["responses"].as_array().unwrap().len() == 9);
    let (mut next, mut seen) = (Some(format!("{bucket}/history")), 0);
    while let Some(path) = next {
        let page = alice.get(&path).await.expect(200);
        assert!(page.body.len() < 9 << 20);
        seen += page.data().as_array().unwrap().len();
        next = page.header("next-page").map(|url| url.split_once("/v1").unwrap().1.to_owned());
    }
    assert_eq!(seen, 22);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_replaced_while_it_is_read_is_counted() {
    let (sidecar, collection) = public(&[("sidecar.max_buffered", "64MiB")]).await;
    let alice = sidecar.client().user("alice");
    fill(&alice, &collection, 20).await;
    for (name, path) in [("a", "changeset?_expected=0"), ("b", "_changes?include_docs=true")] {
        let path = format!("{collection}/{path}");
        sidecar.client().get(&path).await.expect(200);
        let idle = memory(&sidecar, "VmHWM");
        let request = format!("GET /v1{path} HTTP/1.1\r\n");
        let mut connections = Vec::new();
        let mut statuses = Vec::new();
        for number in 0..12 {
            alice.put(&format!("{collection}/records/{name}{number}")).await.expect(201);
            let mut connection = unread(sidecar.address(), 1, &request, "").remove(0);
            connection.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            let mut line = [0; 12];
            connection.read_exact(&mut line).unwrap();
            statuses.push(String::from_utf8_lossy(&line[9..]).into_owned());
            connections.push(connection);
        }
        let served = statuses.iter().take_while(|status| *status == "200").count();
        assert!(
            (1..5).contains(&served) && statuses[served..].iter().all(|status| status == "503"),
            "{path}: {statuses:?}"
        );
        let grown = memory(&sidecar, "VmHWM").saturating_sub(idle);
        assert!(grown <= ROOM, "{path}: {} MiB", grown / MIB);
        drop(connections);
        eventually("room", async || (sidecar.client().get(&path).await.status == 200).then_some(())).await;
    }
}

#[tokio::test]
async fn what_looks_like_such_a_batch_takes_no_more() {
    let (sidecar, collection) = public(&[]).await;
    neighbours("batches", 5, |seed| {
        let mut dice = Dice(seed);
        let number = usize::try_from(10_u64.pow(1 + u32::try_from(dice.roll(6)).unwrap())).unwrap();
        let filler = "x".repeat(usize::try_from(10_u64.pow(u32::try_from(dice.roll(7)).unwrap())).unwrap());
        let request =
            dice.pick(&["{}".to_owned(), format!("{{\"path\":\"{collection}/records/a\"}}"), "1".to_owned()]);
        let requests = vec![request; number].join(",");
        let defaults = match dice.roll(4) {
            0 => format!(
                "{{\"body\":{{\"data\":{{\"x\":\"{filler}\"}}}},\"path\":\"{collection}/records/a\",\"method\":\"PUT\"}}"
            ),
            1 => format!(
                "{{\"headers\":{{\"X-A\":\"{filler}\"}},\"path\":\"{collection}/records/a\",\"method\":\"PUT\"}}"
            ),
            2 => format!("{{\"headers\":{{{}\"X\":\"1\"}},\"path\":\"/\"}}", "\"X-1\":\"1\",".repeat(number)),
            _ => format!("{{\"path\":\"/v1{collection}/changeset?_expected={filler}\"}}"),
        };
        let mut body = format!("{{\"defaults\":{defaults},\"requests\":[{requests}]}}");
        if dice.roll(3) == 0 {
            // Members that are there twice are read in another way.
            body = body.replacen('{', "{\"defaults\":{},", 1);
        }
        let head = "POST /v1/batch HTTP/1.1\r\nContent-Type: application/json\r\n";
        bounded(&sidecar, &format!("seed {seed}"), || {
            at_once(4, |_| {
                let status = ask(sidecar.address(), head, body.as_bytes());
                assert!(status.is_none_or(|status| status < 500 || status == 503), "{status:?}");
            });
        });
    });
}
