//! Whether the threads that serve still do: a sign of life of each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// How often a thread gives a sign.
const BEAT: Duration = Duration::from_millis(500);

/// Signs of life of all threads.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Vec<Arc<AtomicBool>>);

impl Pulse {
    /// Listens to one more thread, which has to run what this gives.
    pub(super) fn of_thread(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let sign = Arc::new(AtomicBool::new(true));
        self.0.push(Arc::clone(&sign));
        async move {
            loop {
                sign.store(true, Relaxed);
                tokio::time::sleep(BEAT).await;
            }
        }
    }

    /// Whether each has given a sign since this was asked last.
    pub fn is_felt(&self) -> bool {
        // All are looked at, as each look counts.
        self.0.iter().filter(|sign| !sign.swap(false, Relaxed)).count() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_thread_that_hangs_is_missed() {
        let mut pulse = Pulse::default();
        let runs = tokio::spawn(pulse.of_thread());
        let _hangs = pulse.of_thread();
        assert!(pulse.is_felt());
        tokio::task::yield_now().await;
        assert!(!pulse.is_felt());
        runs.abort();
    }
}
