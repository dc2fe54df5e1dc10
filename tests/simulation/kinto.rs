//! A Kinto in memory: one bucket with one collection, records, and timestamps as Kinto gives them.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, DATE, ETAG, IF_NONE_MATCH};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::time::Instant;

/// The bucket, the collection, and the records of it.
pub const BUCKET: &str = "/buckets/b";
pub const COLLECTION: &str = "/buckets/b/collections/c";
pub const RECORDS: &str = "/buckets/b/collections/c/records";

/// What was written, in the order of its timestamps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub id: String,
    pub modified: u64,
    pub deleted: bool,
    pub author: String,
}

/// See the module.
#[derive(Debug)]
pub struct Kinto {
    begun: u64,
    since: Instant,
    /// The newest timestamp that it gave out, and the newest one that is committed.
    given: u64,
    newest: u64,
    /// Rows of transactions.
    transactions: Vec<Value>,
    /// Records and tombstones.
    rows: BTreeMap<String, Value>,
    pub versions: Vec<Version>,
}

impl Kinto {
    pub fn new() -> Self {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
        let begun = u64::try_from(now).unwrap();
        Self {
            begun,
            since: Instant::now(),
            given: begun,
            newest: begun,
            transactions: Vec::new(),
            rows: BTreeMap::new(),
            versions: Vec::new(),
        }
    }

    /// The timestamp of whatever is written now.
    fn timestamp(&mut self) -> u64 {
        let elapsed = u64::try_from(self.since.elapsed().as_millis()).unwrap();
        self.given = (self.begun + elapsed).max(self.given + 1);
        self.given
    }

    /// A transaction begins: it has its timestamp, and nobody sees what it writes.
    pub fn begin(&mut self, id: &str, deletes: bool) -> usize {
        let modified = self.timestamp();
        let is_there = self.rows.get(id).is_some_and(|row| row["deleted"] != true);
        let row = if deletes && is_there {
            json!({"id": id, "last_modified": modified, "deleted": true})
        } else {
            json!({"id": id, "last_modified": modified, "late": modified})
        };
        self.transactions.push(row);
        self.transactions.len() - 1
    }

    /// What a transaction writes.
    pub fn written(&self, transaction: usize) -> String {
        self.transactions[transaction]["id"].as_str().unwrap_or_default().to_owned()
    }

    /// A transaction ends: everybody sees what it wrote.
    pub fn commit(&mut self, transaction: usize) -> Value {
        let row = self.transactions[transaction].clone();
        self.newest = self.newest.max(row["last_modified"].as_u64().unwrap_or_default());
        self.rows.insert(self.written(transaction), row.clone());
        row
    }

    /// The records that there are.
    pub fn alive(&self) -> BTreeMap<String, Value> {
        self.rows
            .iter()
            .filter(|(_, row)| row["deleted"] != true)
            .map(|(id, row)| (id.clone(), row.clone()))
            .collect()
    }

    /// The newest version of each record.
    pub fn newest(&self, id: &str) -> Option<&Version> {
        self.versions.iter().rev().find(|version| version.id == id)
    }

    /// Answers a request as Kinto would. A write is done when this returns.
    pub fn answer(&mut self, request: &Parts, body: &Bytes) -> Response<Bytes> {
        let path = request.uri.path_and_query().map_or("/", |path| path.as_str());
        self.answer_to(&request.method, path, &request.headers, body)
    }

