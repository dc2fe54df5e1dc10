//! Bodies and queries that are small, and much once they are read.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use serde_json::{Value, json};

use super::{Dice, ask, at_once, bounded, neighbours, public};
use crate::support::{Kinto, SERVICE_ACCOUNT, Sidecar, eventually, unique};

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn post(address: &str, filter: &str, body: &[u8]) -> Option<u16> {
    let request = format!(
        "POST /v1/_changes?filter={filter} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
    );
    ask(address, &request, body)
}

#[tokio::test]
async fn a_selector_is_refused_by_what_it_would_become() {
    let (sidecar, _) = public(&[]).await;
    let many = gzip(&format!("{{\"selector\":{{\"$and\":[{}{{}}]}}}}", "{\"x\":1},".repeat(1_000_000)));
    assert!(many.len() < 64_000, "{}", many.len());
    bounded(&sidecar, "a million conditions", || {
        at_once(16, |_| {
            let status = post(sidecar.address(), "_selector", &many);
            assert!(matches!(status, Some(413 | 503)), "{status:?}");
        });
    });
}

#[tokio::test]
async fn a_text_is_refused_by_how_long_it_would_become() {
    let (sidecar, _) = public(&[]).await;
    let [before, after] = ["{\"selector\":{\"x\":\"", "\"}}"].map(gzip);
    let text = gzip(&"x".repeat(8 << 20));
    // What is compressed in parts is one text.
    let long = [vec![before], vec![text; 30], vec![after]].concat().concat();
    assert!(long.len() < 1 << 20, "{}", long.len());
    bounded(&sidecar, "a long text", || {
        at_once(4, |_| {
            let status = post(sidecar.address(), "_selector", &long);
            assert!(matches!(status, Some(413 | 503)), "{status:?}");
        });
    });
}

#[tokio::test]
async fn many_filters_of_a_long_list_hold_nobody_up() {
    let alice = Kinto::shared().client().user("alice");
    let bucket = format!("/buckets/{}", unique("long"));
    alice.put(&bucket).json(json!({"permissions": {"read": ["system.Everyone"]}})).await.expect(201);
    for batch in 0..20 {
        let path = |number| json!({"path": format!("{bucket}/collections/c{batch}-{number}")});
        let made = json!({"defaults": {"method": "PUT"}, "requests": (0..25).map(path).collect::<Vec<_>>()});
        alice.post("/batch").json(made).await.expect(200);
    }
    let settings = [SERVICE_ACCOUNT, ("changes.resources", &*bucket), ("sidecar.history", "off")];
    let sidecar = Sidecar::start(Kinto::shared().url(), &settings);
    let list = "/v1/buckets/monitor/collections/changes/records";
    let filters: Vec<_> =
        (0..47).map(|number| format!("like_bucket=*l*o*n*g*&not_collection={number}")).collect();
    let request = format!("GET {list}?{}&_sort=host,-id HTTP/1.1\r\n", filters.join("&"));
    eventually("the list", async || (ask(sidecar.address(), &request, b"") == Some(200)).then_some(())).await;
    bounded(&sidecar, "filters of a long list", || {
        at_once(8, |_| assert_eq!(ask(sidecar.address(), &request, b""), Some(200)));
    });
}

/// A selector that asks much of each element of what is long.
fn of_elements(dice: &mut Dice) -> Value {
    let many = usize::try_from(dice.roll(390) + 1).unwrap();
    let numbers: Vec<u64> = (1..dice.roll(4_900) + 2).rev().collect();
    let field = dice.pick(&["list", "object"]);
    let value = dice.pick(&[json!(-1), json!("n"), json!([1]), json!(1)]);
    let condition = dice.pick(&["$ne", "$eq", "$gt"]);
    let combined = json!({dice.pick(&["$and", "$or", "$nor"]): vec![json!({condition: value}); many]});
    let asked = match dice.roll(6) {
        0 | 1 => json!({"$all": ([&numbers[..], &[0]].concat())}),
        2 => {
            json!({dice.pick(&["$in", "$nin"]): numbers.iter().map(|number| number + 9_000).collect::<Vec<_>>()})
        }
        3 => json!({"$elemMatch": combined}),
        4 => json!({"$allMatch": combined}),
        _ => json!({"$keyMapMatch": combined}),
    };
    match dice.roll(3) {
        0 => json!({field: {"$not": asked}}),
        1 => json!({"$or": vec![json!({field: {"$all": [0, -1]}}); many.min(300)]}),
        _ => json!({field: asked}),
    }
}

