//! Whoever answers in the upstream's place, and does not stop.

use std::io::Write;

use super::{MIB, ROOM, ask, at_once, peak};
use crate::support::Sidecar;
use crate::support::stub::Stub;

#[test]
fn an_answer_without_end_is_read_as_far_as_the_question_needs() {
    let stub = Stub::start(|mut upstream| {
        if upstream.read().is_none() {
            return;
        }
        upstream.write("HTTP/1.1 200 OK\r\nETag: \"1\"\r\nTransfer-Encoding: chunked\r\n\r\n");
        let piece = [b"100000\r\n".to_vec(), vec![b' '; 1 << 20], b"\r\n".to_vec()].concat();
        while upstream.stream.get_mut().write_all(&piece).is_ok() {}
    });
    let sidecar = Sidecar::start(stub.url(), &[("changes.resources", "/buckets/a")]);
    for (number, request) in [
        (8, "GET /v1/buckets/monitor/collections/changes/changeset?_expected=1 HTTP/1.1\r\n"),
        (1, "GET /v1/buckets/a/collections/c/changeset?_expected=1 HTTP/1.1\r\n"),
        (
            8,
            "GET /v1/buckets/default/collections/c/changeset?_expected=1 HTTP/1.1\r\nAuthorization: Basic YTpi\r\n",
        ),
        (8, "GET /v1/ HTTP/1.1\r\n"),
        (8, "PUT /v1/buckets/a/collections/c/records/r HTTP/1.1\r\nContent-Type: application/json\r\n"),
    ] {
        let grown = peak(&sidecar, || {
            at_once(number, |_| {
                let status = ask(sidecar.address(), request, b"");
                assert!(status.is_some_and(|status| status >= 500), "{request}: {status:?}");
            });
        });
        assert!(grown <= ROOM, "{request}: {} MiB", grown / MIB);
    }
}
