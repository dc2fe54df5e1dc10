//! An HTTP client for tests: a connection for each request, nothing interpreted, every header looked at.

use std::fmt::Write;
use std::future::{Future, IntoFuture};
use std::pin::Pin;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::PATIENCE;

/// The headers that an answer may have. A hop-by-hop header, or one that nobody thought of, is a fault.
const KNOWN_HEADERS: &str = "
    access-control-allow-credentials access-control-allow-headers access-control-allow-methods access-control-allow-origin
    access-control-expose-headers access-control-max-age age alert allow backoff cache-control cache-status cache-tag
    cdn-cache-control content-encoding content-length content-security-policy content-type cursor date etag expires
    last-modified last-seq link location next-page pragma retry-after server snapshot-incomplete surrogate-key total-objects total-records transfer-encoding use-as-dictionary vary via
    www-authenticate x-accel-buffering x-content-type-options x-request-id
";

/// Who asks, and where.
#[derive(Clone, Debug)]
pub struct Client {
    address: String,
    headers: HeaderMap,
    strict: bool,
}

impl Client {
    /// An anonymous client of the server at `host:port`.
    pub fn new(address: &str) -> Self {
        Self { address: address.to_owned(), headers: HeaderMap::new(), strict: false }
    }

    /// Fails on every header of an answer that is not known.
    pub fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// The same client with the credentials of this user; Kinto's basic authentication believes any password.
    pub fn user(&self, name: &str) -> Self {
        let credentials = BASE64_STANDARD.encode(format!("{name}:secret"));
        self.with("authorization", &format!("Basic {credentials}"))
    }

    /// The same client, which sends this header with every request.
    pub fn with(&self, name: &'static str, value: &str) -> Self {
        let mut client = self.clone();
        client.headers.insert(name, HeaderValue::from_str(value).unwrap());
        client
    }

    pub fn get(&self, path: &str) -> Request {
        self.request(Method::GET, path)
    }

    /// All rows of a list, on all of its pages.
    pub async fn all(&self, path: &str) -> Vec<Value> {
        self.try_all(path).await.unwrap_or_else(|answer| panic!("{answer}"))
    }

    /// The same where it may fail: the answer that is no page.
    pub async fn try_all(&self, path: &str) -> Result<Vec<Value>, Response> {
        let (mut rows, mut next) = (Vec::new(), Some(path.to_owned()));
        while let Some(path) = next {
            let page = self.get(&path).await;
            if page.status != 200 {
                return Err(page);
            }
            rows.extend(page.data().as_array().unwrap().iter().cloned());
            next = page.header("next-page").map(|page| page.split_once("/v1").unwrap().1.to_owned());
        }
        Ok(rows)
    }

    pub fn head(&self, path: &str) -> Request {
        self.request(Method::HEAD, path)
    }

    pub fn put(&self, path: &str) -> Request {
        self.request(Method::PUT, path)
    }

    pub fn post(&self, path: &str) -> Request {
        self.request(Method::POST, path)
    }

    pub fn patch(&self, path: &str) -> Request {
        self.request(Method::PATCH, path)
    }

    pub fn delete(&self, path: &str) -> Request {
        self.request(Method::DELETE, path)
    }

    /// A request for a path below `/v1`, such as `/buckets/a`; `.await` sends it.
    pub fn request(&self, method: Method, path: &str) -> Request {
        self.request_target(method, &format!("/v1{path}"))
    }

    /// A request for exactly this target.
    pub fn request_target(&self, method: Method, target: &str) -> Request {
        Request {
            client: self.clone(),
            method,
            target: target.to_owned(),
            headers: self.headers.clone(),
            body: Bytes::new(),
        }
    }
}

/// A request that is being put together; `.await` sends it and fails the test when no answer comes.
#[derive(Clone, Debug)]
pub struct Request {
    client: Client,
    method: Method,
    target: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Request {
    /// With a header, beside those of the same name.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().unwrap();
        self.headers.append(name, HeaderValue::from_str(value).unwrap());
        self
    }

    /// With a JSON body.
    pub fn json(mut self, body: Value) -> Self {
        self.headers.insert("content-type", HeaderValue::from_static("application/json"));
        self.body = body.to_string().into();
        self
    }

    /// With the body `{"data": data}`.
    pub fn data(self, data: Value) -> Self {
        self.json(serde_json::json!({ "data": data }))
    }

    /// With these bytes as its body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Method, target and body, for a failure to be understood.
    pub fn line(&self) -> String {
        format!("{} {} {}", self.method, self.target, String::from_utf8_lossy(&self.body))
    }

    /// Sends it; what goes wrong below HTTP comes back as text.
    pub async fn attempt(self) -> Result<Response, String> {
        let Self { client, method, target, headers, body } = self;
        let what = format!("{method} {target}");
        let failed = |error: &dyn std::fmt::Display| format!("{what}: {error}");
        let exchange = async {
            let stream = TcpStream::connect(&client.address).await.map_err(|error| failed(&error))?;
            stream.set_nodelay(true).map_err(|error| failed(&error))?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|error| failed(&error))?;
            tokio::spawn(connection);
            let mut request = http::Request::new(Full::new(body));
            *request.method_mut() = method.clone();
            *request.uri_mut() = target.parse().map_err(|error| failed(&error))?;
            *request.headers_mut() = headers;
            if !request.headers().contains_key("host") {
                let host = HeaderValue::from_str(&client.address).map_err(|error| failed(&error))?;
                request.headers_mut().insert("host", host);
            }
            let answer = sender.send_request(request).await.map_err(|error| failed(&error))?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await.map_err(|error| failed(&error))?.to_bytes();
            Ok::<_, String>(Response {
                what: what.clone(),
                status: head.status.as_u16(),
                headers: head.headers,
                body,
            })
        };
        let response = match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(outcome) => outcome?,
            Err(_) => return Err(failed(&"no whole answer in time")),
        };
        if client.strict {
            response.check_headers();
        }
        Ok(response)
    }
}

impl IntoFuture for Request {
    type Output = Response;
    type IntoFuture = Pin<Box<dyn Future<Output = Response> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.attempt().await.unwrap_or_else(|trouble| panic!("{trouble}")) })
    }
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Response {
    what: String,
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Response {
    /// Fails the test on any other status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self}");
        self
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).unwrap()
    }

    /// `data` of the body.
    #[track_caller]
    pub fn data(&self) -> Value {
        self.json()["data"].clone()
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The timestamp in `ETag`, in milliseconds.
    #[track_caller]
    pub fn timestamp(&self) -> u64 {
        let etag = self.header("etag").unwrap_or_else(|| panic!("no ETag: {self}"));
        etag.trim_matches('"').parse().unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    fn check_headers(&self) {
        for (name, value) in &self.headers {
            let name = name.as_str();
            let known = KNOWN_HEADERS.split_whitespace().any(|known| known == name);
            assert!(known, "an answer has no business with the header {name}: {value:?}: {self}");
        }
        if let Some(coding) = self.header("transfer-encoding") {
            assert_eq!(coding, "chunked", "{self}");
            assert!(self.header("content-length").is_none(), "two lengths: {self}");
        }
    }
}

impl std::fmt::Display for Response {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut lines = format!("{} -> {}\n", self.what, self.status);
        for (name, value) in &self.headers {
            writeln!(lines, "{name}: {}", String::from_utf8_lossy(value.as_bytes()))?;
        }
        let body = self.body.get(..2000).unwrap_or(&self.body);
        write!(formatter, "{lines}\n{}", String::from_utf8_lossy(body))
    }
}
