//! `history import --from URL`: takes over what the history plugin of a Kinto recorded, of all buckets.
//!
//! Each history is read from its oldest entry on, page by page, tombstones of entries that were deleted included, so that
//! what is written meanwhile comes last. Done again, it adds what is new.

use super::import::{Adding, told};
use super::left_out::LeftOut;
use super::progress::Progress;
use super::{Failure, Journal};
use crate::journal::{Line, Object};
use crate::kinto::Timestamp;
use crate::settings::{InForce, Settings};
use crate::upstream::Upstream;
use crate::upstream::kinto::{KintoError, KintoPage, Source};

/// Entries of a page; Kinto may give fewer.
const PAGE: usize = 1000;

/// The most buckets that are named.
const NAMED: usize = 10;

/// Reads and adds all; gives what is said in the end.
pub(super) async fn run(settings: &Settings, journal: &Journal) -> Result<String, Failure> {
    let from = &settings.upstream;
    let upstream = Upstream::new(&InForce::from(settings.clone()))
        .map_err(|error| Failure::Problem(error.to_string()))?;
    let described = upstream.described().await;
    let described = described.map_err(|error| Failure::Problem(format!("{from} cannot be read: {error}")))?;
    if !described.has("history") {
        return Err(Failure::Problem(format!(
            "{from} has no history: its root view names no capability of that name"
        )));
    }
    let source = Source::new(upstream);
    let (mut adding, mut progress) = (Adding::new(journal), Progress::new("imported"));
    let (mut buckets, mut refused, mut left_out) = (0, Vec::new(), LeftOut::default());
    let done = async {
        let unread = |error| Failure::Problem(format!("the buckets of {from} cannot be listed: {error}"));
        let mut pages = source.pages("/buckets?_fields=id");
        while let Some(page) = pages.next().await.map_err(unread)? {
            for bucket in &page.rows {
                match history(&source, &bucket.id, &mut adding, &mut progress, &mut left_out).await? {
                    Read::All => buckets += 1,
                    Read::Gone => {}
                    Read::Refused => refused.push(bucket.id.to_string()),
                }
            }
        }
        journal.fill_chains().await?;
        Ok(journal.look_closely().await?)
    };
    let done: Result<(), Failure> = done.await;
    progress.end();
    let told = told(adding.imported);
    done.map_err(|failure| Failure::Problem(format!("{failure}; up to there {told}")))?;
    left_out.end().map_err(|failure| Failure::Problem(format!("{failure}; {told}, of {buckets} buckets")))?;
    if !refused.is_empty() {
        let number = refused.len();
        refused.truncate(NAMED);
        return Err(Failure::Problem(format!(
            "the account may not read the history of {number} buckets ({}): give it read permission on each, or history_read_principals in \
             Kinto's settings; of {buckets} others {told}",
            refused.join(", ") + if number > NAMED { ", …" } else { "" }
        )));
    }
    if buckets == 0 {
        return Err(Failure::Problem(format!(
            "{from} lists no bucket: does the account (sidecar.auth, sidecar.auth_file) have read permission?"
        )));
    }
    Ok(format!("{told}, of {buckets} buckets"))
}

/// What came of a bucket.
enum Read {
    All,
    /// It was deleted meanwhile.
    Gone,
    Refused,
}

/// Adds a bucket's history.
async fn history(
    source: &Source,
    bucket: &str,
    adding: &mut Adding<'_>,
    progress: &mut Progress,
    left_out: &mut LeftOut,
) -> Result<Read, Failure> {
    let list = format!("{}/history", Object::Bucket(bucket.to_owned()));
    let unread = |error| match error {
        KintoError::Absent => Ok(Read::Gone),
        KintoError::Refused(_) => Ok(Read::Refused),
        error => Err(Failure::Problem(format!("the history of {bucket} cannot be read: {error}"))),
    };
    let rest = format!("&_sort=last_modified&_limit={PAGE}");
    let mut pages = match source.newer(&list, Timestamp::ZERO, &rest).await {
        Ok(pages) => pages,
        Err(error) => return unread(error),
    };
    loop {
        match pages.next().await {
            Ok(Some(page)) => {
                adding.add(lines(bucket, &page, left_out)).await?;
                progress.add(page.rows.len());
            }
            Ok(None) => return Ok(Read::All),
            Err(error) => return unread(error),
        }
    }
}

/// What a page says of a bucket's history.
fn lines(bucket: &str, page: &KintoPage, left_out: &mut LeftOut) -> Vec<Line> {
    let mut lines = Vec::with_capacity(page.rows.len() + 1);
    for row in &page.rows {
        if row.deleted {
            lines.push(Line::tombstone(bucket, &row.id, row.last_modified));
            continue;
        }
        let text = std::str::from_utf8(&row.json).map_err(|error| error.to_string());
        match text.and_then(Line::parse) {
            Ok(line) => lines.push(line),
            Err(reason) => {
                left_out.add(format!("the entry {} of {bucket} cannot be imported: {reason}", row.id));
            }
        }
    }
    // The list is not older than its timestamp, whatever was deleted from it.
    lines.push(Line::history(bucket, page.timestamp));
    lines
}
