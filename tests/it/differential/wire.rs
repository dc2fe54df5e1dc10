//! Requests to the byte, and what comes back of them.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use crate::support::stub::Raw;

/// An answer, as far as two of them are compared.
pub struct Answer {
    status: u16,
    body: Vec<u8>,
    location: String,
}

pub fn exchange(address: &str, bytes: &[u8]) -> Answer {
    let mut socket = Raw::connect(address.parse().unwrap());
    socket.send(bytes);
    let answer = socket.read();
    let Some(answer) = answer else { return Answer { status: 0, body: Vec::new(), location: String::new() } };
    let location = answer.header("location").first().map(|value| (*value).to_owned()).unwrap_or_default();
    Answer { status: answer.status(), location, body: answer.body }
}

pub fn basic(user: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:secret")))
}

impl Answer {
    /// Its status, and those of the answers in it where it is one to a batch.
    pub fn statuses(&self) -> Vec<u64> {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let inner = body["responses"].as_array().into_iter().flatten();
        std::iter::once(u64::from(self.status))
            .chain(inner.filter_map(|answer| answer["status"].as_u64()))
            .collect()
    }

    /// Whether the sidecar said this, and not Kinto.
    pub fn is_refused_here(&self) -> bool {
        let text = String::from_utf8_lossy(&self.body);
        let ours = ["is not read", "It is no batch as Kinto takes it", "is not JSON in UTF-8"];
        let is_not_json = text.contains("Invalid JSON: ") && !text.contains("Parse error");
        self.status == 400 && (text.is_empty() || is_not_json || ours.iter().any(|ours| text.contains(ours)))
    }

    pub fn body(&self) -> &[u8] {
        &self.body
    }

    pub fn summary(&self) -> String {
        let body = String::from_utf8_lossy(self.body.get(..200).unwrap_or(&self.body));
        format!("{:?} {} {body}", self.statuses(), self.location)
    }
}
