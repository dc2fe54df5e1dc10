//! `kinto-sidecar check`: contacts the upstream as the sidecar would, and says what was found, what is missing, and how
//! to mend it.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use serde_json::Value;

use crate::journal::{Journal, JournalError};
use crate::kinto::{CollectionKey, is_id};
use crate::mirror::read::ReadError;
use crate::settings::{ChangesMode, HistoryMode, Settings};
use crate::timeline::poll::heads::Heads;
use crate::timeline::poll::rest;
use crate::timeline::resources::Resources;
use crate::upstream::{Upstream, UpstreamError};

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// Line by line, for people.
    pub text: String,
    /// What keeps the sidecar from doing its work, each with how to mend it.
    pub problems: Vec<String>,
}

/// Looks at everything that the sidecar needs of its upstream.
pub async fn check(settings: &Settings, upstream: &Upstream) -> Report {
    let mut report = Report::default();
    report.say(&format!("upstream      {}", settings.upstream));
    let root = match ask(upstream, "/").await {
        Ok((StatusCode::OK, root)) => root,
        Ok((status, _)) => {
            report.problems.push(format!(
                "{} answers {status} where Kinto answers 200: is sidecar.upstream its API root, with the version at \
                 the end?",
                settings.upstream
            ));
            return report;
        }
        Err(error) => {
            report.problems.push(format!("{error}: is Kinto running at {}?", settings.upstream));
            return report;
        }
    };
    describe(&mut report, settings, &root);
    history(&mut report, settings, &root).await;
    if settings.changes_mode == ChangesMode::Auto {
        monitored(&mut report, settings, upstream).await;
    }
    report
}

fn describe(report: &mut Report, settings: &Settings, root: &Value) {
    let text = |name: &str| root.get(name).and_then(Value::as_str).unwrap_or("?").to_owned();
    report.say(&format!("Kinto         {} (API {})", text("project_version"), text("http_api_version")));
    let capabilities: Vec<&str> = root
        .get("capabilities")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(name, _)| &**name)
        .collect();
    report.say(&format!("capabilities  {}", capabilities.join(", ")));
    let user = root.get("user").and_then(|user| user.get("id")).and_then(Value::as_str);
    match (user, &settings.auth) {
        (Some(user), _) => report.say(&format!("account       {user}")),
        (None, None) => report.say("account       none: the sidecar reads as anyone does"),
        (None, Some(_)) => report.problems.push(
            "the upstream does not know the service account: check sidecar.auth, and which authentication Kinto \
             accepts (multiauth.policies)"
                .to_owned(),
        ),
    }
}

/// Who keeps the history, and whether its journal can be used.
async fn history(report: &mut Report, settings: &Settings, root: &Value) {
    let has_plugin = root.get("capabilities").is_some_and(|all| all.get("history").is_some());
    match settings.history_mode {
        HistoryMode::Off => return report.say("history       forwarded like any other path"),
        HistoryMode::Upstream => return report.say("history       the upstream's own"),
        HistoryMode::Auto if has_plugin => {
            return report.say("history       the upstream's own, which it announces");
        }
        HistoryMode::Auto | HistoryMode::Journal => {}
    }
    let place = format!("{:?}", settings.journal);
    let opened =
        Journal::open(&settings.journal, &settings.history, settings.kinto.explicit_permissions).await;
    match opened {
        Ok(_) => report.say(&format!("history       in the journal {place}")),
        Err(JournalError::InUse(_)) => {
            report.say(&format!("history       in the journal {place}, which a running sidecar uses"));
        }
        Err(error) => report.problems.push(format!(
            "{error}: is sidecar.journal = {place} the right place? (sidecar.history = off does without)"
        )),
    }
}

