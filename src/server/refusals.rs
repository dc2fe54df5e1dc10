//! Connections that cannot be accepted.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long the next one is waited for: the machine may have what lacks by then.
const BREATHER: Duration = Duration::from_millis(50);
/// How often the log is told, with how many there were.
const TOLD: Duration = Duration::from_secs(60);

/// Those of one listener.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    told: Option<Instant>,
    /// Since the log was told.
    number: u64,
}

// === impl Refusals ===

impl Refusals {
    /// A failed accept is the client's (it went away) or the machine's (it is out of descriptors); neither ends the server.
    pub(super) async fn wait_out(&mut self, error: &io::Error) {
        if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
            return;
        }
        if let Some(times) = self.count() {
            tracing::warn!(%error, times, "cannot accept a connection");
        }
        sleep(BREATHER).await;
    }

    /// How many there were, where the log is to be told.
    fn count(&mut self) -> Option<u64> {
        self.number += 1;
        if self.told.is_some_and(|told| told.elapsed() < TOLD) {
            return None;
        }
        self.told = Some(Instant::now());
        Some(std::mem::take(&mut self.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_goes_on_is_told_once_and_then_as_a_number() {
        let mut refusals = Refusals::default();
        let mut told = Vec::new();
        for _ in 0..1300 {
            told.extend(refusals.count());
            sleep(BREATHER).await;
        }
        assert_eq!(told, [1, 1200]);
    }
}
