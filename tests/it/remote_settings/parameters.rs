//! What is taken and refused as a parameter, held against `FastAPI` itself.

use std::io::Write as _;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use super::{changeset_of, public_bucket, sidecar_of, v2};
use crate::support::{Environment, Kinto, environment, tests_folder, unique};

/// Texts of integers, and of what almost are.
const TEXTS: &[&str] = &[
    "0", "5", "+5", "%2B5", "-5", "1.0", "1.00", "1.5", ".5", "1.", "1e3", "0x10", "true", "1_000", "1__0",
    "_1", "1_", "00012", "%2012%20", "12%0A", "%C2%A012", "-0", "-0.0", "-%200", "%2242%22", "42%22",
    "%D9%A3", "%FF", "%00", "1%00", "", "inf", "9999123", "09999", "1.0_0", "1_000.0", "%1C7", "--0", "1;2",
    "null", "%E2%82%AC", ".0", "%2B%2B5", "0_1__2", "0_", "0__", "0_.0", "%EF%BC%91", "7%1F", "1;_since=2",
];

/// A query of names that count, names that do not, and values made of what integers are made of.
fn queries() -> impl Strategy<Value = String> {
    let integer =
        proptest::string::string_regex("(%20|\\+|%0A)?(%2B|-)?[0-9_.]{0,5}(\\.0{0,2})?(%20|_)?").unwrap();
    let ends = ["", "", "%2B", "-", "+", "0", "1_", "-0", "%0A", "x", ".0", "_1", "+x", "e5"];
    let (before, after) = (proptest::sample::select(ends.to_vec()), proptest::sample::select(ends.to_vec()));
    let text = prop_oneof![
        proptest::sample::select(TEXTS).prop_map(str::to_owned),
        integer,
        (4296_usize..4304, before, after)
            .prop_map(|(count, before, after)| format!("{before}{}{after}", "7".repeat(count))),
    ];
    let name =
        proptest::sample::select(&["_expected", "_expected", "_since", "_since", "%5Fsince", "other"][..]);
    let pair = (name, text, proptest::bool::weighted(0.95));
    let pair =
        pair.prop_map(|(name, text, has)| if has { format!("{name}={text}") } else { name.to_owned() });
    proptest::collection::vec(pair, 0..4).prop_map(|pairs| pairs.join("&"))
}

fn asked_of_fastapi(queries: &[String]) -> Vec<(u16, String)> {
    let mut fastapi = Command::new(environment(Environment::Readers).python())
        .arg(tests_folder().join("clients/fastapi_parameters.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = fastapi.stdin.take().unwrap();
    let lines = queries.join("\n") + "\n";
    let writing = std::thread::spawn(move || stdin.write_all(lines.as_bytes()).unwrap());
    let output = fastapi.wait_with_output().unwrap();
    writing.join().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn parameters_are_taken_and_refused_as_fastapi_does() {
    let mut queries: Vec<String> = vec![String::new(), "_since=1".to_owned(), "_expected".to_owned()];
    queries.extend(TEXTS.iter().flat_map(|text| {
        [
            format!("_expected={text}"),
            format!("_expected=7&_since={text}"),
            format!("_since={text}&_expected=x"),
        ]
    }));
    let seeds = std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(300);
    let mut runner = TestRunner::new(ProptestConfig::default());
    queries.extend((0..seeds).map(|_| super::parameters::queries().new_tree(&mut runner).unwrap().current()));
    let expected = asked_of_fastapi(&queries);
    assert_eq!(expected.len(), queries.len());

    let bucket = unique("parameters");
    public_bucket(&Kinto::shared().client().user("owner"), &bucket, &["c"]).await;
    let sidecar = sidecar_of(&[&bucket], &[]);
    let client = sidecar.client();
    let paths = [changeset_of(&bucket, "c"), changeset_of("monitor", "changes"), changeset_of("no", "such")];
    for (query, (status, body)) in queries.iter().zip(expected) {
        for path in &paths {
            let answer = v2(&client, &format!("{path}?{query}")).await;
            match status {
                200 if path.contains("/no/") => {
                    assert_eq!(
                        (answer.status, answer.text().as_str()),
                        (404, "{\"detail\":\"no/such not found\"}")
                    );
                }
                200 => assert_eq!(answer.status, 200, "{query}: {}", answer.text()),
                status => {
                    let is_same = (answer.status, answer.text()) == (status, body.clone());
                    let short: String = query.chars().take(200).collect();
                    let [ours, theirs] =
                        [answer.text(), body.clone()].map(|body| body.replace(&"7".repeat(4000), "…"));
                    assert!(
                        is_same,
                        "{path}?{short} ({}): {} {ours}, and {status} {theirs}",
                        query.len(),
                        answer.status
                    );
                    assert_eq!(answer.header("cache-control"), Some("max-age=3600"));
                }
            }
        }
    }
}
