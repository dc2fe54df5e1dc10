//! Requests as clients send them, and as somebody sends them who wants a write to pass unseen.

use std::fmt;

use serde_json::{Value, json};

use super::wire::{basic, exchange};
use crate::mirror_equals_upstream::random::Random;

mod attacks;
mod churn;

/// What no ordinary client sends. Only what has one of these may be refused by the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Odd {
    /// A leading or a doubled slash.
    Slashes,
    /// `.` or `..` as a segment, as it is or escaped.
    Dots,
    Backslash,
    /// A `%` that escapes nothing.
    VainPercent,
    /// Bytes that are not ASCII, or escapes that are not UTF-8.
    Bytes,
    Null,
    /// A line feed behind the last word of a path.
    LineFeed,
    /// A query with the path in it, behind a trailing slash, in a batch.
    QueryPath,
    /// A target that is no path.
    NoPath,
    /// A method that is none.
    Method,
    /// A header of a sub-request with a line feed, white space around it or letters that are not ASCII.
    Header,
    /// A header of a sub-request twice, in different cases.
    HeaderTwice,
    /// A `Content-Length` of a sub-request, or a `Host` that is none.
    Framing,
    /// A batch in another charset than UTF-8.
    Charset,
    /// A body that is no JSON, or no batch.
    Body,
}

/// The users, buckets and ids of a world.
pub struct Names {
    users: Vec<String>,
    buckets: Vec<String>,
    ids: Vec<&'static str>,
}

const PLAIN: [&str; 4] = ["r0", "R-1", "c_2", "g3"];
const ODD: [&str; 12] =
    ["a.b", "x@example.org", "_x", "é", "a b", "100%", "\"q\"", "line\n", "#?&=", ";p,q", "batch", "%2F"];

impl Names {
    pub fn new(seed: u64, any_id: bool) -> Self {
        let mut ids = PLAIN.to_vec();
        // Kinto takes this one in any case.
        ids.push("nl\n");
        if any_id {
            ids.extend(ODD);
        } else {
            ids.extend(["a.b", "é"]);
        }
        let users = ["alice", "bob", "carol"].map(|user| format!("{user}{seed}")).to_vec();
        let buckets = [format!("one{seed}"), format!("two{seed}")].to_vec();
        Self { users, buckets, ids }
    }

    /// What is there before anything else.
    pub fn first(&self) -> Vec<Request> {
        let everybody =
            json!({"permissions": {"write": ["system.Authenticated"], "read": ["system.Everyone"]}});
        let make = |path: String| Request {
            method: "PUT".to_owned(),
            target: path.into(),
            headers: vec![
                ("Authorization".to_owned(), basic(&self.users[0])),
                ("Content-Type".to_owned(), "application/json".to_owned()),
            ],
            body: everybody.to_string().into(),
            odd: Vec::new(),
        };
        let buckets = self.buckets.iter().map(|bucket| make(format!("/v1/buckets/{bucket}")));
        let collections = self.buckets.iter().flat_map(|bucket| {
            ["r0", "c_2"].map(|collection| make(format!("/v1/buckets/{bucket}/collections/{collection}")))
        });
        buckets.chain(collections).collect()
    }

    /// The ids of all buckets that may have a history, and which are the users' own.
    pub fn buckets(&self, address: &str) -> Vec<(String, bool)> {
        let own = self.users.iter().map(|user| {
            let bytes = format!(
                "GET /v1/ HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: {}\r\n\r\n",
                basic(user)
            );
            let root: Value = serde_json::from_slice(exchange(address, bytes.as_bytes()).body()).unwrap();
            (root["user"]["bucket"].as_str().unwrap().to_owned(), true)
        });
        let ids = self.ids.iter().map(|id| (*id).to_owned());
        self.buckets.iter().cloned().chain(ids).map(|id| (id, false)).chain(own).collect()
    }
}

/// A request to the byte.
#[derive(Clone)]
pub struct Request {
    method: String,
    target: Vec<u8>,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// What is odd about it.
    pub odd: Vec<Odd>,
}

impl fmt::Display for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (target, body) = (String::from_utf8_lossy(&self.target), String::from_utf8_lossy(&self.body));
        let body = body.get(..1500).unwrap_or(&body);
        write!(formatter, "{} {target:?} {:?} {body:?} {:?}", self.method, self.headers, self.odd)
    }
}

