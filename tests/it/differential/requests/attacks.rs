//! Writes that are carried out unless somebody keeps them from it: whoever sends them may write there, and only one thing
//! about each is odd.

use serde_json::{Value, json};

use super::{Names, Odd, PLAIN, Request, below, pick};
use crate::differential::wire::basic;
use crate::mirror_equals_upstream::random::Random;

/// Where its user may write: a record of their own bucket, or of one that all share.
fn record(random: &mut Random, names: &Names, is_own: bool) -> String {
    let bucket = if is_own { "default" } else { pick(random, &names.buckets) };
    let collection = pick(random, &["r0", "c_2"]);
    format!("/v1/buckets/{bucket}/collections/{collection}/records/{}", pick(random, &PLAIN))
}

fn data(random: &mut Random, id: Option<&str>) -> Value {
    let number = random.next();
    id.map_or_else(|| json!({"data": {"n": number}}), |id| json!({"data": {"n": number, "id": id}}))
}

pub fn draw(random: &mut Random, names: &Names) -> Request {
    let user = below(random, names.users.len());
    let headers = vec![("Authorization".to_owned(), basic(&names.users[user]))];
    if random.below(2) == 0 { alone(random, names, headers) } else { batch(random, names, user, headers) }
}

/// A request whose path some server reads otherwise than it is written.
fn alone(random: &mut Random, names: &Names, mut headers: Vec<(String, String)>) -> Request {
    let path = record(random, names, true);
    let (list, id) = path.rsplit_once('/').unwrap();
    let below_root = path.trim_start_matches("/v1");
    let mut method = "PUT";
    let mut body = data(random, None);
    let (target, odd) = match random.below(20) {
        0 => (format!("/{path}"), Odd::Slashes),
        1 => (format!("//{path}"), Odd::Slashes),
        2 => (format!("http://h/{path}"), Odd::Slashes),
        3 => (format!("{list}//{id}"), Odd::Slashes),
        4 => (format!("/v1/.{below_root}"), Odd::Dots),
        5 => (format!("/v1/x/..{below_root}"), Odd::Dots),
        6 => (format!("/v1/x/%2e%2E{below_root}"), Odd::Dots),
        7 => (format!("{list}/x/../{id}"), Odd::Dots),
        8 => (format!("/v1/x%2f..%2F{}", below_root.trim_start_matches('/')), Odd::Dots),
        9 => (format!("/v1\\{}", below_root.trim_start_matches('/')), Odd::Backslash),
        10 => (format!("{path}%"), Odd::VainPercent),
        11 => (format!("{path}%zz"), Odd::VainPercent),
        12 => (format!("{path}%4"), Odd::VainPercent),
        13 => (format!("{path}é"), Odd::Bytes),
        14 => (format!("{path}%ff"), Odd::Bytes),
        15 => (format!("{path}%00"), Odd::Null),
        16 => (path.trim_start_matches('/').to_owned(), Odd::NoPath),
        17 => {
            let put = json!({"requests": [{"method": "PUT", "path": path, "body": body}]});
            (method, body) = ("POST", put);
            ("/v1/batch%0a".to_owned(), Odd::LineFeed)
        }
        18 => ("/v1/buckets/default%0a".to_owned(), Odd::LineFeed),
        _ => {
            (method, body) = ("POST", data(random, Some(id)));
            (format!("{list}%0a"), Odd::LineFeed)
        }
    };
    headers.push(("Content-Type".to_owned(), "application/json".to_owned()));
    let (method, target) = (method.to_owned(), target.into_bytes());
    Request { method, target, headers, body: body.to_string().into(), odd: vec![odd] }
}

/// A batch of which Kinto makes something else than others would.
fn batch(random: &mut Random, names: &Names, user: usize, headers: Vec<(String, String)>) -> Request {
    let path = record(random, names, false);
    let other = basic(&names.users[(user + 1) % names.users.len()]);
    let mut put = json!({"method": "PUT", "path": path, "body": data(random, None)});
    let mut content_type = "application/json";
    let with = |put: &mut Value, headers: Value, odd: Odd| {
        put["headers"] = headers;
        odd
    };
    let mut encode: fn(String) -> Vec<u8> = String::into_bytes;
    let odd = match random.below(18) {
        0 | 1 => {
            put["path"] = format!("{path}/?x={path}/{}", pick(random, &PLAIN)).into();
            Odd::QueryPath
        }
        2 => with(&mut put, json!({"Authorization": format!("{other}\n")}), Odd::Header),
        3 => with(&mut put, json!({"authorization": format!(" {other}")}), Odd::Header),
        4 => with(&mut put, json!({"Authorization": other.replace(' ', "\t")}), Odd::Header),
        5 | 6 => {
            // Not in the order of the alphabet.
            encode = |text| {
                let text = text.replacen("\"0\":", "\"authorization\":", 1);
                text.replacen("\"1\":", "\"Authorization\":", 1).into()
            };
            let third = basic(&names.users[(user + 2) % names.users.len()]);
            with(&mut put, json!({"0": other, "1": third}), Odd::HeaderTwice)
        }
        7 => with(&mut put, json!({"content-length": "0"}), Odd::Framing),
        8 => {
            let host = "h/v1/buckets/default/collections/r0/records/r0?";
            with(&mut put, json!({"Host": host}), Odd::Framing)
        }
        9 => {
            put["path"] = format!("/{path}").into();
            Odd::Slashes
        }
        10 => {
            put["path"] = format!("{path}é").into();
            Odd::Bytes
        }
        11 => {
            encode = |text| format!("{text}\0").into();
            Odd::Body
        }
        12 => {
            encode = |text| format!("\u{feff}{text}").into();
            Odd::Body
        }
        13 => {
            encode = |text| text.replacen("{\"requests\":", "{\"x\":1,\"requests\":", 1).into();
            Odd::Body
        }
        14 | 15 => {
            content_type =
                *pick(random, &["application/json;\u{a0}charset=utf-16", "application/json; charset=utf-16"]);
            encode = |text| text.encode_utf16().flat_map(u16::to_le_bytes).collect();
            Odd::Charset
        }
        _ => {
            // What is one text in UTF-8 ends in UTF-7, and a method begins.
            content_type = "application/json; charset=utf-7";
            put["path"] = format!("{path}+ACI-,+ACI-method+ACI-:+ACI-PUT").into();
            put.as_object_mut().unwrap().remove("method");
            Odd::Charset
        }
    };
    let mut headers = headers;
    headers.push(("Content-Type".to_owned(), content_type.to_owned()));
    let body = encode(json!({"requests": [{"path": "/"}, put]}).to_string());
    Request { method: "POST".to_owned(), target: "/v1/batch".into(), headers, body, odd: vec![odd] }
}
