#![forbid(unsafe_code)]
//! `bare PORT FILE [FILE.gz [HEAD]]`: answers every request on loopback with the file, as JSON: what hyper alone costs.
//! HEAD is a file of header fields, `name: value`, that each answer has besides.
//!
//! Laid out as the sidecar is: a current-thread runtime and a listener for each core.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, body::Incoming, server::conn::http1};
use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol, Socket, Type};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = || arguments.next();
    let port = argument().and_then(|port| port.parse().ok()).ok_or(std::io::ErrorKind::InvalidInput)?;
    let mut read = || argument().map(|path| std::fs::read(path).map(Bytes::from)).transpose();
    let (identity, gzip) = (read()?.unwrap_or_default(), read()?);
    let head = head(&read()?.unwrap_or_default());
    let threads: Vec<_> = (0..std::thread::available_parallelism()?.get())
        .map(|_| {
            let (identity, gzip, head) = (identity.clone(), gzip.clone(), head.clone());
            std::thread::spawn(move || serve(port, identity, gzip, head))
        })
        .collect();
    threads.into_iter().try_for_each(|thread| thread.join().unwrap_or(Ok(())))
}

/// The header fields of a file.
fn head(content: &[u8]) -> HeaderMap {
    let lines = content.split(|byte| *byte == b'\n');
    let fields = lines.filter_map(|line| {
        let (name, value) = line.split_at_checked(line.iter().position(|byte| *byte == b':')?)?;
        let value = HeaderValue::from_bytes(value.strip_prefix(b": ")?).ok()?;
        Some((HeaderName::from_bytes(name).ok()?, value))
    });
    fields.collect()
}

fn serve(port: u16, identity: Bytes, gzip: Option<Bytes>, head: HeaderMap) -> std::io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_port(true)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    socket.listen(1024)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(socket.into())?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (identity, gzip, head) = (identity.clone(), gzip.clone(), head.clone());
            tokio::spawn(async move {
                let service = service_fn(async |request| answer(&request, &identity, gzip.as_ref(), &head));
                let mut http1 = http1::Builder::new();
                // A client that goes away is no fault.
                drop(http1.pipeline_flush(true).serve_connection(TokioIo::new(stream), service).await);
            });
        }
    })
}

fn answer(
    request: &Request<Incoming>,
    identity: &Bytes,
    gzip: Option<&Bytes>,
    head: &HeaderMap,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let wants_gzip = request.headers().get(ACCEPT_ENCODING).is_some_and(|value| value == "gzip");
    let coded = gzip.filter(|_| wants_gzip);
    let mut response = Response::new(Full::new(coded.unwrap_or(identity).clone()));
    response.headers_mut().clone_from(head);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if coded.is_some() {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}
