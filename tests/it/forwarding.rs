//! What passes through the sidecar arrives as it was sent, both ways, but for what a gateway has to change.

use std::io::{Read, Write};
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::deploy::{Cache, Kind, free_port};
use crate::support::stub::{HELLO, PATIENCE, Proxy, Raw, Stub, header, status};
use crate::support::{Chaos, Kinto, Recorded, Recorder, SERVICE_ACCOUNT, Sidecar, eventually, unique};

#[test]
fn the_target_reaches_the_upstream_to_the_byte() {
    let (stub, proxy) = Proxy::greeted();
    let mut client = proxy.connect();
    for target in [
        "/",
        "/v1",
        "/v1/",
        "/v0/x",
        "//v1//buckets/",
        "/v1/buckets/a%2fb/../c/./d",
        "/v1/buckets/a;b=c/%zz/%00",
        "/V1/Buckets?_since=%22123%22&x=a+b&&y=%C3%A9&z",
        "/v1/buckets?",
        "/v1/buckets?a=/../?b=?",
        "/v1/caf\u{e9}?q={[1]}|`^",
    ] {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert_eq!(client.read().unwrap().text(), "hello", "{target}");
        assert_eq!(stub.next().line(), format!("GET {target} HTTP/1.1"));
    }
}

#[test]
fn bytes_that_no_target_may_have_reach_the_upstream_as_their_escapes() {
    let (stub, proxy) = Proxy::greeted();
    let mut client = proxy.connect();
    for _ in 0..2 {
        client.send("GET /v1/<x>?_since=\"42\" HTTP/1.1\r\nHost: h\r\nIf-None-Match: \"1\"\r\n\r\n");
        assert_eq!(client.read().unwrap().status(), 200);
        let seen = stub.next();
        assert_eq!(seen.line(), "GET /v1/%3Cx%3E?_since=%2242%22 HTTP/1.1");
        assert_eq!(seen.header("if-none-match"), ["\"1\""]);
    }
}

#[test]
fn a_target_with_a_host_in_it_is_forwarded_without() {
    let (stub, proxy) = Proxy::greeted();
    proxy.ask("GET http://real.test/v1/x?y HTTP/1.1\r\nHost: other.test\r\n\r\n");
    let seen = stub.next();
    assert_eq!(seen.line(), "GET /v1/x?y HTTP/1.1");
    assert_eq!(seen.header("host"), ["real.test"]);
}

