//! `kinto-sidecar check`: contacts the upstream as the sidecar would, and says what was found, what is missing, and how
//! to mend it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::process::ExitCode;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use serde_json::Value;

mod pace;

use crate::journal::{Journal, JournalView};
use crate::kinto::CollectionKey;
use crate::settings::{ChangesMode, HistoryMode, JournalUrl, Settings};
use crate::timeline::poll::unreadable::cannot_list;
use crate::timeline::resources::Resources;
use crate::upstream::{Upstream, UpstreamError};
use pace::Pace;

/// What was found.
#[derive(Debug, Default)]
struct Report {
    /// Line by line, for people.
    text: String,
    /// What keeps the sidecar from doing its work, each with how to mend it.
    problems: Vec<String>,
}

/// Prints what the settings and the upstream come to.
pub fn run(settings: &Settings) -> io::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let upstream = Upstream::new(settings)?;
    let mut report = runtime.block_on(check(settings, &upstream));
    for problem in report.problems.clone() {
        report.say(&format!("problem       {problem}"));
    }
    if let Err(code) = super::report(&report.text) {
        return Ok(code);
    }
    Ok(if report.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Looks at everything that the sidecar needs of its upstream.
async fn check(settings: &Settings, upstream: &Upstream) -> Report {
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
    let is_journalled = history(&mut report, settings, &root).await;
    if is_journalled || settings.changes_mode == ChangesMode::Auto {
        monitored(&mut report, settings, upstream, is_journalled).await;
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

/// Who keeps the history, and whether its journal can be used; whether the sidecar does.
async fn history(report: &mut Report, settings: &Settings, root: &Value) -> bool {
    let has_plugin = root.get("capabilities").is_some_and(|all| all.get("history").is_some());
    match settings.history_mode {
        HistoryMode::Off => {
            report.say("history       forwarded like any other path");
            return false;
        }
        HistoryMode::Upstream => {
            report.say("history       the upstream's own");
            return false;
        }
        HistoryMode::Auto if has_plugin => {
            report.say("history       the upstream's own, which it announces");
            return false;
        }
        HistoryMode::Auto | HistoryMode::Journal => {}
    }
    if settings.journal == JournalUrl::SqliteInMemory {
        report.say("history       in memory: it is gone when the sidecar stops");
        return true;
    }
    let place = format!("{:?}", settings.journal);
    match JournalView::open(&settings.journal).await {
        Ok(Some(_)) => report.say(&format!("history       in the journal {place}")),
        Ok(None) => match Journal::can_be_made(&settings.journal) {
            Ok(()) => report.say(&format!(
                "history       in the journal {place}, which is not there yet: the sidecar makes it when it starts"
            )),
            Err(error) => report.problems.push(error.to_string()),
        },
        Err(error) => report.problems.push(format!(
            "{error}: is sidecar.journal = {place} the right place? (sidecar.history = off does without)"
        )),
    }
    true
}

/// The collections that the settings name, whether they can be read, and how far behind the sidecar is with them and with
/// those that it follows for the history.
async fn monitored(report: &mut Report, settings: &Settings, upstream: &Upstream, is_journalled: bool) {
    let changes = &settings.changes;
    let is_changes = settings.changes_mode == ChangesMode::Auto;
    let resources = Resources::new(&changes.resources, &changes.excluded_collections);
    let mut pace = Pace::new(settings, upstream);
    let mut keys: BTreeSet<CollectionKey> = BTreeSet::new();
    if is_changes {
        keys.extend(resources.collections().cloned());
        for bucket in resources.buckets() {
            match pace.collections(bucket).await {
                Ok(Ok(found)) => keys.extend(found.into_iter().filter(|key| resources.include(key))),
                Ok(Err(StatusCode::NOT_FOUND)) => {
                    report.say(&format!("bucket        {bucket} does not exist (yet)"));
                }
                Ok(Err(status)) => report.problems.push(cannot_list(bucket, status)),
                Err(error) => report.problems.push(error.to_string()),
            }
        }
    }
    let count = keys.len();
    if is_journalled && !settings.exclusive {
        match pace.journalled().await {
            Ok(journalled) => keys.extend(journalled),
            Err(error) => report.problems.push(error.to_string()),
        }
    }
    let keys: Vec<CollectionKey> = keys.into_iter().collect();
    pace.timestamps(report, &keys, |key| is_changes && resources.include(key)).await;
    let behind = pace.behind(is_journalled);
    let mut said =
        format!("{:.1} s behind at worst for writes that do not pass through", behind.as_secs_f64());
    if behind > settings.timestamps_ttl {
        said.push_str(
            " (longer for those that nobody reads while many others are read, at most 4 times as long)",
        );
    }
    if is_changes && changes.resources.is_empty() {
        report.say("monitored     nothing: name buckets or collections in changes.resources");
    } else if is_changes {
        report.say(&format!("monitored     {count} collections, {said}"));
    }
    if keys.len() > count {
        report.say(&format!("journalled    {} collections, {said}", keys.len()));
    }
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
