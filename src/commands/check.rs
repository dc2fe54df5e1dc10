//! `kinto-sidecar check`: contacts the upstream as the sidecar would, and says what was found, what is missing, and how
//! to mend it.

use std::collections::BTreeSet;
use std::io;
use std::process::ExitCode;

mod machine;
mod pace;
mod readers;
mod report;

use crate::cli::Check;
use crate::complaint::Complaint;
use crate::journal::{Journal, JournalView};
use crate::kinto::CollectionKey;
use crate::settings::{ChangesMode, Compat, HistoryMode, InForce, JournalUrl, Settings};
use crate::timeline::resources::Resources;
use crate::upstream::kinto::KintoError;
use crate::upstream::{Description, Upstream, UpstreamError};
use pace::Pace;
use report::{Finding, Report};

/// Prints what the settings and the upstream come to.
pub fn run(settings: &Settings, check: Check) -> io::Result<ExitCode> {
    if check.print_settings {
        let text = report::settings(&settings.in_force, check.json);
        return Ok(super::report(&text).err().unwrap_or(ExitCode::SUCCESS));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut report = Report::default();
    report.say("upstream", settings.upstream.to_string());
    runtime.block_on(async {
        machine::look(&mut report, settings).await;
        match Upstream::new(&InForce::from(settings.clone())) {
            Ok(upstream) => look(&mut report, settings, &upstream).await,
            Err(error) => report.add(Finding::problem(
                error.to_string(),
                "name a PEM file of authorities in sidecar.upstream_ca that the sidecar's user may read",
            )),
        }
    });
    let text = if check.json { report.json() } else { report.text() };
    if let Err(code) = super::report(&text) {
        return Ok(code);
    }
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Looks at everything that the sidecar needs of its upstream.
async fn look(report: &mut Report, settings: &Settings, upstream: &Upstream) {
    let root = match upstream.described().await {
        Ok(root) => root,
        Err(error @ (UpstreamError::Unexpected(_) | UpstreamError::Unavailable)) => {
            return report.add(Complaint::no_kinto(&settings.upstream, &error).into());
        }
        Err(error) => return report.add(unreachable(settings, &error)),
    };
    describe(report, settings, &root);
    if let Some(complaint) = upstream.clock_ahead().and_then(Complaint::of_clock) {
        report.add(Finding::warning(complaint));
    }
    both_sides(report, settings, &root);
    let is_journalled = history(report, settings, &root).await;
    if is_journalled || settings.changes_mode == ChangesMode::Auto {
        monitored(report, settings, upstream, is_journalled).await;
    }
}

fn unreachable(settings: &Settings, error: &UpstreamError) -> Finding {
    if error.is_unknown_authority() {
        return Finding::problem(
            format!("the certificate of {} is of an authority that is not known here", settings.upstream),
            "name the authority's PEM file in sidecar.upstream_ca",
        );
    }
    Finding::problem(error.to_string(), Complaint::is_running(&settings.upstream))
}

fn describe(report: &mut Report, settings: &Settings, root: &Description) {
    let text = |version: &Option<String>| version.clone().unwrap_or("?".to_owned());
    report.say("Kinto", format!("{} (API {})", text(&root.project_version), text(&root.http_api_version)));
    let capabilities: Vec<&str> = root.capabilities.keys().map(|name| &**name).collect();
    report.say("capabilities", capabilities.join(", "));
    let user = root.user_id();
    match (user, &settings.auth) {
        (Some(user), _) => report.say("account", user),
        (None, None) => report.say("account", "none: the sidecar reads as anyone does"),
        (None, Some(_)) => report.add(Complaint::unknown_account().into()),
    }
}

/// Plugins that do in the upstream what the sidecar does, too.
fn both_sides(report: &mut Report, settings: &Settings, root: &Description) {
    let both = |what: &str, plugin: &str, setting: &str| {
        Finding::warning(Complaint {
            what: format!("the upstream's {what} plugin and the sidecar do the same"),
            mend: format!(
                "take {plugin} out of Kinto's includes, or leave it to the plugin with {setting} = upstream"
            ),
        })
    };
    if settings.changes_mode == ChangesMode::Auto && root.has("changes") {
        report.add(both("changes", "kinto_changes", "sidecar.changes"));
    }
    if settings.history_mode == HistoryMode::Journal && root.has("history") {
        report.add(both("history", "kinto.plugins.history", "sidecar.history"));
    }
}

/// Who keeps the history, and whether its journal can be used; whether the sidecar does.
async fn history(report: &mut Report, settings: &Settings, root: &Description) -> bool {
    match settings.history_mode {
        HistoryMode::Off => {
            report.say("history", "forwarded like any other path");
            return false;
        }
        HistoryMode::Upstream => {
            report.say("history", "the upstream's own");
            return false;
        }
        HistoryMode::Auto if root.has("history") => {
            report.say("history", "the upstream's own, which it announces");
            return false;
        }
        HistoryMode::Auto | HistoryMode::Journal => {}
    }
    if settings.journal == JournalUrl::SqliteInMemory {
        report.say("history", "in memory: it is gone when the sidecar stops");
        return true;
    }
    let place = format!("{:?}", settings.journal);
    match JournalView::open(&settings.journal).await {
        Ok(Some(_)) => report.say("history", format!("in the journal {place}")),
        Ok(None) => match Journal::can_be_made(&settings.journal) {
            Ok(()) => report.say(
                "history",
                format!("in the journal {place}, which is not there yet: the sidecar makes it when it starts"),
            ),
            Err(error) => report.add(Finding::problem(
                error.to_string(),
                "make the folder, with write permission for the sidecar's user, or name another in sidecar.journal",
            )),
        },
        Err(error) => report.add(Finding::problem(
            error.to_string(),
            format!("is sidecar.journal = {place} the right place? (sidecar.history = off does without)"),
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
                Ok(found) => keys.extend(found.into_iter().filter(|key| resources.include(key))),
                Err(KintoError::Absent) => {
                    report.add(Finding::warning(Complaint::no_bucket(bucket)));
                }
                Err(KintoError::Refused(status) | KintoError::Status(status)) => {
                    report.add(Complaint::cannot_list(bucket, status).into());
                }
                Err(error) => report.add(unreachable(settings, &error.into_failure())),
            }
        }
    }
    let count = keys.len();
    if is_changes && settings.compat == Compat::RemoteSettings {
        let keys: Vec<CollectionKey> = keys.iter().cloned().collect();
        readers::look(report, settings, upstream, &keys, is_journalled).await;
    }
    if is_journalled && !settings.exclusive {
        match pace.journalled().await {
            Ok(journalled) => keys.extend(journalled),
            Err(error) => report.add(unreachable(settings, &error.into_failure())),
        }
    }
    let keys: Vec<CollectionKey> = keys.into_iter().collect();
    let is_monitored = |key: &CollectionKey| is_changes && resources.include(key);
    let is_named = |key: &CollectionKey| is_changes && resources.names(key);
    pace.timestamps(report, &keys, is_monitored, is_named).await;
    let behind = pace.behind(is_journalled);
    let mut said =
        format!("{:.1} s behind at worst for writes that do not pass through", behind.as_secs_f64());
    if behind > settings.timestamps_ttl {
        said.push_str(
            " (longer for those that nobody reads while many others are read, at most 4 times as long)",
        );
    }
    if is_changes && changes.resources.is_empty() {
        report.say("monitored", "nothing: name buckets or collections in changes.resources");
    } else if is_changes {
        report.say("monitored", format!("{count} collections, {said}"));
    }
    if keys.len() > count {
        report.say("journalled", format!("{} collections, {said}", keys.len()));
    }
}