#[test]
fn methods_pass_whatever_they_are_called() {
    let (stub, proxy) = Proxy::greeted();
    for method in ["OPTIONS", "PATCH", "DELETE", "PURGE", "x-Own"] {
        proxy.ask(format!("{method} /v1/x HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert_eq!(stub.next().line(), format!("{method} /v1/x HTTP/1.1"));
    }
    proxy.ask("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(stub.next().line(), "OPTIONS * HTTP/1.1");
    for refused in
        ["CONNECT h:1", "TRACE /v1/x", "TRACE /v1/batch", "TRACE /v1/buckets/a/collections/c/changeset"]
    {
        let answer =
            proxy.ask(format!("{refused} HTTP/1.1\r\nHost: h:1\r\nAuthorization: Basic c2VjcmV0\r\n\r\n"));
        assert_eq!(answer.status(), 405, "{refused}");
        assert!(!answer.header("allow").is_empty() && !answer.text().contains("c2VjcmV0"), "{refused}");
    }
    assert!(!stub.has_next());
}

#[test]
fn repeated_headers_keep_the_order_of_their_values() {
    let stub = Stub::answering(
        "HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nX-B: 1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n",
    );
    let proxy = Proxy::before(&stub);
    let answer = proxy.ask("GET / HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nAccept: a\r\nX-A: 2\r\nX-A: 1\r\n\r\n");
    assert_eq!(stub.next().header("x-a"), ["1", "2", "1"]);
    assert_eq!(answer.header("set-cookie"), ["a=1", "b=2"]);
}

#[test]
fn headers_of_one_connection_stay_on_it() {
    let stub = Stub::answering(
        "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Inner\r\nX-Inner: 1\r\nKeep-Alive: timeout=5\r\nX-Outer: 1\r\nContent-Length: 0\r\n\r\n",
    );
    let proxy = Proxy::before(&stub);
    let answer = proxy.ask(
        "GET / HTTP/1.1\r\nHost: h\r\nConnection: x-hop, upgrade\r\nX-Hop: 1\r\nUpgrade: websocket\r\nKeep-Alive: 1\r\nProxy-Connection: x\r\nTE: gzip\r\nX-Kept: 1\r\n\r\n",
    );
    let seen = stub.next();
    for name in ["connection", "x-hop", "upgrade", "keep-alive", "proxy-connection", "te"] {
        assert!(seen.header(name).is_empty(), "{name} in {}", seen.head);
    }
    assert_eq!(seen.header("x-kept"), ["1"]);
    for name in ["connection", "x-inner", "keep-alive"] {
        assert!(answer.header(name).is_empty(), "{name} in {}", answer.head);
    }
    assert_eq!(answer.header("x-outer"), ["1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_comes_back_is_508_and_the_operator_is_told() {
    // At first there is nothing.
    let between = Chaos::before(format!("http://127.0.0.1:{}/v1", free_port()));
    let sidecar = Sidecar::start(between.url(), &[SERVICE_ACCOUNT, ("sidecar.admin_listen", "127.0.0.1:0")]);
    between.lead_to(sidecar.url());
    let mut client = sidecar.connect();
    for path in ["/v1/", "/v1/buckets/b/collections", "/v1/buckets/b/collections/c/changeset?_expected=0"] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let answer = client.read().unwrap();
        assert!(answer.status() > 500, "{path}: {}", answer.text());
        if !path.contains("changeset") {
            assert_eq!((answer.status(), &answer.json()["errno"]), (508, &201.into()), "{path}");
        }
    }
    let (_, condition) = crate::health::asked(&sidecar, "/health/ready").await;
    assert!(condition.to_string().contains("leads back to this sidecar"), "{condition}");
    let told = "leads back to this sidecar: name Kinto's own address in sidecar.upstream";
    eventually("the log to say so", async || sidecar.log().contains(told).then_some(())).await;
}

#[test]
fn host_is_kept_and_the_client_is_named() {
    let (stub, proxy) = Proxy::greeted();
    let answer = proxy.ask("GET / HTTP/1.1\r\nHost: kinto.test:8080\r\n\r\n");
    let seen = stub.next();
    assert_eq!(seen.header("host"), ["kinto.test:8080"]);
    assert_eq!(seen.header("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.header("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.header("x-forwarded-host"), ["kinto.test:8080"]);
    assert_eq!(seen.header("forwarded"), ["for=127.0.0.1;host=\"kinto.test:8080\";proto=http"]);
    assert!(seen.header("via")[0].starts_with("1.1 kinto-sidecar-"), "{:?}", seen.header("via"));
    assert_eq!(answer.header("via"), ["1.1 kinto-sidecar"]);
}

#[test]
fn a_request_has_an_id_of_its_own_unless_it_brings_a_sane_one() {
    let (stub, proxy) = Proxy::greeted();
    proxy.ask("GET / HTTP/1.1\r\nHost: h\r\nX-Request-Id: abc\r\n\r\n");
    assert_eq!(stub.next().header("x-request-id"), ["abc"]);
    proxy.ask(format!("GET / HTTP/1.1\r\nHost: h\r\nX-Request-Id: {}\r\n\r\n", "a".repeat(129)));
    assert_eq!(stub.next().header("x-request-id")[0].len(), 36);
}

#[test]
fn a_prefix_of_the_upstream_is_put_in_front_of_every_path() {
    let stub = Stub::answering(HELLO);
    let proxy = Proxy::start(&format!("http://{}/some/where/v1", stub.address), &[]);
    for (asked, forwarded) in
        [("/v1/x?y=/z", "/some/where/v1/x?y=/z"), ("/", "/some/where/"), ("/v0", "/some/where/v0")]
    {
        proxy.get(asked);
        assert_eq!(stub.next().line(), format!("GET {forwarded} HTTP/1.1"));
    }
}

#[test]
fn bodies_stream_both_ways_at_once() {
    let stub = Stub::start(|mut upstream| {
        upstream.read_head();
        upstream.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        // Each piece of the request is echoed before the next one is sent.
        let mut piece = [0; 8];
        while upstream.stream.read_exact(&mut piece).is_ok() && !piece.ends_with(b"0\r\n\r\n") {
            upstream.write(piece);
        }
        upstream.write("0\r\n\r\n");
    });
    let proxy = Proxy::before(&stub);
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(status(&client.read_head().unwrap()), 200);
    for piece in ["3\r\nabc\r\n", "3\r\ndef\r\n"] {
        client.send(piece);
        let mut echo = [0; 8];
        client.0.read_exact(&mut echo).unwrap();
        assert_eq!(echo, piece.as_bytes());
    }
}

#[test]
fn a_large_body_passes_whole_and_is_never_held_in_memory() {
    const LENGTH: usize = 256 << 20;
    let (wrote, written) = channel();
    let stub = Stub::start(move |mut upstream| {
        upstream.read_head();
        upstream.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"));
        let block = vec![b'x'; 1 << 20];
        upstream.stream.get_ref().set_write_timeout(Some(PATIENCE)).unwrap();
        for _ in 0..LENGTH >> 20 {
            upstream.write(&block);
            let _ = wrote.send(());
        }
    });
    let proxy = Proxy::before(&stub);
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    client.read_head().unwrap();
    // The client reads nothing: what is in between fills up, and then the upstream has to wait.
    let mut blocks = 0;
    while written.recv_timeout(Duration::from_millis(500)).is_ok() {
        blocks += 1;
    }
    // The kernel's own buffers may take tens of megabytes.
    assert!(blocks < 128, "{blocks} MiB are held somewhere");
    let mut length = 0;
    let mut buffer = vec![0; 1 << 20];
    while length < LENGTH {
        length += match client.0.read(&mut buffer).unwrap() {
            0 => break,
            read => read,
        };
    }
    assert_eq!(length, LENGTH);
}

#[test]
fn a_request_with_trailers_keeps_them() {
    let (stub, proxy) = Proxy::greeted();
    proxy.ask(
        "PUT / HTTP/1.1\r\nHost: h\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n",
    );
    assert_eq!(String::from_utf8(stub.next().body).unwrap().to_lowercase(), "abcx-sum: 7");
}

#[test]
fn an_answer_with_trailers_keeps_them_for_a_client_that_takes_them() {
    let stub = Stub::answering(
        "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n",
    );
    let proxy = Proxy::before(&stub);
    let answer = proxy.ask("GET / HTTP/1.1\r\nHost: h\r\nConnection: TE\r\nTE: trailers\r\n\r\n");
    assert_eq!(stub.next().header("te"), ["trailers"]);
    assert_eq!(answer.text().to_lowercase(), "abcx-sum: 7");
    assert_eq!(proxy.get("/").text(), "abc");
}

#[test]
fn a_client_that_expects_to_be_told_is_told_to_go_on() {
    let (stub, proxy) = Proxy::greeted();
    let mut client = proxy.connect();
    client.send("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(status(&client.read_head().unwrap()), 100);
    client.send("abc");
    assert_eq!(client.read().unwrap().status(), 200);
    assert_eq!(stub.next().body, b"abc");
}

#[test]
fn answers_without_a_body_keep_their_headers() {
    for (method, answer, length) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n", vec!["12345"]),
        ("GET", "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n", vec![]),
        ("DELETE", "HTTP/1.1 204 No Content\r\n\r\n", vec![]),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", vec!["0"]),
    ] {
        let stub = Stub::answering(answer);
        let proxy = Proxy::before(&stub);
        let mut client = proxy.connect();
        for _ in 0..2 {
            client.send(format!("{method} / HTTP/1.1\r\nHost: h\r\n\r\n"));
            let head = client.read_head().unwrap();
            assert_eq!(status(&head), status(answer));
            assert_eq!(header(&head, "content-length"), length, "{head}");
        }
    }
}

#[test]
fn odd_statuses_pass_with_their_reason() {
    for line in ["418 Short and stout", "299 Odd", "599 Even odder", "451 Unavailable For Legal Reasons"] {
        let stub = Stub::answering(format!("HTTP/1.1 {line}\r\nContent-Length: 2\r\n\r\nok"));
        let answer = Proxy::before(&stub).get("/");
        assert_eq!(answer.head.lines().next().unwrap(), format!("HTTP/1.1 {line}"));
        assert_eq!(answer.text(), "ok");
    }
}

#[test]
fn interim_answers_of_the_upstream_do_not_end_the_exchange() {
    let stub = Stub::answering(format!("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n{HELLO}"));
    assert_eq!(Proxy::before(&stub).get("/").text(), "hello");
}

#[test]
fn an_answer_that_ends_with_its_connection_passes() {
    let stub = Stub::start(|mut upstream| {
        upstream.read();
        upstream.write("HTTP/1.0 200 OK\r\n\r\nuntil the end");
    });
    assert_eq!(Proxy::before(&stub).get("/").text(), "until the end");
}

#[test]
fn old_clients_are_answered_too() {
    let (stub, proxy) = Proxy::greeted();
    let mut client = proxy.connect();
    client.send("GET /v1/ HTTP/1.0\r\n\r\n");
    let answer = client.read().unwrap();
    assert!(answer.head.starts_with("HTTP/1.0 200"), "{}", answer.head);
    assert!(client.is_closed());
    // The upstream's own address is not for clients.
    assert_eq!(stub.next().header("host"), [proxy.address.to_string()]);
    let proxy = Proxy::start(&stub.url(), &["http_host=www.example.org"]);
    proxy.ask("GET /v1/ HTTP/1.0\r\n\r\n");
    assert_eq!(stub.next().header("host"), ["www.example.org"]);
}

#[test]
fn connections_to_the_upstream_are_used_again() {
    let (stub, proxy) = Proxy::greeted();
    let mut client = proxy.connect();
    for _ in 0..5 {
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        client.read().unwrap();
        assert_eq!(stub.next().connection, 0);
    }
}

#[test]
fn a_read_on_a_connection_that_died_meanwhile_is_sent_again() {
    // It answers once on each connection and drops what comes next without a word.
    let stub = Stub::start(|mut upstream| {
        if upstream.read().is_some() {
            upstream.write(HELLO);
            upstream.read_head();
        }
    });
    let proxy = Proxy::before(&stub);
    let mut client = proxy.connect();
    for _ in 0..5 {
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(client.read().unwrap().text(), "hello");
    }
}

#[test]
fn a_write_is_never_sent_twice() {
    let stub = Stub::start(|mut upstream| {
        while let Some(seen) = upstream.read() {
            if seen.line().starts_with("POST") {
                return;
            }
            upstream.write(HELLO);
        }
    });
    let proxy = Proxy::before(&stub);
    let mut client = proxy.connect();
    for _ in 0..2 {
        // The second of these shows that the upstream keeps its connections.
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        client.read().unwrap();
        stub.next();
    }
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}");
    assert_eq!(client.read().unwrap().status(), 502);
    assert_eq!(stub.next().line(), "POST / HTTP/1.1");
    assert!(!stub.has_next());
}

#[test]
fn writes_reach_an_upstream_that_closes_after_each_answer_without_saying_so() {
    let stub = Stub::start(|mut upstream| {
        if upstream.read().is_some() {
            upstream.write(HELLO);
        }
    });
    let proxy = Proxy::before(&stub);
    let mut client = proxy.connect();
    for _ in 0..50 {
        client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}");
        assert_eq!(client.read().unwrap().status(), 200);
    }
}

#[test]
fn no_write_is_lost_to_an_upstream_that_closes_idle_connections() {
    const IDLE: Duration = Duration::from_millis(80);
    let (closed, close) = channel();
    let stub = Stub::start(move |mut upstream| {
        upstream.stream.get_ref().set_read_timeout(Some(IDLE)).unwrap();
        while upstream.read().is_some() {
            upstream.write(HELLO);
        }
        drop(upstream);
        let _ = closed.send(());
    });
    let proxy = Proxy::before(&stub);
    let mut client = proxy.connect();
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        client.read().unwrap();
    }
    close.recv_timeout(PATIENCE).unwrap();
    for round in 0..24 {
        // About as long as the upstream waits.
        std::thread::sleep(Duration::from_millis(74 + round % 12));
        client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}");
        assert_eq!(client.read().unwrap().status(), 200, "write {round}");
    }
}

#[test]
fn no_write_is_lost_to_an_nginx_that_closes_idle_connections() {
    /// In milliseconds.
    const IDLE: u64 = 1_000;
    const CLIENTS: u64 = 32;
    let stub = Stub::answering(HELLO);
    let close_idle = |text: String| text.replace("keepalive_timeout 75s", "keepalive_timeout 1s");
    let Some(nginx) = Cache::start_changed(Kind::Nginx, free_port(), &stub.address.to_string(), close_idle)
    else {
        return;
    };
    let proxy = Proxy::start(&format!("http://{}/v1", nginx.address()), &[]);
    let write = |client: &mut Raw| {
        client.send("POST /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}");
        let answer = client.read().unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.head);
    };
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let mut client = proxy.connect();
            scope.spawn(move || {
                write(&mut client);
                for _ in 0..3 {
                    // About as long as nginx waits.
                    std::thread::sleep(Duration::from_millis(IDLE - CLIENTS / 2 + number));
                    write(&mut client);
                }
            });
        }
    });
    let heard = std::iter::from_fn(|| stub.seen()).count();
    assert_eq!(heard, 4 * usize::try_from(CLIENTS).unwrap(), "no write was lost, and none was sent twice");
}

