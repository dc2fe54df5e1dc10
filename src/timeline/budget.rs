//! For how much of the time the sidecar's own questions may keep the upstream busy: `sidecar.poll_budget`.
//!
//! One account for all who ask on nobody's behalf. They take turns: each asks, and what it asked for is paid with a rest
//! for all. What cannot wait may be paid afterwards.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::settings::InForce;

/// For how long a turn keeps others from theirs.
const LONGEST_TURN: Duration = Duration::from_secs(2);

/// The longest rest after one question, however long it took.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// The account.
#[derive(Debug)]
pub struct Budget {
    settings: InForce,
    /// When everything is paid.
    free: Mutex<Instant>,
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Where those stand of whom only one at a time stands in the line itself.
    aside: Arc<tokio::sync::Mutex<()>>,
}

/// The right to ask; what it took is paid when it is dropped. Whoever asks for long is passed by the others.
#[derive(Debug)]
pub struct Turn {
    budget: Arc<Budget>,
    began: Instant,
    busy: Option<Duration>,
    /// Gives the places back, in the line and among those aside, when the turn ends or has taken long.
    places: JoinHandle<()>,
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
    /// Nothing was asked yet.
    pub fn new(settings: InForce) -> Arc<Self> {
        Arc::new(Self {
            settings,
            free: Mutex::new(Instant::now()),
            turn: Arc::default(),
            aside: Arc::default(),
        })
    }

    /// Waits until it is the caller's turn, and all before it is paid.
    pub async fn turn(self: Arc<Self>) -> Turn {
        self.turn_after(None).await
    }

    /// As [`Self::turn`], for what may wait longer: however many want that, every other turn is one of the others.
    pub async fn turn_aside(self: Arc<Self>) -> Turn {
        let aside = Arc::clone(&self.aside).lock_owned().await;
        self.turn_after(Some(aside)).await
    }

    async fn turn_after(self: Arc<Self>, aside: Option<OwnedMutexGuard<()>>) -> Turn {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        loop {
            let debt = self.debt();
            if debt.is_zero() {
                let places = tokio::spawn(async move {
                    tokio::time::sleep(LONGEST_TURN).await;
                    drop((turn, aside));
                });
                return Turn { began: Instant::now(), busy: None, places, budget: self };
            }
            tokio::time::sleep(debt).await;
        }
    }

    /// The rest after a question that took `busy`.
    pub fn rest(&self, busy: Duration) -> Duration {
        rest(busy, self.settings.now().poll_budget)
    }

    /// How long it takes until everything is paid.
    pub fn debt(&self) -> Duration {
        self.free.lock().saturating_duration_since(Instant::now())
    }

    /// The upstream was kept busy.
    pub fn pay(&self, busy: Duration) {
        let mut free = self.free.lock();
        *free = (*free).max(Instant::now()) + self.rest(busy);
    }
}

impl Turn {
    /// The upstream was busy for another time than the turn took.
    pub fn was(&mut self, busy: Duration) {
        self.busy = Some(busy);
    }

    /// Nothing was heard of what was asked: whether the upstream was busy with it nobody knows.
    pub fn was_in_vain(&mut self) {
        self.busy = Some(self.began.elapsed().min(LONGEST_TURN));
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.budget.pay(self.busy.unwrap_or_else(|| self.began.elapsed()));
        self.places.abort();
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
    async fn those_who_can_wait_have_every_other_turn_at_most() {
        let budget = Budget::new(InForce::with(|settings| settings.poll_budget = 1.0));
        let order = Arc::new(Mutex::new(Vec::new()));
        let held = Arc::clone(&budget).turn().await;
        for n in 0..3 {
            let (budget, order) = (Arc::clone(&budget), Arc::clone(&order));
            tokio::spawn(async move {
                let _turn = budget.turn_aside().await;
                order.lock().push(n);
            });
        }
        tokio::task::yield_now().await;
        let mut first = std::pin::pin!(Arc::clone(&budget).turn());
        assert!(futures_util::FutureExt::now_or_never(&mut first).is_none());
        drop(held);
        let _turn = first.await;
        assert_eq!(order.lock().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_takes_long_is_passed_by_the_others() {
        let budget = Budget::new(InForce::with(|settings| settings.poll_budget = 1.0));
        let began = Instant::now();
        let _hangs = Arc::clone(&budget).turn_aside().await;
        let _next = Arc::clone(&budget).turn().await;
        let _aside = Arc::clone(&budget).turn_aside().await;
        assert!(began.elapsed() < 3 * LONGEST_TURN, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn all_who_ask_share_one_budget() {
        let budget = Budget::new(InForce::with(|settings| settings.poll_budget = 0.5));
        let began = Instant::now();
        let asks = (0..2).map(|_| {
            let budget = Arc::clone(&budget);
            tokio::spawn(async move {
                for _ in 0..3 {
                    Arc::clone(&budget).turn_aside().await.was(Duration::from_millis(20));
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
