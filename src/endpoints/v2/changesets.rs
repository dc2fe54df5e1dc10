//! Both changesets of `/v2`: the slices that `/v1` answers with, for everybody alike.

use std::sync::Arc;

use http::request::Parts;

use super::{V2Refusal, parameters};
use crate::access::Verdict;
use crate::app::Core;
use crate::endpoints::changeset::{Readable, newest};
use crate::endpoints::monitor_changes::{Context, Monitor};
use crate::endpoints::monitor_changeset;
use crate::endpoints::recent::Standing;
use crate::error::Error;
use crate::kinto::{CollectionKey, Timestamp};
use crate::timeline::entries::Entries;
use crate::wire::body::Response;
use crate::wire::cache_control::{self, Served};

/// The list of timestamps, as far as anybody may read what it names.
pub(super) async fn monitor(core: &Core, request: &Parts) -> Result<Response, V2Refusal> {
    let params = parameters::read(request.uri.query())?;
    let app = &core.app;
    let newest = newest(Some(&params.expected), params.since);
    let (all, is_behind) = app.poller.entries(newest).await?;
    let entries = app.signatures.listed(app.public.entries(&core.access, &all).await?);
    let is_known = newest.is_none_or(|newest| newest <= all.timestamp);
    let base_url = || app.settings.public_url();
    let context = Context {
        settings: &app.settings,
        now: Timestamp::now(),
        base_url: &base_url,
        dictionaries: &app.dictionaries,
    };
    let monitor = Monitor { entries: &entries, host: app.timeline.host(), context };
    let mut response = monitor_changeset::answer(&params, &monitor, request)?;
    let is_met = newest.is_none_or(|newest| newest <= monitor.timestamp()) && !is_behind;
    let lifetimes = &app.settings.remote_settings;
    let is_short = !is_met || cache_control::busts_caches(&params.expected);
    let lifetime = if is_short { lifetimes.short_max_age } else { lifetimes.max_age };
    let headers = response.headers_mut();
    monitor.insert_expiry(headers, Some(cache_control::seconds(lifetime)), true);
    Served::from_memory(is_behind.then(|| app.poller.behind_for())).insert(headers);
    if is_known && !is_behind && !entries.rows.is_empty() {
        let listed = |core: &Core| Some(core.app.signatures.listed(public_at_once(core)?));
        response.extensions_mut().insert(Standing::on_entries(&entries, listed));
    }
    Ok(response)
}

/// The list of what anybody may read, where nobody has to be asked for it.
pub(super) fn public_at_once(core: &Core) -> Option<Arc<Entries>> {
    let all = core.app.poller.at_once()?;
    core.app.public.at_once(&core.access, &all)
}

/// A collection's changeset, where it is monitored and anybody may read it. Who asks does not matter.
pub(super) async fn collection(
    core: &Core,
    key: CollectionKey,
    request: &Parts,
) -> Result<Response, V2Refusal> {
    let params = parameters::read(request.uri.query())?;
    let app = &core.app;
    let is_monitored = || app.timeline.resources().include(&key);
    if !is_monitored() {
        // The upstream may not have said yet what its plugin monitors.
        let is_known = app.timeline.is_loaded() || app.poller.entries(None).await.is_err();
        if is_known || !is_monitored() {
            return Err(V2Refusal::NoCollection(key));
        }
    }
    let anybody = core.access.anybody();
    let granted = match anybody.may_read(&key).await? {
        Verdict::Granted(granted) => granted,
        Verdict::Refused(_) => return Err(V2Refusal::NoCollection(key)),
    };
    let lifetimes = &app.settings.remote_settings;
    let is_preview = format!("{}/{}", key.bucket, key.collection).contains("-preview");
    let expiry = |is_met: bool| {
        let lifetime = if is_met && !is_preview { lifetimes.max_age } else { lifetimes.short_max_age };
        Some(cache_control::seconds(lifetime))
    };
    let readable =
        Readable { core, key: &key, params: &params, requester: &anybody, granted, expiry: &expiry };
    let mut response = match readable.answer(request).await {
        Err(Error::NotFound) => return Err(V2Refusal::NoCollection(key)),
        answered => answered?,
    };
    Standing::narrow_to_contents(&mut response, move |core| core.app.timeline.resources().include(&key));
    Ok(response)
}
