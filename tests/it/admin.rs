//! What operators ask on the second listener, and clients on a unix socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use crate::support::stub::{HELLO, Raw, Stub};
use crate::support::{Client, Kinto, SERVICE_ACCOUNT, Sidecar, eventually, prometheus, unique};

/// A sidecar with both listeners on unix sockets or free ports.
struct Operated {
    child: Child,
    admin: String,
    listen: String,
}

impl Operated {
    fn start(upstream: &str, listen: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_kinto-sidecar"))
            .args(["--listen", listen, "--admin-listen", "127.0.0.1:0", "--upstream", upstream])
            .args([
                "--set", "sidecar.changes=off", "--set", "sidecar.history=off", "--set", "sidecar.threads=2",
            ])
            .env_clear()
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut admin = None;
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let listen = lines.find_map(|line| {
            if let Some((_, address)) = line.split_once("metrics and health on http://") {
                admin = address.split('"').next().map(str::to_owned);
            }
            let (_, address) = line.split_once("listening on ")?;
            address.split('"').next().map(str::to_owned)
        });
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, admin: admin.unwrap(), listen: listen.unwrap() }
    }

    fn admin(&self, path: &str) -> (u16, String) {
        let mut client = Raw::connect(self.admin.parse().unwrap());
        client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let answer = client.read().unwrap();
        (answer.status(), answer.text().to_owned())
    }
}

