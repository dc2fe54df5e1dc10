//! How long a question to the upstream has been without an answer, as those see it who wait for what comes of it.
//!
//! An upstream that takes connections and says nothing is found out by `sidecar.upstream_timeout`, which leaves time for
//! whatever an upstream may have to do. Whoever can be answered from what is known does not wait for that.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Whether a question is under way, and since when nothing was heard.
#[derive(Debug, Default)]
pub struct Suspense(watch::Sender<Option<Instant>>);

/// A question under way; dropping it says that it is no more.
#[derive(Debug)]
pub struct Asking<'s>(&'s Suspense);

impl Suspense {
    /// A question is put.
    pub fn begin(&self) -> Asking<'_> {
        self.0.send_replace(Some(Instant::now()));
        Asking(self)
    }

    /// The upstream said something: what is under way goes on.
    pub fn heard(&self) {
        self.0.send_if_modified(|since| {
            *since = since.map(|_| Instant::now());
            since.is_some()
        });
    }

    /// For how long nothing was heard of the question under way.
    pub fn lasts(&self) -> Duration {
        self.0.borrow().map(|since| since.elapsed()).unwrap_or_default()
    }

    /// Whether that is longer than this.
    pub fn has_outlasted(&self, patience: Duration) -> bool {
        self.lasts() > patience
    }

    /// Ends when a question is under way of which nothing was heard for that long.
    pub async fn outlasts(&self, patience: Duration) {
        let mut since = self.0.subscribe();
        loop {
            let begun = *since.borrow_and_update();
            let over = async {
                match begun {
                    Some(begun) => tokio::time::sleep_until(begun + patience).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => return,
                _ = since.changed() => {}
            }
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.0.send_replace(None);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn begun(ago: Duration) -> Suspense {
        Suspense(watch::Sender::new(Instant::now().checked_sub(ago)))
    }

    #[tokio::test]
    async fn only_silence_outlasts_patience() {
        let suspense = Suspense::default();
        let goes_on = |suspense: &Suspense| suspense.outlasts(PATIENCE).now_or_never().is_none();
        suspense.heard();
        assert!(goes_on(&suspense), "nothing was asked");
        assert!(goes_on(&begun(PATIENCE / 2)));
        let suspense = begun(2 * PATIENCE);
        for _ in 0..2 {
            // Whoever comes later does not wait again.
            suspense.outlasts(PATIENCE).await;
        }
        suspense.heard();
        assert!(goes_on(&suspense), "a long answer");
        let asking = suspense.begin();
        assert!(goes_on(&suspense));
        drop(asking);
        assert!(suspense.outlasts(Duration::ZERO).now_or_never().is_none());
    }

    #[tokio::test]
    async fn who_waits_is_told() {
        let suspense = Suspense::default();
        let _asking = suspense.begin();
        suspense.outlasts(Duration::from_millis(10)).await;
    }
}
