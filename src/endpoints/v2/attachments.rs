//! What stands below the `base_url` of attachments: bundles, which are made here, and everything else, which somebody
//! else has.

use std::time::SystemTime;

use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED,
    RANGE, VARY,
};
use http::request::Parts;
use http::{Response as Answer, StatusCode};
use percent_encoding::percent_decode_str;

use super::{V2Refusal, redirected};
use crate::access::Verdict;
use crate::app::Core;
use crate::endpoints::list;
use crate::kinto::CollectionKey;
use crate::remote_settings::bundles::{Bundle, BundleName};
use crate::remote_settings::published::{self, Published};
use crate::settings::AttachmentsMode;
use crate::upstream::UpstreamError;
use crate::wire::body::{Body, Response};
use crate::wire::cache_control::{self, Served};
use crate::wire::compression::Encoding;
use crate::wire::headers;
use crate::wire::tagged::Coded;

/// Answers a request for what stands at a path, as it came, below `base_url`.
pub(super) async fn answer(core: &Core, path: &str, request: &Parts) -> Result<Response, V2Refusal> {
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    match decoded.strip_prefix("bundles/") {
        Some(name) => bundle(core, name, request).await,
        None => attachment(core, path, request).await,
    }
}

async fn bundle(core: &Core, name: &str, request: &Parts) -> Result<Response, V2Refusal> {
    let app = &core.app;
    let (all, is_behind) = app.poller.entries(None).await?;
    let name =
        BundleName::read(name, |key| app.timeline.resources().include(key)).ok_or(V2Refusal::NotFound)?;
    let (published, newest) = match &name {
        BundleName::Changesets | BundleName::Startup => {
            let entries = app.public.entries(&core.access, &all).await?;
            (published::states(&app.mirrors, &app.signatures, &entries).await, entries.timestamp)
        }
        BundleName::Attachments(key) => (vec![collection(core, key).await?], all.timestamp),
    };
    let content_type = name.content_type();
    let bundle = app.bundles.get(name, published, app.access.upstream()).await?;
    let known = Coded::known(&request.headers, &bundle.tag, Encoding::Identity)?;
    let coded = known.unwrap_or_else(|| Coded::plain(Body::full(bundle.body.clone()), bundle.lent()));
    let mut response = coded.answer(Some(&bundle.tag));
    let Bundle { modified, .. } = *bundle;
    // A bundle of nothing is as old as the list is.
    let modified = if modified.0 == 0 { newest } else { modified };
    let headers = response.headers_mut();
    // A 304 has none.
    if headers.contains_key(CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    list::insert_modified(headers, modified);
    let lifetime = app.settings.remote_settings.bundle_max_age;
    cache_control::allow_for(headers, lifetime, SystemTime::now());
    Served::from_memory(is_behind.then(|| app.poller.behind_for())).insert(headers);
    Ok(response)
}

/// A collection that anybody may read.
async fn collection(core: &Core, key: &CollectionKey) -> Result<Published, V2Refusal> {
    let app = &core.app;
    match core.access.anybody().may_read(key).await? {
        Verdict::Granted(_) => {}
        Verdict::Refused(_) => return Err(V2Refusal::NotFound),
    }
    Ok((key.clone(), published::state(&app.mirrors, &app.signatures, key).await?))
}

async fn attachment(core: &Core, path: &str, request: &Parts) -> Result<Response, V2Refusal> {
    let url = core.app.attachments.url(path, &core.upstream).await.ok_or(V2Refusal::NotFound)?;
    let query = request.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let url = url + &query;
    match core.app.settings.remote_settings.attachments {
        AttachmentsMode::Redirect => Ok(redirected(&url, &core.app.settings)),
        AttachmentsMode::Forward => forwarded(core, &url, request).await,
    }
}

/// Fetches an attachment, and passes it on as it comes.
async fn forwarded(core: &Core, url: &str, request: &Parts) -> Result<Response, V2Refusal> {
    // Caches keep the answer for all clients, so it does not depend on which codings and types one of them accepts.
    const ASKED: [http::HeaderName; 4] = [IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE];
    const TOLD: [http::HeaderName; 8] = [
        ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, LAST_MODIFIED,
        VARY,
    ];
    let mut asked = picked(&request.headers, &ASKED);
    asked.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let answer = core.app.attachments.servers.ask(request.method.clone(), url, asked).await?;
    let status = answer.status();
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::FORBIDDEN => return Err(V2Refusal::NotFound),
        status if status.is_success() || status == StatusCode::NOT_MODIFIED => {}
        StatusCode::RANGE_NOT_SATISFIABLE => {}
        status => return Err(UpstreamError::of_status(status, "an attachment").into()),
    }
    let (head, body): (_, Body) = answer.into_parts();
    let mut response = Answer::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.extend(picked(&head.headers, &TOLD));
    headers::insert_kinto_defaults(headers);
    if status == StatusCode::RANGE_NOT_SATISFIABLE {
        // It is about this request's `Range`.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    } else {
        let lifetime = core.app.settings.remote_settings.static_max_age;
        cache_control::allow_for(headers, lifetime, SystemTime::now());
    }
    Served::Upstream.insert(headers);
    Ok(response)
}

fn picked(headers: &HeaderMap, names: &[http::HeaderName]) -> HeaderMap {
    let pairs = names.iter().flat_map(|name| headers.get_all(name).iter().map(move |value| (name, value)));
    let mut picked = HeaderMap::new();
    for (name, value) in pairs {
        picked.append(name, value.clone());
    }
    picked
}
