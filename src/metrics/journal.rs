//! Numbers about the journal. It commits seldom enough that all threads count in one table.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::{BUCKETS, seconds};

static COMMITS: [AtomicU64; BUCKETS.len() + 1] = [const { AtomicU64::new(0) }; BUCKETS.len() + 1];
static COMMIT_SUM_US: AtomicU64 = AtomicU64::new(0);
static FAILURES: AtomicU64 = AtomicU64::new(0);
static TRIMMED: AtomicU64 = AtomicU64::new(0);

/// What a journal holds, as far as it can be read now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalSize {
    /// Entries that can be read.
    pub entries: u64,
    /// Bytes of its files or tables.
    pub bytes: u64,
    /// Intents of writes under way, of all processes.
    pub open_intents: u64,
}

/// Counts a transaction that was committed.
pub(crate) fn count_commit(elapsed: Duration) {
    let elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    let bucket = BUCKETS.partition_point(|bound| *bound < elapsed_us);
    if let Some(bucket) = COMMITS.get(bucket) {
        bucket.fetch_add(1, Relaxed);
    }
    COMMIT_SUM_US.fetch_add(elapsed_us, Relaxed);
}

/// Counts something that could not be written.
pub(crate) fn count_failure() {
    FAILURES.fetch_add(1, Relaxed);
}

/// Counts entries that were removed because of their number or age.
pub(crate) fn count_trimmed(entries: u64) {
    TRIMMED.fetch_add(entries, Relaxed);
}

/// What is counted, from 0.
pub(super) fn render(text: &mut String) -> std::fmt::Result {
    const NAME: &str = "kinto_sidecar_journal_commit_duration_seconds";
    writeln!(text, "# HELP {NAME} Time of a transaction that writes to the journal, its commit included.")?;
    writeln!(text, "# TYPE {NAME} histogram")?;
    let mut total = 0;
    for (b, bucket) in COMMITS.iter().enumerate() {
        total += bucket.load(Relaxed);
        let bound = BUCKETS.get(b).map_or_else(|| "+Inf".to_owned(), |bound| seconds(*bound));
        writeln!(text, "{NAME}_bucket{{le=\"{bound}\"}} {total}")?;
    }
    writeln!(text, "{NAME}_sum {}", seconds(COMMIT_SUM_US.load(Relaxed)))?;
    writeln!(text, "{NAME}_count {total}")?;
    for (name, help, counter) in [
        ("failures", "Transactions that could not be written to the journal.", &FAILURES),
        ("trimmed_entries", "Entries removed from the journal because of their number or age.", &TRIMMED),
    ] {
        let name = format!("kinto_sidecar_journal_{name}_total");
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {}", counter.load(Relaxed))?;
    }
    Ok(())
}

/// What was measured.
pub fn render_size(size: JournalSize) -> String {
    let gauges = [
        ("entries", "Entries in the journal.", size.entries),
        ("size_bytes", "Bytes of the journal's files or tables.", size.bytes),
        ("open_intents", "Intents of writes under way in the journal, of all processes.", size.open_intents),
    ];
    gauges.into_iter().fold(String::new(), |mut text, (name, help, value)| {
        let name = format!("kinto_sidecar_journal_{name}");
        // Writing to a string does not fail.
        _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
        text
    })
}
