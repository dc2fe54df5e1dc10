//! What is counted by the `metrics` crate where it happens: described here, and there from 0 before anything has happened.

use ::metrics::{counter, describe_counter, describe_gauge, gauge};

/// Gauges, with what they say.
const GAUGES: [(&str, &str); 5] = [
    ("kinto_sidecar_clocks", "Collections of which the newest timestamp is followed."),
    ("kinto_sidecar_feed_readers", "Readers of live feeds."),
    ("kinto_sidecar_missing", "Monitored buckets and collections that are not there."),
    ("kinto_sidecar_mirror_bytes", "Bytes of memory of all mirrors."),
    ("kinto_sidecar_unreadable", "Monitored buckets and collections that cannot be read."),
];

/// Counters, with what they say.
const COUNTERS: [(&str, &str); 9] = [
    ("kinto_sidecar_access_log_lost_total", "Lines of the log lost as it was read too slowly."),
    ("kinto_sidecar_buffer_refused_total", "Requests refused as no more may be held in memory."),
    (
        "kinto_sidecar_changesets_before_deletions_total",
        "Changesets since a moment before which not all deletions are known.",
    ),
    ("kinto_sidecar_connections_given_up_total", "Idle connections closed to make room for others."),
    ("kinto_sidecar_feed_readers_refused_total", "Readers of live feeds for whom there was no room."),
    ("kinto_sidecar_mirror_comparisons_total", "Mirrors compared with the upstream."),
    ("kinto_sidecar_mirror_mended_rows_total", "Rows that a comparison found missing or old."),
    ("kinto_sidecar_state_failures_total", "Times that nothing could be kept for a restart."),
    ("kinto_sidecar_timestamps_refused_total", "Questions for timestamps that the upstream refused."),
];

/// A counter with a label: the label's name, and the values that it has.
type Labelled = (&'static str, &'static str, &'static str, &'static [&'static str]);

const LABELLED: [Labelled; 6] = [
    (
        "kinto_sidecar_permission_questions_total",
        "Questions to the upstream whether somebody may read something, by its answer.",
        "outcome",
        &["granted", "refused", "failed"],
    ),
    (
        "kinto_sidecar_mirror_full_reads_total",
        "Refreshes of a mirror that read the collection as a whole, by reason.",
        "reason",
        &["first", "mode", "void", "mended"],
    ),
    (
        "kinto_sidecar_mirror_refreshes_total",
        "Mirrors brought up to date, by how that went.",
        "outcome",
        &["ok", "failed"],
    ),
    (
        "kinto_sidecar_signatures_total",
        "Changesets whose signatures were looked at, by how these were found.",
        "outcome",
        &["good", "bad", "unknown"],
    ),
    (
        "kinto_sidecar_spans_total",
        "Spans of requests, by whether the collector was told.",
        "outcome",
        &["ok", "failed", "lost"],
    ),
    (
        "kinto_sidecar_purges_total",
        "Caches told of a change, by how that went.",
        "outcome",
        &["ok", "failed"],
    ),
];

/// Describes them to the recorder, which has been installed.
pub fn describe() {
    for (name, help) in GAUGES {
        describe_gauge!(name, help);
        gauge!(name).increment(0.0);
    }
    // Nothing was learned yet whose age there could be.
    describe_gauge!("kinto_sidecar_timestamps_age_seconds", "Age of the oldest of the polled timestamps.");
    // No chain was looked at yet.
    describe_gauge!(
        "kinto_sidecar_signature_chain_expiration_timestamp_seconds",
        "When the first of the chains ends that signatures of changesets stand on."
    );
    describe_gauge!(
        "kinto_sidecar_clock_ahead_seconds",
        "How far this machine's clock is ahead of the upstream's."
    );
    for (name, help) in COUNTERS {
        describe_counter!(name, help);
        counter!(name).increment(0);
    }
    for (name, help, label, values) in LABELLED {
        describe_counter!(name, help);
        for value in values {
            counter!(name, label => *value).increment(0);
        }
    }
}
