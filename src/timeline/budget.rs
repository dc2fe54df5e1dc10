//! For how much of the time the sidecar's own questions may keep the upstream busy: `sidecar.poll_budget`.
//!
//! One account for all who ask on nobody's behalf. They take turns: each asks, and what it asked for is paid with a rest
//! for all. What cannot wait may be paid afterwards.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

/// The longest rest after one question, however long it took.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// The account.
#[derive(Debug)]
pub struct Budget {
    share: f64,
    /// When everything is paid.
    free: Mutex<Instant>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// The right to ask; what it took is paid when it is dropped.
#[derive(Debug)]
pub struct Turn {
    budget: Arc<Budget>,
    began: Instant,
    busy: Option<Duration>,
    _place: OwnedMutexGuard<()>,
}

/// The rest after a question that took `busy`, so that it kept the upstream busy for no more than `budget` of the time.
pub fn rest(busy: Duration, budget: f64) -> Duration {
    if budget >= 1.0 {
        return Duration::ZERO;
    }
    let share = budget.max(0.0001);
    busy.mul_f64(1.0 / share - 1.0).min(LONGEST_REST)
}

impl Budget {
    /// Nothing was asked yet; `share` of the time may be used.
    pub fn new(share: f64) -> Arc<Self> {
        Arc::new(Self { share, free: Mutex::new(Instant::now()), turn: Arc::default() })
    }

    /// Waits until it is the caller's turn, and all before it is paid.
    pub async fn turn(self: Arc<Self>) -> Turn {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        loop {
            let debt = self.debt();
            if debt.is_zero() {
                return Turn { began: Instant::now(), busy: None, _place: turn, budget: self };
            }
            tokio::time::sleep(debt).await;
        }
    }

    /// The rest after a question that took `busy`.
    pub fn rest(&self, busy: Duration) -> Duration {
        rest(busy, self.share)
    }

    /// How long it takes until everything is paid.
    pub fn debt(&self) -> Duration {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).saturating_duration_since(Instant::now())
    }

    /// The upstream was kept busy.
    pub fn pay(&self, busy: Duration) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        *free = (*free).max(Instant::now()) + self.rest(busy);
    }
}

impl Turn {
    /// The upstream was busy for another time than the turn took.
    pub fn was(&mut self, busy: Duration) {
        self.busy = Some(busy);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.budget.pay(self.busy.unwrap_or_else(|| self.began.elapsed()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_keep_the_upstream_busy_for_no_more_than_the_budget() {
        assert_eq!(rest(Duration::from_millis(10), 0.05), Duration::from_millis(190));
        assert_eq!(rest(Duration::from_millis(10), 1.0), Duration::ZERO);
        assert_eq!(rest(Duration::from_secs(10), 0.0), LONGEST_REST);
    }

    #[tokio::test]
    async fn all_who_ask_share_one_budget() {
        let budget = Budget::new(0.5);
        let began = Instant::now();
        let asks = (0..2).map(|_| {
            let budget = Arc::clone(&budget);
            tokio::spawn(async move {
                for _ in 0..3 {
                    Arc::clone(&budget).turn().await.was(Duration::from_millis(20));
                }
            })
        });
        for asked in asks.collect::<Vec<_>>() {
            asked.await.unwrap();
        }
        // The last of six is not paid yet.
        assert!(began.elapsed() >= Duration::from_millis(100), "{:?}", began.elapsed());
        budget.pay(Duration::from_secs(1));
        budget.pay(Duration::from_secs(1));
        assert!(budget.debt() > Duration::from_millis(1900), "{:?}", budget.debt());
    }
}
