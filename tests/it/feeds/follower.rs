//! Somebody who follows a live feed, line by line, as it comes.

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::support::{PATIENCE, Sidecar};

/// A feed that is being read. Dropping it closes its connection.
pub struct Follower {
    body: Incoming,
    text: Vec<u8>,
    pub headers: HeaderMap,
    pub status: u16,
}

/// An event of an eventsource.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    pub name: Option<String>,
    pub data: Option<String>,
    pub id: Option<String>,
    pub retry: Option<String>,
}

impl Follower {
    /// Asks for a path below `/v1`; returns when the head of the answer is there.
    pub async fn open(sidecar: &Sidecar, path: &str, headers: &[(&str, &str)]) -> Self {
        Self::open_at(sidecar.address(), path, headers).await
    }

    /// The same of any server.
    pub async fn open_at(address: &str, path: &str, headers: &[(&str, &str)]) -> Self {
        Self::try_open_at(address, path, headers).await.unwrap_or_else(|trouble| panic!("{path}: {trouble}"))
    }

    /// The same of one that may be gone.
    pub async fn try_open_at(address: &str, path: &str, headers: &[(&str, &str)]) -> Result<Self, String> {
        let exchange = async {
            let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
            stream.set_nodelay(true).unwrap();
            let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
            let (mut sender, connection) = shaken.map_err(|error| error.to_string())?;
            tokio::spawn(connection);
            let mut request = http::Request::get(format!("/v1{path}")).header("host", address);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let answer = sender.send_request(request.body(Full::new(Bytes::new())).unwrap()).await;
            let (head, body) = answer.map_err(|error| error.to_string())?.into_parts();
            Ok(Self { body, text: Vec::new(), headers: head.headers, status: head.status.as_u16() })
        };
        tokio::time::timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err("no answer".to_owned()))
    }

    /// The next line; `None` at the end.
    pub async fn line(&mut self) -> Option<String> {
        self.try_line().await.unwrap_or_else(|error| panic!("the feed broke off: {error}"))
    }

    /// The same of a feed that may break off.
    pub async fn try_line(&mut self) -> Result<Option<String>, hyper::Error> {
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let rest = self.text.split_off(end + 1);
                let line = std::mem::replace(&mut self.text, rest);
                return Ok(Some(String::from_utf8(line).unwrap().trim_end_matches(['\r', '\n']).to_owned()));
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await;
            let Some(frame) = frame.unwrap_or_else(|_| panic!("nothing came after {:?}", self.text)) else {
                assert!(self.text.is_empty(), "half a line: {:?}", self.text);
                return Ok(None);
            };
            self.text.extend_from_slice(&frame?.into_data().unwrap_or_default());
        }
    }

    /// The next line that is not empty, as JSON; `None` at the end.
    pub async fn row(&mut self) -> Option<Value> {
        loop {
            let line = self.line().await?;
            if !line.is_empty() {
                return Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")));
            }
        }
    }

    /// The next event; `None` at the end.
    pub async fn event(&mut self) -> Option<Event> {
        self.try_event().await.unwrap_or_else(|error| panic!("the feed broke off: {error}"))
    }

    /// The same of a feed that may break off.
    pub async fn try_event(&mut self) -> Result<Option<Event>, hyper::Error> {
        let mut event = Event::default();
        loop {
            let Some(line) = self.try_line().await? else { return Ok(None) };
            let Some((name, value)) = line.split_once(": ") else {
                assert!(line.is_empty(), "{line}");
                return Ok(Some(event));
            };
            let value = Some(value.to_owned());
            match name {
                "event" => event.name = value,
                "data" => event.data = value,
                "id" => event.id = value,
                "retry" => event.retry = value,
                other => panic!("an event has no {other}"),
            }
        }
    }

    /// All that is left, as text.
    pub async fn rest(mut self) -> String {
        let mut lines = Vec::new();
        while let Some(line) = self.line().await {
            lines.push(line);
        }
        lines.join("\n")
    }
}
