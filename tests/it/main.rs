//! The tests that run the real binary in front of real Kintos: one binary, one module for each thing that is shown.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "a test stops at the first surprise, and nobody links it"
)]

mod support;

mod clients;
mod cold_to_hot;
mod deploy;
mod admin;
mod forwarding;
mod harness;
mod http2;
mod limits;
mod mirror_equals_upstream;
mod outage;
mod quickstart;
mod security;
mod shutdown;
mod tls;
