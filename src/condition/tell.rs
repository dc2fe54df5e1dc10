//! What the log is told without being asked: how the sidecar started, and what has gone wrong since.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{asks, of_machine, of_root};
use crate::app::App;
use crate::complaint::Complaint;
use crate::upstream::Upstream;

/// How often it is looked for what has gone wrong.
const LOOK: Duration = Duration::from_secs(2);

/// Tells how the sidecar started, and then of each thing that goes wrong, once, until the process ends.
pub async fn tell(app: Arc<App>, upstream: Upstream, listens: String) {
    started(&app, &upstream, &listens).await;
    // What was wrong, by its kind.
    let mut told: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let error = upstream.outage().error();
        let outage = error.map(|error| Complaint::of_upstream(&app.settings.upstream, &error));
        let wrong: Vec<Complaint> = of_machine(&app.now(), &upstream).into_iter().chain(outage).collect();
        for complaint in wrong.iter().filter(|complaint| !told.contains_key(complaint.kind())) {
            tracing::warn!("{complaint}");
        }
        let kinds: BTreeMap<_, _> =
            wrong.into_iter().map(|complaint| (complaint.kind().to_owned(), complaint.what)).collect();
        for (_, ended) in told.iter().filter(|(kind, _)| !kinds.contains_key(*kind)) {
            tracing::info!("no more: {ended}");
        }
        told = kinds;
        tokio::time::sleep(LOOK).await;
    }
}

/// One line with what the sidecar is, what it is in front of, and what it has found there.
async fn started(app: &App, upstream: &Upstream, listens: &str) {
    let settings = &app.settings;
    let described = if asks(app) {
        app.poller.first_asked().await;
        Some(upstream.described().await)
    } else {
        None
    };
    let (kinto, account) = match &described {
        Some(Ok(root)) => {
            let account = root.user_id().unwrap_or("nobody");
            (root.project_version.clone().unwrap_or("no Kinto".to_owned()), account.to_owned())
        }
        Some(Err(error)) => (format!("not known: {error}"), "not known".to_owned()),
        None => ("not asked".to_owned(), "not asked".to_owned()),
    };
    if let Some(complaint) = described.as_ref().and_then(|described| of_root(settings, described)) {
        tracing::warn!("{complaint}");
    }
    let journal = if settings.history_mode.wants_journal() {
        format!("{:?}", settings.journal)
    } else {
        "none".to_owned()
    };
    let lacking = app.poller.lacking();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        upstream = %settings.upstream,
        kinto,
        account,
        journal,
        monitored = app.timeline.entries().rows.len() as u64,
        unreadable = lacking.unreadable.len() as u64,
        missing = lacking.missing.len() as u64,
        failing = app.poller.failing() as u64,
        loaded = app.timeline.is_loaded(),
        listens,
        "started"
    );
}
