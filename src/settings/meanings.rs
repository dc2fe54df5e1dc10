//! Settings whose text has a meaning on the web or in Kinto: addresses, hosts, ids, URIs, principals, origins.
//!
//! What could never name anything is refused, for it would be passed over in silence. What an upstream with settings of its own
//! may well have is left to it.

use std::net::IpAddr;

use http::Uri;
use http::uri::Authority;
use ipnet::IpNet;

use super::upstream_url::is_complete;
use super::values::Kind;
use crate::kinto::object::Object;
use crate::kinto::{Resource, is_segment};

/// An address of which all is used, its query too.
pub(super) const HTTP_URL: Kind<Uri> = Kind::new("an http:// or https:// URL", http_url);
/// An address that something is added to.
pub(super) const BASE_URL: Kind<Uri> = Kind::new("an http:// or https:// URL without a query", |text| {
    http_url(text).filter(|url| url.query().is_none())
});
pub(super) const HOST: Kind<String> =
    Kind::new("a host such as example.org or example.org:8443, without a scheme and a path", |text| {
        let host: Authority = text.parse().ok()?;
        is_complete(&host).then(|| text.to_owned())
    });
pub(super) const SCHEME: Kind<String> =
    Kind::new("http or https", |text| matches!(text, "http" | "https").then(|| text.to_owned()));
pub(super) const ID: Kind<String> = Kind::new("an id as Kinto has them, such as main", |text| {
    (is_id(text) && !text.contains(char::is_whitespace)).then(|| text.to_owned())
});
pub(super) const NETWORK: Kind<IpNet> = Kind::new("addresses or networks such as 10.0.0.0/8 ::1", |text| {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().map(IpNet::from).ok())
});
pub(super) const MONITORED: Kind<String> =
    Kind::new("URIs such as /buckets/main or /buckets/main/collections/articles", |text| {
        let is_named = match Object::of_uri(text)? {
            Object::Bucket(bucket) => is_id(&bucket),
            Object::Collection(bucket, collection) => is_id(&bucket) && is_id(&collection),
            _ => false,
        };
        is_named.then(|| text.to_owned())
    });
pub(super) const RESOURCE: Kind<String> =
    Kind::new("URIs such as /buckets/main/collections/articles", |text| {
        let resource = Resource::of(text);
        (resource != Resource::Other && resource.bucket().is_none_or(is_id)).then(|| text.to_owned())
    });
pub(super) const PRINCIPAL: Kind<String> =
    Kind::new("principals such as system.Everyone account:alice, with blanks between them", |text| {
        // Kinto knows these by one spelling.
        let is_misspelt = ["system.Everyone", "system.Authenticated"].into_iter().any(|known| {
            let short = known.trim_start_matches("system.");
            text != known && (text.eq_ignore_ascii_case(known) || text.eq_ignore_ascii_case(short))
        });
        (is_item(text) && !is_misspelt).then(|| text.to_owned())
    });
pub(super) const USER_ID: Kind<String> =
    Kind::new("user ids such as account:alice, with blanks between them", |text| {
        is_item(text).then(|| text.to_owned())
    });
pub(super) const NAMED_HOST: Kind<String> = Kind::new(
    "names or addresses of hosts such as autograph.internal 10.1.2.3, with blanks between them",
    |text| {
        let host = text.trim_matches(['[', ']']);
        let is_host = host.parse::<IpAddr>().is_ok()
            || !host.is_empty()
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        is_host.then(|| host.to_ascii_lowercase())
    },
);
pub(super) const ORIGIN: Kind<String> =
    Kind::new("* or origins such as https://example.org, with blanks between them", |text| {
        // An origin has no path, and whoever has none is `null`.
        let is_origin = text == "null"
            || match text.split_once("://") {
                Some((scheme, host)) => !scheme.is_empty() && !host.is_empty() && !host.contains('/'),
                None => text.contains(['*', '?', '[']),
            };
        (is_item(text) && is_origin).then(|| text.to_owned())
    });

fn http_url(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    // What follows a `#` is for the reader of an answer, and would be dropped.
    let is_whole = uri.authority().is_some_and(is_complete) && !text.contains('#');
    (is_http && is_whole).then_some(uri)
}

/// Whether Kinto may have something of this id. Its own generators take letters, digits, `-` and `_`; those of others may take more.
fn is_id(id: &str) -> bool {
    let is_odd = |c: char| c.is_control() || "\"<>#?%*,;\\^`{|}".contains(c);
    is_segment(id) && !id.contains(is_odd)
}

/// Whether it is one item of a list. Kinto's lists have blanks between their items, and no commas.
fn is_item(text: &str) -> bool {
    !text.starts_with(',') && !text.ends_with(',')
}
