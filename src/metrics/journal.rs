//! Numbers about the journal.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::histogram::Histogram;
use super::text::Exposition;

static COMMITS: Histogram = Histogram::new();
static FAILURES: AtomicU64 = AtomicU64::new(0);
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);
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
    COMMITS.count(elapsed);
}

/// Counts something that could not be written.
pub(crate) fn count_failure() {
    FAILURES.fetch_add(1, Relaxed);
}

/// Counts a change that the journal cannot keep.
pub(crate) fn count_left_out() {
    LEFT_OUT.fetch_add(1, Relaxed);
}

/// Counts entries that were removed because of their number or age.
pub(crate) fn count_trimmed(entries: u64) {
    TRIMMED.fetch_add(entries, Relaxed);
}

/// What is counted, from 0.
pub(super) fn render(out: &mut Exposition) {
    let name = "kinto_sidecar_journal_commit_duration_seconds";
    let help = "Time of a transaction that writes to the journal, its commit included.";
    COMMITS.render(out, name, help);
    for (name, help, counter) in [
        ("failures", "Transactions that could not be written to the journal.", &FAILURES),
        ("left_out_changes", "Changes that the journal cannot keep, and that have no entry.", &LEFT_OUT),
        ("trimmed_entries", "Entries removed from the journal because of their number or age.", &TRIMMED),
    ] {
        let name = format!("kinto_sidecar_journal_{name}_total");
        out.one(&name, "counter", help, counter.load(Relaxed));
    }
}

/// What was measured.
pub fn render_size(size: JournalSize) -> String {
    let mut out = Exposition::default();
    for (name, help, value) in [
        ("entries", "Entries in the journal.", size.entries),
        ("size_bytes", "Bytes of the journal's files or tables.", size.bytes),
        ("open_intents", "Intents of writes under way in the journal, of all processes.", size.open_intents),
    ] {
        out.one(&format!("kinto_sidecar_journal_{name}"), "gauge", help, value);
    }
    out.into_text()
}