/// The collections that the settings name, and whether they can be read.
async fn monitored(report: &mut Report, settings: &Settings, upstream: &Upstream) {
    let changes = &settings.changes;
    let resources = Resources::new(&changes.resources, &changes.excluded_collections);
    let mut keys: Vec<CollectionKey> = resources.collections().cloned().collect();
    for bucket in resources.buckets() {
        match collections(upstream, bucket).await {
            Ok(Ok(found)) => keys.extend(found.into_iter().filter(|key| resources.include(key))),
            Ok(Err(StatusCode::NOT_FOUND)) => report.say(&format!("bucket        {bucket} does not exist (yet)")),
            Ok(Err(status)) => report.problems.push(format!(
                "the collections of /buckets/{bucket} cannot be listed ({status}): give the service account read \
                 permission on that bucket, or name its user id in Kinto's bucket_read_principals and \
                 collection_read_principals"
            )),
            Err(error) => report.problems.push(error.to_string()),
        }
    }
    keys.sort();
    keys.dedup();
    if changes.resources.is_empty() {
        report.say("monitored     nothing: name buckets or collections in changes.resources");
        return;
    }
    let heads = Heads::new(upstream.clone(), settings.kinto.batch_max_requests);
    let description = upstream.described().await.ok();
    let at_once = heads.at_once(description.as_deref());
    let mut slowest = Duration::ZERO;
    for keys in keys.chunks(at_once) {
        let answers = match heads.ask(keys).await {
            Ok(answers) => answers,
            Err(error) => {
                report.problems.push(format!("the timestamps cannot be asked for: {error}"));
                break;
            }
        };
        for (key, head) in keys.iter().zip(answers.heads) {
            match head {
                Ok(_) | Err(ReadError::Gone) => {}
                Err(ReadError::Refused(status)) => report.problems.push(format!(
                    "the records of {} cannot be read ({status}): give the service account read permission on the \
                     bucket or the collection, or name its user id in Kinto's record_read_principals",
                    key.uri()
                )),
                Err(error) => {
                    report.problems.push(format!("the timestamp of {} cannot be learned: {error}", key.uri()));
                }
            }
        }
        slowest = slowest.max(answers.busy);
    }
    if let Some(why) = heads.refusal() {
        report.say(&format!(
            "batches       none here ({why}): each collection is asked for by itself, which takes longer where Kinto is far"
        ));
    }
    let batches = u32::try_from(keys.len().div_ceil(at_once)).unwrap_or(u32::MAX);
    let round = (slowest + rest(slowest, settings.poll_budget)).saturating_mul(batches);
    let behind = if settings.exclusive { Duration::ZERO } else { round.max(settings.timestamps_ttl) };
    report.say(&format!(
        "monitored     {} collections, {:.1} s behind at worst for writes that do not pass through",
        keys.len(),
        behind.as_secs_f64()
    ));
}

async fn collections(
    upstream: &Upstream,
    bucket: &str,
) -> Result<Result<Vec<CollectionKey>, StatusCode>, UpstreamError> {
    let mut keys = Vec::new();
    let mut next = Some(format!("/buckets/{bucket}/collections?_fields=id"));
    while let Some(path) = next {
        let answer = upstream.ask(Method::GET, &path, HeaderMap::new(), Bytes::new()).await?;
        if answer.status() != StatusCode::OK {
            return Ok(Err(answer.status()));
        }
        next = answer.headers().get("next-page").and_then(|next| upstream.relative(next.to_str().ok()?));
        let list: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        let ids = list.get("data").and_then(Value::as_array).into_iter().flatten();
        let ids = ids.filter_map(|object| object.get("id")?.as_str()).filter(|id| is_id(id));
        keys.extend(ids.map(|id| CollectionKey::new(bucket, id)));
    }
    Ok(Ok(keys))
}

async fn ask(upstream: &Upstream, path: &str) -> Result<(StatusCode, Value), UpstreamError> {
    let answer = upstream.ask(Method::GET, path, HeaderMap::new(), Bytes::new()).await?;
    Ok((answer.status(), serde_json::from_slice(answer.body()).unwrap_or_default()))
}

impl Report {
    fn say(&mut self, line: &str) {
        // Writing into a string cannot fail.
        _ = writeln!(self.text, "{line}");
    }
}