impl Request {
    /// As it is sent to a server.
    pub fn bytes(&self, address: &str) -> Vec<u8> {
        let mut bytes = format!("{} ", self.method).into_bytes();
        bytes.extend_from_slice(&self.target);
        bytes.extend_from_slice(format!(" HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n").as_bytes());
        for (name, value) in &self.headers {
            // As latin-1, where it is not ASCII.
            bytes.extend_from_slice(format!("{name}: ").as_bytes());
            bytes.extend(value.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')));
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", self.body.len()).as_bytes());
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// One more.
    pub fn draw(random: &mut Random, names: &Names) -> Self {
        if random.below(6) == 0 {
            return attacks::draw(random, names);
        }
        if random.below(12) == 0 {
            return churn::draw(random, names);
        }
        let mut odd = Vec::new();
        let user = &names.users[below(random, names.users.len())];
        let mut headers = Vec::new();
        if random.below(12) > 0 {
            headers.push(("Authorization".to_owned(), basic(user)));
        }
        if random.below(5) == 0 {
            return batch(random, names, headers);
        }
        let (method, path) = operation(random, names);
        let (target, more) = spelt(random, path);
        odd.extend(more);
        let mut method = method.to_owned();
        if random.below(40) == 0 {
            method = method.to_lowercase();
            odd.push(Odd::Method);
        }
        match random.below(12) {
            0 => headers.push(("If-None-Match".to_owned(), "*".to_owned())),
            1 => headers.push(("If-Match".to_owned(), "\"1\"".to_owned())),
            // The plugin fails on a patch that is answered so.
            2 if method != "PATCH" => headers.push(("Response-Behavior".to_owned(), "light".to_owned())),
            3 if method != "PATCH" => headers.push(("response-behavior".to_owned(), "diff".to_owned())),
            4 => headers.push(("X-HTTP-Method-Override".to_owned(), "DELETE".to_owned())),
            _ => {}
        }
        let body = body(random, names, &method);
        let content_type = match random.below(15) {
            0 if method == "PATCH" => "application/merge-patch+json",
            1 => "application/json; charset=utf-8",
            2 => "text/plain",
            _ => "application/json",
        };
        headers.push(("Content-Type".to_owned(), content_type.to_owned()));
        Self { method, target, headers, body, odd }
    }
}

fn below(random: &mut Random, bound: usize) -> usize {
    usize::try_from(random.below(bound as u64)).unwrap()
}

fn pick<'p, T>(random: &mut Random, from: &'p [T]) -> &'p T {
    &from[below(random, from.len())]
}

/// The segments of a path: words, and ids that may be spelt in several ways.
#[derive(Clone, PartialEq)]
enum Segment {
    Word(&'static str),
    Id(String),
}

/// What is done to what.
fn operation(random: &mut Random, names: &Names) -> (&'static str, Vec<Segment>) {
    use Segment::{Id, Word};
    let id = |random: &mut Random| {
        let plain = random.below(3) > 0;
        let ids = if plain { &names.ids[..4] } else { &names.ids[..] };
        Id((*pick(random, ids)).to_owned())
    };
    let bucket = match random.below(8) {
        0 => Id("default".to_owned()),
        1 => id(random),
        _ => Id(pick(random, &names.buckets).clone()),
    };
    let collection =
        if random.below(3) > 0 { Id((*pick(random, &["r0", "c_2"])).to_owned()) } else { id(random) };
    let mut path = vec![Word("buckets"), bucket];
    let is_list = match random.below(20) {
        0 => false,
        1 | 2 => {
            path.extend([Word("groups"), id(random)]);
            false
        }
        3 => {
            path.push(Word("groups"));
            true
        }
        4 | 5 => {
            path.extend([Word("collections"), collection]);
            false
        }
        6 => {
            path.push(Word("collections"));
            true
        }
        7 | 8 => {
            path.extend([Word("collections"), collection, Word("records")]);
            true
        }
        _ => {
            path.extend([Word("collections"), collection, Word("records"), id(random)]);
            false
        }
    };
    let methods = if is_list {
        ["DELETE", "PUT", "POST", "POST", "POST", "POST", "POST", "POST", "POST", "POST"]
    } else {
        ["PUT", "PUT", "PUT", "PUT", "PUT", "PATCH", "PATCH", "DELETE", "DELETE", "POST"]
    };
    let method = *pick(random, &methods);
    (method, path)
}

/// A path as bytes, in one of the ways in which it can be written, and what is odd about that.
fn spelt(random: &mut Random, path: Vec<Segment>) -> (Vec<u8>, Vec<Odd>) {
    let mut text = "/v1".to_owned();
    for segment in path {
        text.push_str(if random.below(30) == 0 { "%2F" } else { "/" });
        match segment {
            Segment::Word(word) if random.below(25) == 0 => text.push_str(&escaped(random, word)),
            Segment::Word(word) => text.push_str(word),
            Segment::Id(id) => text.push_str(&escaped(random, &id)),
        }
    }
    let odd = |text: String, odd: Odd| (text.into_bytes(), vec![odd]);
    let middle = text.match_indices('/').nth(2).map_or(text.len(), |(at, _)| at);
    let (head, tail) = text.split_at(middle);
    match random.below(120) {
        0 => return odd(format!("/{text}"), Odd::Slashes),
        1 => return odd(format!("{head}/{tail}"), Odd::Slashes),
        2 => return odd(format!("{head}/.{tail}"), Odd::Dots),
        3 => return odd(format!("{head}/x/%2e.{tail}"), Odd::Dots),
        4 => return odd(format!("{head}/x/..{tail}"), Odd::Dots),
        5 => return odd(text.replacen("/buckets", "\\buckets", 1), Odd::Backslash),
        6 => return odd(format!("{text}%"), Odd::VainPercent),
        7 => return odd(format!("{text}%zz"), Odd::VainPercent),
        8 => return odd(format!("{text}é"), Odd::Bytes),
        9 => return odd(format!("{text}%ff"), Odd::Bytes),
        10 => return odd(format!("{text}%00"), Odd::Null),
        11 => return odd("/v1/buckets/default%0a".to_owned(), Odd::LineFeed),
        12 if !text.ends_with("%0A") => return odd(format!("{text}%0a"), Odd::LineFeed),
        13 => return odd(text.trim_start_matches('/').to_owned(), Odd::NoPath),
        14 => text.push_str("%2F"),
        15 => text.push('/'),
        16 => text.push_str("#f"),
        17 => text.push_str("?x=/v1/buckets/default"),
        18 => text.push_str(";x=1"),
        19 => text = text.replacen("/v1", "", 1),
        20 => text = text.replacen("/v1", "/V1", 1),
        21 => text = text.replacen("/v1", "/v0", 1),
        _ => {}
    }
    let mut odd = if text.starts_with('/') { Vec::new() } else { vec![Odd::NoPath] };
    if !text.starts_with("/v1/") && text.to_ascii_lowercase().ends_with("%0a") {
        // Only below the version it is known for the end of an id.
        odd.push(Odd::LineFeed);
    }
    (text.into_bytes(), odd)
}

/// An id or a word, with more escapes than it needs.
fn escaped(random: &mut Random, id: &str) -> String {
    let is_thorough = random.below(6) == 0;
    let mut text = String::new();
    for byte in id.bytes() {
        let has_to_be = !byte.is_ascii_alphanumeric() && !b"-_.~!$&'()*+,;=:@".contains(&byte);
        if has_to_be || is_thorough && random.below(2) == 0 {
            let hex = if random.below(2) == 0 { format!("%{byte:02x}") } else { format!("%{byte:02X}") };
            text.push_str(&hex);
        } else {
            text.push(char::from(byte));
        }
    }
    text
}

/// A request's body.
fn body(random: &mut Random, names: &Names, method: &str) -> Vec<u8> {
    // What is made in a list without an id has another one in each Kinto.
    let is_post = method.eq_ignore_ascii_case("POST");
    match random.below(25) {
        0 | 1 | 5 if is_post => {}
        0 => return Vec::new(),
        1 => return b"{}".to_vec(),
        2 => return b"not JSON".to_vec(),
        3 => return b"{\"data\":{\"x\":NaN}}".to_vec(),
        4 => return b"{\"data\":{\"x\":\"\\ud800\"}}".to_vec(),
        5 => return b"{\"data\":{\"x\":1}}\0".to_vec(),
        6 if !is_post => return b"{\"data\":{\"x\":1},\"data\":{\"y\":2,\"y\":3}}".to_vec(),
        _ => {}
    }
    object(random, names, method).to_string().into()
}

/// An object to write. Those that are made in a list have an id, which would be another one in each Kinto.
fn object(random: &mut Random, names: &Names, method: &str) -> Value {
    let mut data = json!({"n": random.next()});
    if method.eq_ignore_ascii_case("POST") {
        data["id"] = (*pick(random, &names.ids)).into();
    }
    match random.below(10) {
        0 => data["deep"] = serde_json::from_str(&format!("{}{}", "[".repeat(120), "]".repeat(120))).unwrap(),
        1 => data["x"] = json!({"é": [1.5, null, "😀", -0.0, 12_345_678_901_234_567_890_u64]}),
        2 => data = json!({"id": data["id"], "same": true}),
        3 => data["schema"] = json!({"type": "object"}),
        _ => {}
    }
    if data["id"].is_null()
        && let Some(members) = data.as_object_mut()
    {
        members.remove("id");
    }
    let mut object = json!({"data": data});
    if random.below(6) == 0 {
        object["permissions"] = json!({"write": ["system.Authenticated"], "read": ["basicauth:x"]});
    }
    object
}

fn batch(random: &mut Random, names: &Names, mut headers: Vec<(String, String)>) -> Request {
    let mut odd = Vec::new();
    let mut batch = json!({"requests": []});
    let mut requests = Vec::new();
    let mut bucket = None;
    for _ in 0..=random.below(3) {
        let (method, path) = of_one_bucket(random, names, &mut bucket);
        let (target, more) = spelt(random, path);
        odd.extend(more);
        let mut target = String::from_utf8(target).unwrap();
        if random.below(2) == 0 {
            target = target.replacen("/v1", "", 1);
        }
        if !target.starts_with('/') && !odd.contains(&Odd::NoPath) {
            odd.push(Odd::NoPath);
        }
        if random.below(30) == 0 {
            target = format!("{}/?x={target}/{}", target.trim_end_matches('/'), pick(random, &PLAIN));
            odd.push(Odd::QueryPath);
        }
        let mut request = json!({"method": method, "path": target});
        if method == "POST" || method != "DELETE" && random.below(10) > 0 {
            request["body"] = object(random, names, method);
        }
        sub_headers(random, names, &mut request, &mut odd);
        requests.push(request);
    }
    give_one_author(&mut requests, &odd);
    if random.below(4) == 0 {
        let default = match random.below(5) {
            0 => json!({"body": {"data": {"of": "default"}}}),
            1 => json!({"headers": {"Authorization": basic(&names.users[1])}}),
            2 => json!({"method": "PUT"}),
            3 => json!({"method": "", "path": "/"}),
            _ => {
                json!({"headers": {"authorization": basic(&names.users[2])}, "body": {"data": {"id": "r0"}}})
            }
        };
        if requests.iter().any(|request| names_twice(request, &default)) {
            odd.push(Odd::HeaderTwice);
        }
        batch["defaults"] = default;
        let request = pick(random, &requests).clone();
        let at = requests.iter().position(|known| *known == request).unwrap();
        match random.below(4) {
            0 => requests[at]["method"] = Value::Null,
            1 => requests[at]["method"] = json!(""),
            2 => _ = requests[at].as_object_mut().unwrap().remove("method"),
            _ => {}
        }
    }
    batch["requests"] = requests.into();
    let mut body = batch.to_string().into_bytes();
    match random.below(25) {
        0 => {
            body.push(0);
            odd.push(Odd::Body);
        }
        1 => {
            body.splice(0..0, "\u{feff}".bytes());
            odd.push(Odd::Body);
        }
        2 => {
            batch["unknown"] = json!(1);
            body = batch.to_string().into();
            odd.push(Odd::Body);
        }
        3 => {
            let twice = body.strip_prefix(b"{").unwrap();
            body = [&b"{\"requests\":[],"[..], twice].concat();
        }
        _ => {}
    }
    let mut content_type = "application/json";
    match random.below(30) {
        0 => content_type = "application/json;\u{a0}charset=utf-16",
        1 => content_type = "application/json; a=b; charset=utf-16",
        2 => content_type = "application/json; charset=UTF-8",
        3 => content_type = "application/json;charset=\"utf-8\"",
        _ => {}
    }
    if content_type.contains("utf-16") {
        let text = String::from_utf8(body).unwrap();
        body = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        odd.push(Odd::Charset);
    }
    headers.push(("Content-Type".to_owned(), content_type.to_owned()));
    let target = match random.below(12) {
        0 => "/v1/%62atch",
        1 => "/v1/batch#f",
        2 => "/v1/batch?x=1",
        3 => {
            odd.push(Odd::LineFeed);
            "/v1/batch%0a"
        }
        4 => "/v1/batch/",
        _ => "/v1/batch",
    };
    Request { method: "POST".to_owned(), target: target.into(), headers, body, odd }
}

/// What changes no other bucket object than a batch did so far.
///
/// The plugin puts changes of one kind of several buckets all into the history of the first.
fn of_one_bucket(
    random: &mut Random,
    names: &Names,
    bucket: &mut Option<Segment>,
) -> (&'static str, Vec<Segment>) {
    loop {
        let (method, path) = operation(random, names);
        let own = &path[1];
        let changes_it = path.len() == 2 || matches!(own, Segment::Id(id) if id == "default");
        if !changes_it || bucket.get_or_insert_with(|| own.clone()) == own {
            return (method, path);
        }
    }
}

/// Whether two have a header of one name in different cases.
fn names_twice(one: &Value, other: &Value) -> bool {
    let names = |request: &Value| -> Vec<String> {
        request["headers"].as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
    };
    let known = names(other);
    let is_other = |name: &String, known: &String| name != known && name.eq_ignore_ascii_case(known);
    names(one).iter().any(|name| known.iter().any(|known| is_other(name, known)))
}

/// The plugin gives changes of one kind that a batch makes in one list all to the author of the first.
fn give_one_author(requests: &mut [Value], odd: &[Odd]) {
    if requests.len() > 1 && !odd.contains(&Odd::Header) && !odd.contains(&Odd::HeaderTwice) {
        requests.iter_mut().filter(|request| has_credentials(request)).for_each(|request| {
            request["headers"] = json!({});
        });
    }
}

fn has_credentials(request: &Value) -> bool {
    let headers = request["headers"].as_object();
    headers.is_some_and(|headers| headers.keys().any(|name| name.eq_ignore_ascii_case("authorization")))
}

fn sub_headers(random: &mut Random, names: &Names, request: &mut Value, odd: &mut Vec<Odd>) {
    let credentials = basic(&names.users[below(random, names.users.len())]);
    let (headers, what) = match random.below(30) {
        0 => (json!({"Authorization": credentials}), None),
        1 => (json!({"authorization": credentials}), None),
        2 => (json!({"AUTHORIZATION": ""}), None),
        3 => (json!({"Authorization": format!("{credentials}\n")}), Some(Odd::Header)),
        4 => (json!({"Authorization": format!(" {credentials}")}), Some(Odd::Header)),
        5 => (json!({"Author\u{131}zation": credentials}), Some(Odd::Header)),
        6 => (json!({"Authorization": format!("{credentials}é")}), Some(Odd::Header)),
        7 => (
            json!({"Authorization": credentials, "authorization": basic(&names.users[0])}),
            Some(Odd::HeaderTwice),
        ),
        8 => (json!({"If-None-Match": "*"}), None),
        9 => (json!({"if_match": "\"1\""}), None),
        10 if request["method"] != "PATCH" => (json!({"response_behavior": "light"}), None),
        11 if request["method"] != "PATCH" => (json!({"Response-Behavior": "diff"}), None),
        12 => (json!({"content-length": "0"}), Some(Odd::Framing)),
        13 => (json!({"Content-Length": "0"}), None),
        14 => (json!({"Host": "h/v1/buckets/default/collections/r0/records/r0?"}), Some(Odd::Framing)),
        15 => (json!({"content-type": "application/json-patch+json"}), None),
        16 => (json!({"X": 1}), Some(Odd::Body)),
        _ => return,
    };
    request["headers"] = headers;
    odd.extend(what);
}
