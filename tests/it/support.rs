//! What every test stands on: real Kintos, the sidecar's own binary, and clients that look closely.
//!
//! ```text
//! let kinto = Kinto::shared();                                  // or Kinto::start(KintoOptions::postgres())
//! let sidecar = Sidecar::start(kinto.url(), &[SERVICE_ACCOUNT, ("changes.resources", "/buckets/a")]);
//! let alice = sidecar.client().user("alice");
//! alice.put("/buckets/a").await.expect(201);
//! let recorder = Recorder::before(kinto.url());                 // counts what the sidecar asks
//! let chaos = Chaos::before(kinto.url());                       // cut(), stall(), garble(), restore()
//! ```
//!
//! Everything starts on a free port, is waited for, and ends with its owner, or with the test process however that ends.

pub mod browser;
mod chaos;
mod client;
mod debian;
pub mod dice;
mod environment;
pub mod firefox;
pub mod frames;
mod kinto;
pub mod pages;
mod postgres;
pub mod prometheus;
mod recorder;
mod sidecar;
pub mod storm;
pub mod stub;
pub mod undertaker;

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use chaos::{Chaos, address_of};
pub use client::{Client, Request, Response};
pub use environment::{Environment, environment, tests_folder};
pub use kinto::{Kinto, KintoOptions, Plugin, Server};
pub use postgres::{Postgres, database};
pub use recorder::{Fate, Recorded, Recorder};
pub use sidecar::Sidecar;

/// The setting that gives a sidecar the account which every test's Kinto lets read everything.
pub const SERVICE_ACCOUNT: (&str, &str) = ("sidecar.auth", "sidecar:secret");

/// How long a test waits for an event which has to come.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A name that no other test uses, so that tests can share a Kinto.
pub fn unique(stem: &str) -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    format!("{stem}-{:x}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// A number from the environment.
pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|number| number.parse().ok()).unwrap_or(default)
}

/// Asks again until `attempt` gives something; fails the test, saying `what` was waited for, when it does not in time.
pub async fn eventually<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = attempt().await {
            return found;
        }
        assert!(std::time::Instant::now() < until, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Says what is left out, and why: past the capture of output, as what was not tested should be seen.
pub fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// The commit that is tested, for reports.
pub fn commit() -> String {
    let folder = env!("CARGO_MANIFEST_DIR");
    let asked =
        std::process::Command::new("git").args(["-C", folder, "describe", "--always", "--dirty"]).output();
    let commit = asked.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    commit.ok().filter(|commit| !commit.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}
