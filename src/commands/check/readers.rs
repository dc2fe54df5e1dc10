//! What Remote Settings' readers miss, or will.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::report::{Finding, Report};
use crate::complaint::Complaint;
use crate::journal::{JournalError, JournalView};
use crate::kinto::{CollectionKey, Timestamp};
use crate::mirror::deletions::mark_of;
use crate::mirror::refresh::{Depth, Reader};
use crate::remote_settings::signatures::{SignatureError, Verifier};
use crate::settings::{InForce, Settings};
use crate::timeline::clock::Clock;
use crate::upstream::Upstream;
use crate::upstream::kinto::Source;

/// A CDN may keep an answer for so long without anybody minding.
const UNNOTICED: Duration = Duration::from_secs(60);

/// Looks at the monitored collections as their readers do.
pub(super) async fn look(
    report: &mut Report,
    settings: &Settings,
    upstream: &Upstream,
    keys: &[CollectionKey],
    is_journalled: bool,
) {
    let lifetime = settings.remote_settings.max_age;
    if settings.purge_url.is_none() && lifetime > UNNOTICED {
        report.add(Finding::note(
            format!("a CDN gives readers of /v2 what may be {} s old", lifetime.as_secs()),
            "where there is one, set sidecar.purge_url, or sidecar.v2_max_age = 60s",
        ));
    }
    let view = if is_journalled { JournalView::open(&settings.journal).await.ok().flatten() } else { None };
    match view {
        Some(view) => {
            if let Err(error) = deletions(report, &view, keys).await {
                report.add(Finding::problem(error.to_string(), "see what the engine's log says of it"));
            }
        }
        None => report.say("deletions", "known as long as Kinto keeps them"),
    }
    if settings.remote_settings.verify_signatures {
        signatures(report, settings, upstream, keys).await;
    }
}

/// Since when all deletions are known.
async fn deletions(
    report: &mut Report,
    view: &JournalView,
    keys: &[CollectionKey],
) -> Result<(), JournalError> {
    let mut known: Vec<Timestamp> = Vec::new();
    for key in keys {
        known.extend(view.watermark(&mark_of(&key.records_uri())).await?);
    }
    let said = match known.iter().max() {
        Some(newest) => {
            let moment = SystemTime::UNIX_EPOCH + Duration::from_millis(newest.0);
            let (known, all) = (known.len(), keys.len());
            format!(
                "known in {known} of {all} collections, since {} or before",
                httpdate::fmt_http_date(moment)
            )
        }
        None => "known as long as Kinto keeps them, until the sidecar has run with this journal".to_owned(),
    };
    report.say("deletions", said);
    Ok(())
}

/// Whether changesets verify, and until when.
async fn signatures(report: &mut Report, settings: &Settings, upstream: &Upstream, keys: &[CollectionKey]) {
    let verifier = Verifier::new(settings);
    let reader = Reader::new(Source::new(upstream.clone()), InForce::from(settings.clone()));
    let (mut good, mut first_end) = (0_usize, None::<SystemTime>);
    for key in keys {
        let read = reader.refresh(&Clock::new(key.clone(), Arc::default()), None, Depth::Ordinary).await;
        // It is said elsewhere that it cannot be read.
        let Ok(content) = read else { continue };
        match verifier.verify(&content).await {
            Ok(end) => {
                good += 1;
                first_end = first_end.into_iter().chain(end).min();
            }
            Err(error @ (SignatureError::None | SignatureError::Unknown(_))) => {
                report.add(Finding::warning(Complaint::of_signature(key, &error.to_string())));
            }
            Err(error) => report.add(Complaint::of_signature(key, &error.to_string()).into()),
        }
    }
    let until = first_end.map_or(String::new(), |end| format!(", until {}", httpdate::fmt_http_date(end)));
    report.say("signatures", format!("good in {good} of {} collections{until}", keys.len()));
    let now = SystemTime::now();
    if let Some((end, complaint)) =
        first_end.and_then(|end| Some((end, Complaint::of_signature_chain(end, now)?)))
    {
        report.add(if end < now { complaint.into() } else { Finding::warning(complaint) });
    }
}
