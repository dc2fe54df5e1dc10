//! The configurations in `deploy/`, run by the real nginx and Varnish: what they keep, for whom, and for how long.
//!
//! Only addresses and folders are changed. Where a program is not installed its tests say so and pass.

mod manifests;
mod package;
mod passing;
mod prometheus;
mod shared_poll;
mod unit;

use std::fs::{self, Permissions};
use std::io::{BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::framing::growing_body;
use crate::support::stub::{HELLO, Proxy, Raw, Stub};
use crate::support::{
    Client, Kinto, PATIENCE, Response, SERVICE_ACCOUNT, Sidecar, eventually, skip, undertaker, unique,
};

/// A cache, run with the configuration in `deploy/`; stopped when dropped.
pub struct Cache {
    process: Child,
    port: u16,
    _folder: TempDir,
}

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Nginx,
    Varnish,
}

impl Kind {
    /// Where the program is. Says what is left out where it is not.
    fn program(self) -> Option<PathBuf> {
        let name = match self {
            Self::Nginx => "nginx",
            Self::Varnish => "varnishd",
        };
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let mut folders: Vec<_> = std::env::split_paths(&folders).collect();
        folders.extend(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
        let found = folders.into_iter().map(|folder| folder.join(name)).find(|path| path.is_file());
        if found.is_none() {
            skip(&format!("{name} is not installed, so its configuration was not run"));
        }
        found
    }

    fn command(self, program: &Path, folder: &Path, port: u16, origin: &str) -> Command {
        let deploy = deploy_folder();
        let mut command = Command::new(program);
        let path = folder.join("configuration");
        let place = folder.display();
        let text = match self {
            Self::Nginx => {
                command
                    .arg("-p")
                    .arg(folder)
                    .arg("-c")
                    .arg(&path)
                    .args(["-e", "stderr", "-g", "daemon off;"]);
                let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                    .map(|name| format!("{name}_temp_path {place}/{name};\n"))
                    .concat();
                fs::read_to_string(deploy.join("nginx.conf"))
                    .unwrap()
                    .replace("sidecar:8889", origin)
                    .replace("listen 8080", &format!("listen 127.0.0.1:{port}"))
                    .replace("/run/nginx.pid", &format!("{place}/pid"))
                    .replace("/var/cache/nginx/kinto", &format!("{place}/cache"))
                    .replace("http {\n", &format!("http {{\n{temporary}"))
            }
            Self::Varnish => {
                let (host, origin_port) = origin.rsplit_once(':').unwrap();
                command.args(["-F", "-j", "none", "-T", "none", "-s", "malloc,64m"]);
                command.arg("-f").arg(&path).arg("-n").arg(folder.join("work"));
                command.arg("-a").arg(format!("127.0.0.1:{port}"));
                fs::read_to_string(deploy.join("varnish.vcl"))
                    .unwrap()
                    .replace("\"sidecar\"", &format!("\"{host}\""))
                    .replace("\"8889\"", &format!("\"{origin_port}\""))
            }
        };
        fs::write(path, text).unwrap();
        command
    }
}

/// The folder `deploy` of this checkout.
fn deploy_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

impl Cache {
    /// Starts the cache in front of `origin` (`host:port`), if it is installed; waits until it accepts connections.
    pub fn start(kind: Kind, port: u16, origin: &str) -> Option<Self> {
        Self::start_changed(kind, port, origin, |configuration| configuration)
    }

