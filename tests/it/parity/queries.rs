//! What any list of Kinto's is asked: parameters and their bad values, preconditions, and page after page.

use serde_json::Value;

use crate::support::{Client, Response};

/// Queries of any list; `{n}` stands for the n-th timestamp of a world.
pub(crate) const QUERIES: &[&str] = &[
    "", "&&&", "_since={2}", "_since={2}.7", "_since=%22{2}%22", "_since={2}%0A", "_since=%20{2}%20",
    "_since=null", "_since=", "_since=abc", "_since=true", "_since=%22%22", "_since={}", "_since=[1]",
    "_since=1&_since={2}", "_since=NaN", "_since=1e400", "_since=%22{2}", "_since=9223372036854775808",
    "_since=9223372036854775809", "_since=9995245794711", "_before={2}", "_before=abc", "_before=null",
    "_to={2}", "_to=null", "_since={1}&_before={4}", "_limit=", "_limit=0", "_limit=1", "_limit=1.7",
    "_limit=%221%22", "_limit=-1", "_limit=null", "_limit=true", "_limit=1_000", "_limit=%2B2",
    "_limit=9223372036854775808", "_limit=9223372036854775809", "_limit=1&_limit=2", "_sort=",
    "_sort=unknown", "_sort=[1]", "_sort=-", "_sort=a-b", "_sort=last_modified", "_sort=-last_modified",
    "_fields=", "_fields=id", "_fields=deleted", "_fields=unknown", "_token=", "_token=abc", "_token=eyJ9",
    "_token=1", "_token=%22abc%22", "_token={}", "_foo=bar", "_expected=1", "id=", "id=1", "id=true",
    "id=null", "id={}", "id=a&id=b", "last_modified={2}", "last_modified=%22{2}%22", "last_modified={2}.5",
    "last_modified=abc", "last_modified=", "last_modified=null", "bucket=a", "in_last_modified={2}",
    "exclude_last_modified={2}", "has_last_modified=true", "contains_id=a", "contains_last_modified=1",
    "contains_any_id=a", "min_last_modified={2}", "max_last_modified={2}", "gt_last_modified={2}",
    "lt_last_modified={2}", "gt_last_modified=9995245794711", "deleted=true", "not_deleted=true",
    "has_deleted=false", "unknown=1", "=1", "min_=1", "max__x=1", "%FF=1",
];

/// Values of `If-Match` and `If-None-Match` that are no list's.
pub(crate) const TAGS: [&str; 10] =
    ["\"1\"", "\"0\"", "*", "abc", "\"abc\"", "123", "\"\"", "", "\"99999999999999999999\"", "\""];

/// Values that the sidecar takes as `If-None-Match`, and the plugins as neither.
pub(crate) const TAGS_OF_CACHES: [&str; 2] = ["W/\"1\"", "\"1\", \"2\""];

/// What is looked at of each page.
pub(crate) async fn pages(server: &Client, list: &str, look: impl Fn(&Response) -> Value) -> Vec<Value> {
    let mut next = Some(list.to_owned());
    let mut pages = Vec::new();
    while let Some(path) = next {
        let page = server.get(&path).await.expect(200);
        pages.push(look(&page));
        let path = |address: &str| address.split_once("/v1").expect("an address of the API").1.to_owned();
        next = page.header("next-page").map(path);
    }
    pages
}