impl Drop for Operated {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn metrics_count_what_passed() {
    let stub = Stub::answering(HELLO);
    let sidecar = Operated::start(&stub.url(), "127.0.0.1:0");
    let address = sidecar.listen.strip_prefix("http://").unwrap().parse().unwrap();
    let mut client = Raw::connect(address);
    for _ in 0..3 {
        client
            .send("GET /v1/x?secret HTTP/1.1\r\nHost: h\r\nAuthorization: Basic c2VjcmV0\r\n\r\n")
            .read()
            .unwrap();
    }
    let (status, text) = sidecar.admin("/metrics");
    assert_eq!(status, 200);
    for line in [
        "kinto_sidecar_requests_total{endpoint=\"forward\",status=\"2xx\",cache=\"none\"} 3",
        "kinto_sidecar_request_duration_seconds_count{endpoint=\"forward\"} 3",
        "kinto_sidecar_upstream_requests_total{outcome=\"answered\"} 3",
        "kinto_sidecar_upstream_connections_total 1",
        "kinto_sidecar_connections 1",
    ] {
        assert!(text.lines().any(|given| given == line), "{line} in {text}");
    }
    assert!(!text.contains("secret") && !text.contains("c2VjcmV0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_has_no_word_to_say_of_the_metrics() {
    let Some(programs) = prometheus::programs() else { return };
    let (kinto, bucket) = (Kinto::shared(), unique("measured"));
    let alice = kinto.client().user("alice");
    alice.put(&format!("/buckets/{bucket}")).await.expect(201);
    alice.put(&format!("/buckets/{bucket}/collections/c")).await.expect(201);
    let monitored = format!("/buckets/{bucket}");
    let settings =
        [SERVICE_ACCOUNT, ("changes.resources", &*monitored), ("sidecar.admin_listen", "127.0.0.1:0")];
    let sidecar = Sidecar::start(kinto.url(), &settings);
    let path = format!("/buckets/{bucket}/collections/c/changeset?_expected=0");
    sidecar.client().user("alice").get(&path).await.expect(200);
    let admin = Client::new(&sidecar.admin().unwrap());
    let label = format!("{{collection=\"{bucket}/c\"}}");
    let text = eventually("the numbers of a monitored collection", async || {
        let text = admin.request_target(http::Method::GET, "/metrics").await.expect(200).text();
        text.contains(&format!("kinto_sidecar_collection_timestamp_age_seconds{label}")).then_some(text)
    })
    .await;
    for line in [
        "kinto_sidecar_journal_failures_total 0",
        "kinto_sidecar_requests_total{endpoint=\"forward\",status=\"5xx\",cache=\"none\"} 0",
        "kinto_sidecar_mirror_refreshes_total{outcome=\"failed\"} 0",
        "kinto_sidecar_permission_questions_total{outcome=\"granted\"} 1",
        "kinto_sidecar_feed_readers 0",
        "kinto_sidecar_connections_limit 10000",
        &format!("kinto_sidecar_collection_feed_readers{label} 0"),
    ] {
        assert!(text.lines().any(|given| given == line), "{line} in {text}");
    }
    // A page by a name that was pointed here is told no names.
    let rebound = admin.request_target(http::Method::GET, "/metrics").header("host", "rebound.example:8890");
    let rebound = rebound.await.expect(200).text();
    assert!(
        rebound.contains("kinto_sidecar_monitored_collections ") && !rebound.contains(&bucket),
        "{rebound}"
    );
    for name in ["kinto_sidecar_build_info{version=", "process_open_fds ", "process_start_time_seconds 1"] {
        assert!(text.contains(&format!("\n{name}")), "{name} in {text}");
    }
    let mut promtool = Command::new(programs.join("promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn health_tells_life_from_readiness() {
    let stub = Stub::answering(HELLO);
    let sidecar = Operated::start(&stub.url(), "127.0.0.1:0");
    assert_eq!(sidecar.admin("/health/live").0, 200);
    assert_eq!(sidecar.admin("/health/ready").0, 200);
    assert_eq!(stub.next().line(), "GET /v1/__lbheartbeat__ HTTP/1.1");
    assert_eq!(sidecar.admin("/nothing").0, 404);

    let alone = Operated::start("http://127.0.0.1:1/v1", "127.0.0.1:0");
    assert_eq!(alone.admin("/health/live").0, 200);
    assert_eq!(alone.admin("/health/ready").0, 503);
}

#[test]
fn the_second_listener_has_the_manners_of_the_first() {
    let stub = Stub::answering(HELLO);
    let sidecar = Operated::start(&stub.url(), "127.0.0.1:0");
    let connect = || Raw::connect(sidecar.admin.parse().unwrap());

    // Whoever has said all may still wait for the answer.
    let mut half_closed = connect();
    half_closed.send("GET /health/live HTTP/1.1\r\nHost: h\r\n\r\n");
    half_closed.0.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(half_closed.read().unwrap().status(), 200);

    // An early answer reaches who is still sending.
    let mut sending = connect();
    let length = 8 << 20;
    sending.send(format!("POST /metrics HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n"));
    for _ in 0..length >> 16 {
        sending.send(vec![b'x'; 1 << 16]);
    }
    let answer = sending.read().unwrap();
    assert_eq!((answer.status(), answer.header("connection")), (405, vec!["close"]));

    // Heads are bounded by their bytes.
    let fields = |count: usize| (0..count).map(|n| format!("x-{n}: y\r\n")).collect::<Vec<_>>().concat();
    for (count, status) in [(300, 200), (20_000, 431)] {
        let mut client = connect();
        client.send(format!("GET /health/live HTTP/1.1\r\nHost: h\r\n{}\r\n", fields(count)));
        assert_eq!(client.read().unwrap().status(), status);
    }
    let mut quoted = connect();
    quoted.send("GET /nothing?x=\"1\" HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(quoted.read().unwrap().status(), 404);
}

#[test]
fn clients_reach_the_sidecar_on_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sidecar.sock");
    let stub = Stub::answering(HELLO);
    // The second finds the socket that the first left behind.
    for _ in 0..2 {
        let sidecar = Operated::start(&stub.url(), &format!("unix:{}", path.display()));
        assert_eq!(sidecar.listen, format!("unix:{}", path.display()));
        for _ in 0..4 {
            let mut client = UnixStream::connect(&path).unwrap();
            client.write_all(b"GET /v1/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");
            assert_eq!(stub.next().header("x-forwarded-for"), ["unknown"]);
        }
    }
}
