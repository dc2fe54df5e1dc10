//! Batches that make and delete the same few objects, and the collection that these are in, again and again. Not their
//! bucket: with the plugin, entries of a bucket that one batch made and deleted are seen by whoever makes it next.

use serde_json::{Value, json};

use super::{Names, Request, basic, pick};
use crate::mirror_equals_upstream::random::Random;

pub fn draw(random: &mut Random, names: &Names) -> Request {
    let bucket = format!("/buckets/{}", pick::<String>(random, &names.buckets));
    let requests: Vec<Value> = (0..3 + random.below(6)).map(|_| one(random, &bucket)).collect();
    Request {
        method: "POST".to_owned(),
        target: b"/v1/batch".to_vec(),
        headers: vec![
            ("Authorization".to_owned(), basic(pick::<String>(random, &names.users))),
            ("Content-Type".to_owned(), "application/json".to_owned()),
        ],
        body: json!({"requests": requests}).to_string().into(),
        odd: Vec::new(),
    }
}

fn one(random: &mut Random, bucket: &str) -> Value {
    let path = match random.below(12) {
        0..=4 => format!("{bucket}/collections/r0"),
        5 => format!("{bucket}/groups/g3"),
        6 => format!("{bucket}/collections"),
        7 => format!("{bucket}/collections/r0/records"),
        _ => format!("{bucket}/collections/r0/records/{}", pick(random, &["r0", "R-1"])),
    };
    // A list is only deleted: what is made in it without an id has another one in each Kinto.
    let method = match path.rsplit('/').next() {
        Some("collections" | "records") => "DELETE",
        _ => pick(random, &["PUT", "PUT", "PUT", "PUT", "DELETE", "PATCH"]),
    };
    let mut request = json!({"method": method, "path": path});
    if method != "DELETE" {
        request["body"] = json!({"data": {"n": random.below(3)}});
        if random.below(2) == 0 {
            request["body"]["permissions"] =
                json!({"read": ["basicauth:x"], "write": ["system.Authenticated"]});
        }
    }
    request
}