    /// The same, with something changed in the configuration.
    pub fn start_changed(
        kind: Kind,
        port: u16,
        origin: &str,
        change: impl FnOnce(String) -> String,
    ) -> Option<Self> {
        let program = kind.program()?;
        let folder = tempfile::tempdir().unwrap();
        // nginx started by root works as somebody else.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let mut command = kind.command(&program, folder.path(), port, origin);
        let path = folder.path().join("configuration");
        fs::write(&path, change(fs::read_to_string(&path).unwrap())).unwrap();
        let mut process =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        undertaker::watch(&process);
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if process.try_wait().unwrap().is_some() || Instant::now() > until {
                let _ = process.kill();
                let mut complaint = String::new();
                let _ = process.stderr.take().unwrap().read_to_string(&mut complaint);
                panic!("{kind:?} did not start:\n{complaint}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(Self { process, port, _folder: folder })
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn client(&self) -> Client {
        Client::new(&format!("127.0.0.1:{}", self.port))
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        // Their workers end with them, but only if they are asked to.
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
        undertaker::release(&self.process);
    }
}

/// A port below those that the system gives to whoever asks for any: another test could be given it meanwhile.
pub fn free_port() -> u16 {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let first = std::process::id() as usize * 64;
    let ports = std::iter::repeat_with(|| 16_384 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 16_384);
    ports
        .filter_map(|port| u16::try_from(port).ok())
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap()
}

/// Whether the outermost cache had the answer.
#[track_caller]
fn is_hit(response: &Response) -> bool {
    let statuses: Vec<_> = response.headers.get_all("cache-status").iter().collect();
    let last = statuses.last().unwrap_or_else(|| panic!("no Cache-Status: {response}")).to_str().unwrap();
    let last = last.rsplit(", ").next().unwrap();
    assert!(last.starts_with("nginx") || last.starts_with("varnish"), "{response}");
    last.contains("; hit")
}

/// A Kinto with one collection of one record, and a sidecar in front of it whose answers may be kept for an hour.
async fn origin(reader: &str, purge_port: Option<u16>) -> (Sidecar, String) {
    let kinto = Kinto::shared();
    let bucket = unique("cached");
    let alice = kinto.client().user("alice");
    let permissions = json!({"permissions": {"read": [reader]}});
    alice.put(&format!("/buckets/{bucket}")).json(permissions).await.expect(201);
    let collection = format!("/buckets/{bucket}/collections/articles");
    alice.put(&collection).await.expect(201);
    alice.put(&format!("{collection}/records/first")).await.expect(201);
    let resource = format!("/buckets/{bucket}");
    let purge_url = purge_port.map(|port| format!("http://127.0.0.1:{port}/"));
    let mut settings = vec![
        SERVICE_ACCOUNT,
        ("changes.resources", resource.as_str()),
        ("record_cache_expires_seconds", "3600"),
        ("sidecar.admin_listen", "127.0.0.1:0"),
    ];
    settings.extend(purge_url.as_deref().map(|url| ("sidecar.purge_url", url)));
    (Sidecar::start(kinto.url(), &settings), collection)
}

async fn second_reader_gets_the_copy(kind: Kind) {
    let (sidecar, collection) = origin("system.Everyone", None).await;
    let Some(cache) = Cache::start(kind, free_port(), sidecar.address()) else { return };
    for path in [format!("{collection}/changeset?_expected=0"), format!("{collection}/changeset?_expected=1")]
    {
        let first = cache.client().get(&path).await.expect(200);
        assert!(!is_hit(&first), "{first}");
        let second = hit(&cache, &path).await;
        assert_eq!(second.body, first.body);
        assert_eq!(second.header("etag"), first.header("etag"));
    }
}

#[tokio::test]
async fn nginx_gives_the_second_reader_its_copy_of_a_changeset() {
    second_reader_gets_the_copy(Kind::Nginx).await;
}

#[tokio::test]
async fn varnish_gives_the_second_reader_its_copy_of_a_changeset() {
    second_reader_gets_the_copy(Kind::Varnish).await;
}

async fn names_keep_answers_apart(kind: Kind) {
    let (sidecar, collection) = origin("system.Authenticated", None).await;
    let Some(cache) = Cache::start(kind, free_port(), sidecar.address()) else { return };
    let path = format!("{collection}/changeset?_expected=0");
    let alice = cache.client().user("alice");
    for _ in 0..2 {
        let own = alice.get(&path).await.expect(200);
        assert!(!is_hit(&own), "{own}");
        assert!(!is_hit(&cache.client().get(&path).await.expect(401)));
        assert!(!is_hit(&cache.client().user("bob").get(&path).await.expect(200)));
    }
}

#[tokio::test]
async fn nginx_keeps_nothing_of_what_was_asked_for_under_a_name() {
    names_keep_answers_apart(Kind::Nginx).await;
}

#[tokio::test]
async fn varnish_keeps_nothing_of_what_was_asked_for_under_a_name() {
    names_keep_answers_apart(Kind::Varnish).await;
}

#[tokio::test]
async fn a_write_through_the_sidecar_drops_the_copy_in_varnish() {
    let port = free_port();
    let (sidecar, collection) = origin("system.Everyone", Some(port)).await;
    let Some(cache) = Cache::start(Kind::Varnish, port, sidecar.address()) else { return };
    let path = format!("{collection}/changeset?_expected=0");
    let list = "/buckets/monitor/collections/changes/changeset?_expected=0";
    for path in [&path, list] {
        cache.client().get(path).await.expect(200);
        assert!(is_hit(&cache.client().get(path).await.expect(200)));
    }
    let written = cache.client().user("alice").put(&format!("{collection}/records/second")).await.expect(201);
    let timestamp = written.data()["last_modified"].clone();
    for path in [&path, list] {
        eventually("the copy is dropped", async || {
            let answer = cache.client().get(path).await.expect(200);
            (answer.json()["timestamp"] == timestamp).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn strangers_cannot_make_varnish_drop_what_they_choose() {
    let stub = Stub::answering("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 2\r\n\r\n{}");
    let Some(cache) = Cache::start(Kind::Varnish, free_port(), &stub.address.to_string()) else { return };
    cache.client().get("/a").await.expect(200);
    for key in [".*", "a b", "a/b/c", ""] {
        let purge = cache.client().request("PURGE".parse().unwrap(), "/").header("surrogate-key", key);
        purge.await.expect(400);
    }
    // Another address of this machine is a stranger's.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], cache.port)).into()).unwrap();
    let mut stranger = Raw(BufReader::new(socket.into()));
    stranger.send("PURGE / HTTP/1.1\r\nHost: h\r\nSurrogate-Key: a\r\n\r\n");
    assert_eq!(stranger.read().unwrap().status(), 403);
    assert!(is_hit(&cache.client().get("/a").await.expect(200)));
}

/// An origin that gives its answers' number, and nothing but errors once it is broken.
fn counting(cache_control: &'static str) -> (Stub, Arc<AtomicBool>) {
    let count = AtomicUsize::new(0);
    let broken = Arc::new(AtomicBool::new(false));
    let is_broken = Arc::clone(&broken);
    let stub = Stub::start(move |mut upstream| {
        while upstream.read().is_some() {
            let number = count.fetch_add(1, Ordering::Relaxed);
            let status = if is_broken.load(Ordering::Relaxed) { "503 Broken" } else { "200 OK" };
            upstream.write(format!(
                "HTTP/1.1 {status}\r\nCache-Control: max-age=1\r\nCDN-Cache-Control: {cache_control}\r\n\
                 Content-Length: 1\r\n\r\n{number}"
            ));
        }
    });
    (stub, broken)
}

/// Asks until the cache has a copy: it may store one after its client has had it.
async fn hit(cache: &Cache, path: &str) -> Response {
    eventually("there is a copy", async || {
        let answer = cache.client().get(path).await.expect(200);
        is_hit(&answer).then_some(answer)
    })
    .await
}

#[tokio::test]
async fn varnish_replaces_a_copy_in_the_background_while_it_may_be_stale() {
    let (stub, _) = counting("max-age=1, stale-while-revalidate=60");
    let Some(cache) = Cache::start(Kind::Varnish, free_port(), &stub.address.to_string()) else { return };
    cache.client().get("/a").await.expect(200);
    stub.next();
    let last_stale = eventually("the copy runs out", async || {
        let answer = cache.client().get("/a").await.expect(200);
        stub.has_next().then_some(answer)
    })
    .await;
    assert!(is_hit(&last_stale), "{last_stale}");
    eventually("the copy is replaced", async || {
        (cache.client().get("/a").await.expect(200).body != "0").then_some(())
    })
    .await;
}

async fn a_stale_copy_is_given_out(kind: Kind, cache_control: &'static str) {
    let (stub, broken) = counting(cache_control);
    let Some(cache) = Cache::start(kind, free_port(), &stub.address.to_string()) else { return };
    let copy = hit(&cache, "/a").await;
    broken.store(true, Ordering::Relaxed);
    while stub.has_next() {}
    for _ in 0..2 {
        let stale = eventually("the copy runs out", async || {
            let answer = cache.client().get("/a").await.expect(200);
            stub.has_next().then_some(answer)
        })
        .await;
        assert_eq!(stale.body, copy.body, "{stale}");
    }
}

#[tokio::test]
async fn varnish_gives_out_a_stale_copy_when_there_is_no_other() {
    a_stale_copy_is_given_out(Kind::Varnish, "max-age=1, stale-if-error=60").await;
}

#[tokio::test]
async fn nginx_gives_out_a_stale_copy_when_there_is_no_other() {
    a_stale_copy_is_given_out(Kind::Nginx, "max-age=1").await;
}

#[tokio::test]
async fn varnish_asks_first_where_no_staleness_is_allowed() {
    let (stub, _) = counting("max-age=1");
    let Some(cache) = Cache::start(Kind::Varnish, free_port(), &stub.address.to_string()) else { return };
    cache.client().get("/a").await.expect(200);
    stub.next();
    eventually("the copy runs out", async || {
        let answer = cache.client().get("/a").await.expect(200);
        let asked = stub.has_next();
        assert_eq!(answer.body != "0", asked, "{answer}");
        asked.then_some(())
    })
    .await;
}

#[test]
fn what_a_client_claims_about_itself_ends_at_the_cache() {
    let stub = Stub::answering(HELLO);
    for kind in [Kind::Nginx, Kind::Varnish] {
        let Some(cache) = Cache::start(kind, free_port(), &stub.address.to_string()) else { continue };
        let mut client = Raw::connect(cache.address().parse().unwrap());
        client.send(
            "GET /v1/ HTTP/1.1\r\nHost: h\r\nForwarded: for=192.0.2.1;host=evil\r\nX-Forwarded-Host: evil\r\n\
             X-Forwarded-Port: 666\r\nX-Forwarded-By: evil\r\nX-Forwarded-Proto: gopher\r\nX-Real-IP: 192.0.2.1\r\n\
             X-Forwarded-For: 192.0.2.1\r\n\r\n",
        );
        assert_eq!(client.read().unwrap().status(), 200);
        let seen = stub.next();
        for name in ["forwarded", "x-forwarded-port", "x-forwarded-by", "x-real-ip"] {
            assert!(seen.header(name).is_empty(), "{kind:?}: {name}");
        }
        assert!(seen.header("x-forwarded-host").iter().all(|host| *host == "h"), "{kind:?}");
        assert_eq!(seen.header("x-forwarded-proto"), ["http"], "{kind:?}");
        let chain = seen.header("x-forwarded-for").concat();
        assert_eq!(chain.rsplit(", ").next(), Some("127.0.0.1"), "{kind:?}");
    }
}

#[test]
fn nobody_smuggles_a_request_to_the_sidecar_through_nginx() {
    let stub = Stub::answering(HELLO);
    let proxy = Proxy::start(&stub.url(), &["sidecar.changes=auto"]);
    let Some(cache) = Cache::start(Kind::Nginx, free_port(), &proxy.address.to_string()) else { return };
    let (body, length) = growing_body("h");
    for number in 0..20 {
        let mut attacker = Raw::connect(cache.address().parse().unwrap());
        let line = "POST /v1/buckets/a/collections/b/changeset HTTP/1.1";
        let head = format!("{line}\r\nHost: h\r\nContent-Length: {length}\r\nX-Pad: ");
        attacker.send(format!("{head:p<4092}\r\n\r\n{body}"));
        assert_eq!(attacker.read().unwrap().status(), 405);
        // Whoever comes next has the answer to their own request, on whichever connection nginx takes.
        let mut victim = Raw::connect(cache.address().parse().unwrap());
        victim.send(format!("GET /v1/{number}?\"x\" HTTP/1.1\r\nHost: h\r\nAuthorization: Basic x\r\n\r\n"));
        assert_eq!(victim.read().unwrap().status(), 200);
        assert_eq!(stub.next().line(), format!("GET /v1/{number}?%22x%22 HTTP/1.1"));
    }
    assert!(!stub.has_next());
}

#[tokio::test]
async fn no_cache_keeps_what_is_not_for_shared_ones() {
    let (stub, _) = counting("no-store");
    for kind in [Kind::Nginx, Kind::Varnish] {
        let Some(cache) = Cache::start(kind, free_port(), &stub.address.to_string()) else { continue };
        for _ in 0..3 {
            assert!(!is_hit(&cache.client().get("/a").await.expect(200)), "{kind:?}");
            stub.next();
        }
    }
}