/// What is slow for each row is slow for whoever reads it in any way.
#[tokio::test]
async fn what_is_asked_of_each_element_holds_nobody_up() {
    let numbers: Vec<i32> = (0..3_000).collect();
    let names: Value = (0..2_000).map(|name| (format!("n{name}"), json!(name))).collect();
    let missed: Vec<i32> = (1..3_000).chain([-1]).collect();
    let always = json!({"$and": vec![json!({"$ne": "x"}); 399]});
    let never = json!({"$or": vec![json!({"$eq": "x"}); 399]});
    let selectors = [
        json!({"list": {"$all": missed}}),
        json!({"list": {"$allMatch": always}}),
        json!({"list": {"$elemMatch": never}}),
        json!({"object": {"$keyMapMatch": never}}),
    ];
    let (sidecar, collection) = public(&[]).await;
    let alice = sidecar.client().user("alice");
    let filters: Value = selectors
        .iter()
        .enumerate()
        .map(|(number, selector)| (format!("f/{number}"), selector.clone()))
        .collect();
    alice.patch(&collection).data(json!({"filters": filters})).await.expect(200);
    let data = json!({"list": numbers, "object": names});
    for number in 0..6 {
        alice.put(&format!("{collection}/records/r{number}")).data(data.clone()).await.expect(201);
    }
    let address = sidecar.address();
    let feed = format!("/v1{collection}/_changes?limit=1");
    for (number, selector) in selectors.iter().enumerate() {
        let body = json!({"selector": selector}).to_string();
        let post = format!("POST {feed}&filter=_selector HTTP/1.1\r\nContent-Type: application/json\r\n");
        let get = format!("GET {feed}&filter=f/{number} HTTP/1.1\r\n");
        // It waits for a change, and has to look at all that there is first.
        let poll = format!("GET {feed}&filter=f/{number}&feed=longpoll&timeout=1 HTTP/1.1\r\n");
        bounded(&sidecar, &format!("selector {number}"), || {
            at_once(6, |index| {
                let status = match index % 3 {
                    0 => ask(address, &post, body.as_bytes()),
                    1 => ask(address, &get, b""),
                    _ => ask(address, &poll, b""),
                };
                assert_eq!(status, Some(200));
            });
        });
    }
}

#[tokio::test]
async fn what_looks_like_such_a_selector_takes_no_more() {
    let (sidecar, collection) = public(&[]).await;
    let alice = sidecar.client().user("alice");
    for number in 0..4 {
        let record = format!("{collection}/records/r{number}");
        let names: Value = (0..2_000).map(|name| (format!("n{name}"), json!(name))).collect();
        let data = json!({
            "text": "ax".repeat(20_000),
            "x": number,
            "list": (0..3_000).collect::<Vec<_>>(),
            "object": names,
        });
        alice.put(&record).data(data).await.expect(201);
    }
    neighbours("selectors", 6, |seed| {
        let mut dice = Dice(seed);
        let number = usize::try_from(10_u64.pow(3 + u32::try_from(dice.roll(3)).unwrap())).unwrap();
        let item = dice
            .pick(&["1", "{}", "[]", "[[[1]]]", "\"ab\"", "{\"x\":1}", "{\"x\":{\"$gt\":1}}", "null,1.5"]);
        let operator = dice.pick(&["$and", "$or", "$nor", "$in", "$all", "$mod", "text"]);
        let list = vec![item; number].join(",");
        let path = "p".repeat(usize::try_from(dice.roll(2_000) + 1).unwrap());
        let body = match dice.roll(10) {
            0 => format!("{{\"selector\":{{\"{operator}\":[{list}]}}}}"),
            1 => format!("{{\"selector\":{{\"{path}\":{{\"{operator}\":[{list}]}}}}}}"),
            2 => format!("{{\"doc_ids\":[{list}]}}"),
            3 => format!("{{\"selector\":{{{}\"a\":1}}}}", "\"b.c\":{\"$lt\":3},".repeat(number)),
            4 => format!(
                "{{\"selector\":{{\"text\":{{\"$regex\":\"{}\"}}}}}}",
                "(a|x|ax)*?".repeat(number.min(100)) + "z"
            ),
            5 => {
                let expression = "{\"text\":{\"$regex\":\"(?:a.?x?){20}z\"}}";
                format!("{{\"selector\":{{\"$or\":[{}]}}}}", vec![expression; number.min(400)].join(","))
            }
            6 => format!("{}1{}", "[".repeat(number), "]".repeat(number)),
            _ => json!({"selector": of_elements(&mut dice)}).to_string(),
        };
        let body = gzip(&body);
        let filter = dice.pick(&["_selector", "_selector", "_doc_ids", "_kinto"]);
        let target = dice.pick(&["/v1/_changes".to_owned(), format!("/v1{collection}/_changes")]);
        let request = format!(
            "POST {target}?filter={filter} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
        );
        bounded(&sidecar, &format!("seed {seed}"), || {
            at_once(8, |_| {
                let status = ask(sidecar.address(), &request, &body);
                assert!(status.is_some_and(|status| status < 500 || status == 503), "{status:?}");
            });
        });
    });
}