    fn answer_to(
        &mut self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Response<Bytes> {
        let user = user(headers);
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let path = path.strip_prefix("/v1").unwrap_or(path);
        let known = headers.get(IF_NONE_MATCH).and_then(|tag| tag.to_str().ok());
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        match path {
            "/" | "" if is_read => object(
                json!({
                    "project_name": "kinto", "project_version": "26.5.0", "http_api_version": "1.24",
                    "settings": {"batch_max_requests": 25, "readonly": false}, "capabilities": {},
                    "user": {"id": user, "principals": [user, "system.Everyone", "system.Authenticated"]},
                }),
                None,
            ),
            "/batch" => self.batch(headers, body),
            "/buckets" if is_read => {
                list(self.begun, known, vec![json!({"id": "b", "last_modified": self.begun})])
            }
            BUCKET if is_read => self.parent("b", known),
            "/buckets/b/collections" if is_read => {
                list(self.begun, known, vec![json!({"id": "c", "last_modified": self.begun})])
            }
            "/buckets/b/groups" if is_read => list(self.begun, known, Vec::new()),
            COLLECTION if is_read => self.parent("c", known),
            RECORDS if is_read => {
                let rows = self.rows.values().filter(|row| is_asked_for(row, query)).cloned().collect();
                list(self.newest, known, rows)
            }
            _ => match path.strip_prefix(RECORDS).and_then(|rest| rest.strip_prefix('/')) {
                Some(id) if is_read => match self.rows.get(id).filter(|row| row["deleted"] != true) {
                    Some(row) => {
                        let author = self.newest(id).map(|version| version.author.clone());
                        object(
                            json!({"data": row, "permissions": {"write": [author]}}),
                            row["last_modified"].as_u64(),
                        )
                    }
                    None => missing("record", id),
                },
                Some(id) if *method == Method::PUT || *method == Method::DELETE => {
                    self.write(method, id, user.as_deref().unwrap_or_default(), body)
                }
                Some(_) => answer(StatusCode::METHOD_NOT_ALLOWED, &json!({"code": 405, "errno": 115}), None),
                None => missing(
                    if path.contains("/groups/") { "group" } else { "bucket" },
                    path.rsplit('/').next().unwrap_or_default(),
                ),
            },
        }
    }

    fn parent(&self, id: &str, known: Option<&str>) -> Response<Bytes> {
        if known == Some(&tag(self.begun)) {
            return answer(StatusCode::NOT_MODIFIED, &Value::Null, Some(self.begun));
        }
        let permissions = json!({"read": ["system.Authenticated"], "write": ["basicauth:owner"]});
        object(
            json!({"data": {"id": id, "last_modified": self.begun}, "permissions": permissions}),
            Some(self.begun),
        )
    }

    fn write(&mut self, method: &Method, id: &str, author: &str, body: &[u8]) -> Response<Bytes> {
        let is_there = self.rows.get(id).is_some_and(|row| row["deleted"] != true);
        let deleted = *method == Method::DELETE;
        if deleted && !is_there {
            return missing("record", id);
        }
        let modified = self.timestamp();
        self.newest = modified;
        let mut data = if deleted {
            json!({"deleted": true})
        } else {
            serde_json::from_slice::<Value>(body).map(|body| body["data"].clone()).unwrap_or_default()
        };
        data["id"] = json!(id);
        data["last_modified"] = json!(modified);
        self.rows.insert(id.to_owned(), data.clone());
        self.versions.push(Version { id: id.to_owned(), modified, deleted, author: author.to_owned() });
        let status = if deleted || is_there { StatusCode::OK } else { StatusCode::CREATED };
        let body = if deleted {
            json!({"data": data})
        } else {
            json!({"data": data, "permissions": {"write": [author]}})
        };
        answer(status, &body, Some(modified))
    }

    fn batch(&mut self, headers: &HeaderMap, body: &[u8]) -> Response<Bytes> {
        let asked: Value = serde_json::from_slice(body).unwrap_or_default();
        let default = asked["defaults"]["method"].as_str().unwrap_or("GET").to_owned();
        let requests = asked["requests"].as_array().cloned().unwrap_or_default();
        let answers = requests.iter().map(|request| {
            let path = request["path"].as_str().unwrap_or_default();
            let path = if path.starts_with("/v1") { path.to_owned() } else { format!("/v1{path}") };
            let method = Method::from_bytes(request["method"].as_str().unwrap_or(&default).as_bytes());
            let body = request.get("body").map(Value::to_string).unwrap_or_default();
            let mut own = HeaderMap::new();
            own.extend(headers.get(AUTHORIZATION).map(|value| (AUTHORIZATION, value.clone())));
            let answer = self.answer_to(&method.unwrap_or_default(), &path, &own, body.as_bytes());
            let named = answer.headers().iter().map(|(name, value)| {
                (name.as_str().to_owned(), json!(value.to_str().unwrap_or_default()))
            });
            json!({
                "status": answer.status().as_u16(), "path": path, "headers": named.collect::<serde_json::Map<_, _>>(),
                "body": serde_json::from_slice::<Value>(answer.body()).unwrap_or_default(),
            })
        });
        object(json!({"responses": answers.collect::<Vec<_>>()}), None)
    }
}

/// Who asks.
pub fn user(headers: &HeaderMap) -> Option<String> {
    let encoded = headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
    let decoded = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    Some(format!("basicauth:{}", decoded.split(':').next()?))
}

/// Whether a filter takes a row.
fn is_asked_for(row: &Value, query: &str) -> bool {
    let is_tombstone = row["deleted"] == true;
    let mut shows_tombstones = false;
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        let value = percent_decode_str(value).decode_utf8_lossy();
        let number = || value.trim_matches('"').parse::<u64>().unwrap_or_default();
        let modified = row["last_modified"].as_u64().unwrap_or_default();
        match name {
            "_since" | "gt_last_modified" if modified <= number() => return false,
            "_since" | "gt_last_modified" | "not_last_modified" => shows_tombstones = true,
            "in_id" if !value.split(',').any(|id| row["id"] == id.trim_matches('"')) => return false,
            "deleted" if is_tombstone.to_string() != *value => return false,
            "in_id" | "deleted" | "_fields" | "_sort" | "_limit" => {}
            other => panic!("the Kinto of the simulation does not know {other}"),
        }
    }
    shows_tombstones || !is_tombstone
}

fn tag(timestamp: u64) -> String {
    format!("\"{timestamp}\"")
}

fn list(timestamp: u64, known: Option<&str>, mut rows: Vec<Value>) -> Response<Bytes> {
    if known == Some(&tag(timestamp)) {
        return answer(StatusCode::NOT_MODIFIED, &Value::Null, Some(timestamp));
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row["last_modified"].as_u64()));
    let total = rows.iter().filter(|row| row["deleted"] != true).count();
    let mut answer = answer(StatusCode::OK, &json!({"data": rows}), Some(timestamp));
    answer.headers_mut().insert("total-objects", total.into());
    answer
}

fn object(value: Value, timestamp: Option<u64>) -> Response<Bytes> {
    answer(StatusCode::OK, &value, timestamp)
}

fn missing(kind: &str, id: &str) -> Response<Bytes> {
    let details = json!({"id": id, "resource_name": kind});
    answer(StatusCode::NOT_FOUND, &json!({"code": 404, "errno": 110, "details": details}), None)
}

fn answer(status: StatusCode, body: &Value, timestamp: Option<u64>) -> Response<Bytes> {
    let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, "application/json".parse().unwrap());
    headers.insert(DATE, httpdate::fmt_http_date(std::time::SystemTime::now()).parse().unwrap());
    if let Some(timestamp) = timestamp {
        headers.insert(ETAG, tag(timestamp).parse().unwrap());
    }
    answer
}
