//! The tests that run the real binary in front of real Kintos: one binary, one module for each thing that is shown.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::needless_pass_by_value,
    clippy::format_push_string,
    unreachable_pub,
    reason = "a test is read more than it is run, stops at the first surprise, and nobody links it"
)]

mod recent;
mod support;

mod access;
mod access_log;
mod admin;
mod batch;
mod campaign;
mod changesets;
mod check;
mod clients;
mod cold_to_hot;
mod conversation;
mod cut;
mod dependencies;
mod deploy;
mod dictionaries;
mod differential;
mod docs;
mod early;
mod faults;
mod feeds;
mod floors;
mod forwarding;
mod framing;
mod given_sockets;
mod harness;
mod health;
mod history;
mod hostile;
mod http2;
mod keys;
mod large_rows;
mod letter_for_letter;
mod limits;
mod log_stream;
mod mirror_equals_upstream;
mod monitor_changes;
mod odd_rows;
mod outage;
mod page;
mod parity;
mod polling;
mod purge;
mod quickstart;
mod reload;
mod remote_settings;
mod security;
mod settings;
mod shutdown;
mod soak;
mod stale;
mod takeover;
mod tls;
mod traces;
mod undo;
mod unprocessed;
mod upstream_words;
mod warm;
mod writes;