#[tokio::test]
async fn an_upstream_may_listen_on_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kinto.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let kinto = Kinto::shared();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = tokio::net::TcpStream::connect(kinto.address()).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    let escaped = path.display().to_string().replace('/', "%2F");
    let bucket = unique("socket");
    let resources = format!("/buckets/{bucket}");
    let settings = [SERVICE_ACCOUNT, ("changes.resources", &*resources)];
    let sidecar = Sidecar::start(format!("http+unix://{escaped}/v1"), &settings);
    let owner = sidecar.client().user("owner");
    owner.put(&resources).await.expect(201);
    let collection = format!("{resources}/collections/c");
    owner.put(&collection).await.expect(201);
    owner.put(&format!("{collection}/records/r")).await.expect(201);
    let changeset = owner.get(&format!("{collection}/changeset?_expected=0")).await.expect(200).json();
    assert_eq!(changeset["changes"][0]["id"], "r");
    assert_eq!(owner.get(&format!("{collection}/records/r")).await.expect(200).data()["id"], "r");
}

#[tokio::test]
async fn own_questions_ask_for_no_compression() {
    let recorder = Recorder::before(Kinto::shared().url());
    let sidecar = Sidecar::start(recorder.url(), &[SERVICE_ACCOUNT, ("changes.resources", "/buckets/x")]);
    sidecar.client().get("/").await.expect(200);
    let is = |request: &Recorded, name: &str, wanted: &str| {
        request.headers.get(name).is_some_and(|value| value.as_bytes().starts_with(wanted.as_bytes()))
    };
    let own: Vec<Recorded> = recorder
        .requests()
        .into_iter()
        .filter(|request| is(request, "user-agent", "kinto-sidecar/"))
        .collect();
    assert!(!own.is_empty());
    assert!(own.iter().all(|request| is(request, "accept-encoding", "identity")), "{own:?}");
}

#[test]
fn a_client_that_goes_away_ends_the_request_upstream() {
    let (closed, close) = channel();
    let stub = Stub::start(move |mut upstream| {
        upstream.read();
        upstream.wait_for_close();
        let _ = closed.send(());
    });
    // It might still wait for its answer.
    let proxy = Proxy::start(&stub.url(), &["sidecar.body_timeout=300ms"]);
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    stub.next();
    client.close();
    close.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn a_client_that_goes_away_in_the_middle_of_an_answer_ends_it_upstream() {
    let (closed, close) = channel();
    let stub = Stub::start(move |mut upstream| {
        upstream.read();
        upstream.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while upstream.stream.get_mut().write_all(b"1\r\nx\r\n").is_ok() {}
        let _ = closed.send(());
    });
    let proxy = Proxy::before(&stub);
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    client.read_head().unwrap();
    client.close();
    close.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn an_answer_before_the_end_of_the_request_passes() {
    let stub = Stub::start(|mut upstream| {
        upstream.read_head();
        upstream.write("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
        upstream.wait_for_close();
    });
    let proxy = Proxy::before(&stub);
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\nabc");
    assert_eq!(client.read().unwrap().text(), "no");
}
