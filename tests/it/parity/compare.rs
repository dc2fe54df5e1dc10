//! What of two answers has to be the same.

use serde_json::Value;

use super::ask::Ask;
use super::world::World;
use crate::support::Response;

/// Headers that clients or caches act on.
const HEADERS: [&str; 13] = [
    "content-type", "etag", "last-modified", "cache-control", "pragma", "next-page", "location", "alert",
    "allow", "retry-after", "www-authenticate", "access-control-allow-origin",
    "access-control-allow-methods",
];

/// Sends each request to both and fails with all differences.
pub(crate) async fn assert_same(world: &World, asks: impl IntoIterator<Item = Ask>) {
    let mut report = String::new();
    for ask in asks {
        let (plugin, sidecar) = (ask.send(&world.plugin).await, ask.send(&world.sidecar).await);
        let found = differences(&ask, &plugin, &sidecar);
        if !found.is_empty() {
            report.push_str(&format!("{ask}\n    {}\n", found.join("\n    ")));
        }
    }
    assert!(report.is_empty(), "the plugin and the sidecar differ (plugin first):\n{report}");
}

/// What of the two answers is not the same.
pub(crate) fn differences(ask: &Ask, plugin: &Response, sidecar: &Response) -> Vec<String> {
    let mut found = Vec::new();
    if plugin.status != sidecar.status {
        found.push(format!("status {} and {}", plugin.status, sidecar.status));
    }
    for name in HEADERS {
        // The sidecar adds validators to changesets.
        if ask.is_for_a_changeset()
            && matches!(name, "etag" | "last-modified")
            && plugin.header(name).is_none()
        {
            continue;
        }
        let (left, right) = (header(plugin, name), header(sidecar, name));
        // What caches keep is for pages, too, whoever had it asked for.
        let is_kept = sidecar.header("cache-control").is_some_and(|value| value.starts_with("max-age="));
        if name == "access-control-allow-origin" && is_kept && left.is_none() && right.as_deref() == Some("*")
        {
            continue;
        }
        if left != right {
            found.push(format!("{name}: {left:?} and {right:?}"));
        }
    }
    if plugin.header("expires").is_some() != sidecar.header("expires").is_some() {
        found.push(format!("expires: {:?} and {:?}", plugin.header("expires"), sidecar.header("expires")));
    }
    for name in names(plugin, "access-control-expose-headers")
        .difference(&names(sidecar, "access-control-expose-headers"))
    {
        found.push(format!("{name} is not exposed"));
    }
    for name in names(plugin, "access-control-allow-headers")
        .difference(&names(sidecar, "access-control-allow-headers"))
    {
        found.push(format!("{name} is not allowed"));
    }
    let (left, right) = (body(plugin), body(sidecar));
    if left != right {
        found.push(format!("body {left}\n     and {right}"));
    }
    found
}

fn names(answer: &Response, header: &str) -> std::collections::BTreeSet<String> {
    let names = answer.header(header).unwrap_or_default().split(',');
    names.map(|name| name.trim().to_lowercase()).filter(|name| !name.is_empty()).collect()
}

fn header(answer: &Response, name: &str) -> Option<String> {
    let value = answer.header(name)?;
    match name {
        // Each has tokens of its own.
        "next-page" => {
            let (before, token) = value.split_once("_token=")?;
            let after = token.split_once('&').map(|(_, after)| after).unwrap_or_default();
            Some(format!("{before}_token=…{after}"))
        }
        _ => Some(value.to_owned()),
    }
}

fn body(answer: &Response) -> Value {
    match serde_json::from_slice(&answer.body).unwrap_or_default() {
        Value::Null => Value::String(String::from_utf8_lossy(&answer.body).into_owned()),
        Value::Object(mut document) => {
            // The plugin gives monitor's changes in no order.
            if let Some(Value::Array(changes)) = document.get_mut("changes") {
                changes.sort_by_key(|change| {
                    (std::cmp::Reverse(change["last_modified"].as_u64()), change["id"].to_string())
                });
            }
            Value::Object(document)
        }
        other => other,
    }
}
