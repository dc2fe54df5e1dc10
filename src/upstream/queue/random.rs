//! Requests that come, ask several things at once, wait, give up and go, in an order that follows from a seed.
//!
//! `SEEDS=100000` tries more of them, `SEED=7` one.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use super::super::stay::{LONG, Stay};
use super::tests::{queue_for, request};
use super::*;

const CLIENTS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(4);
const FEW_BEFORE: usize = 8;

type Question = Pin<Box<dyn Future<Output = Result<Turn, UpstreamError>> + Send>>;

/// Numbers that follow from a seed.
struct Random(u64);

/// All that goes on.
struct World {
    queue: Arc<Queue>,
    most: usize,
    random: Random,
    /// Questions that wait for a place, in the order in which they came.
    waiting: Vec<(Arc<Current>, Instant, Question)>,
    /// Questions that have one.
    held: Vec<(Arc<Current>, Turn)>,
    /// Those of them whose clients are waited for.
    slow: Vec<(Arc<Current>, Arc<Stay>)>,
    requests: Vec<Arc<Current>>,
}

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn seeds(default: u64) -> std::ops::RangeInclusive<u64> {
    number("SEED").map_or(1..=number("SEEDS").unwrap_or(default), |seed| seed..=seed)
}

/// A place for what the task is about, as whoever asks the upstream gets one.
async fn turn(queue: Arc<Queue>) -> Result<Turn, UpstreamError> {
    match queue.take() {
        Ok(turn) => Ok(turn),
        Err(asker) => queue.wait(asker).await,
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let most = 1 + random.below(9);
        let queue = queue_for(most, PATIENCE);
        let (waiting, held, slow, requests) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { queue, most, random, waiting, held, slow, requests }
    }

    async fn step(&mut self) {
        match self.random.below(14) {
            0..3 => {
                let client = u8::try_from(self.random.below(CLIENTS)).unwrap();
                self.requests.push(request(client));
                self.ask(self.requests.len() - 1);
            }
            3..5 if !self.requests.is_empty() => {
                let which = self.random.below(self.requests.len());
                self.ask(which);
            }
            5..9 if !self.held.is_empty() => {
                let which = self.random.below(self.held.len());
                drop(self.held.remove(which));
            }
            9 if !self.waiting.is_empty() => {
                let which = self.random.below(self.waiting.len());
                drop(self.waiting.remove(which));
            }
            10 => drop(self.queue.take().expect("the sidecar itself waits for nobody")),
            11 => sleep(PATIENCE / 8).await,
            12 if !self.held.is_empty() => {
                let which = self.random.below(self.held.len());
                self.slow_down(which);
            }
            13 if !self.slow.is_empty() => {
                let which = self.random.below(self.slow.len());
                let (asker, stay) = &self.slow[which];
                if !stay.waits(self.random.below(2) == 0) && self.random.below(2) == 0 {
                    self.held.push((Arc::clone(asker), stay.take()));
                    self.slow.remove(which);
                }
            }
            _ => {}
        }
        self.poll();
        self.check();
    }

    /// A client is waited for from now on.
    fn slow_down(&mut self, which: usize) {
        let (asker, turn) = self.held.remove(which);
        let stay = Stay::new(turn);
        stay.waits(true);
        self.slow.push((asker, stay));
    }

    /// One more question of a request.
    fn ask(&mut self, which: usize) {
        let asker = Arc::clone(&self.requests[which]);
        let question = current::about(Arc::clone(&asker), turn(Arc::clone(&self.queue)));
        self.waiting.push((asker, Instant::now(), Box::pin(question)));
    }

    /// All clients become slow, and somebody new comes.
    async fn let_a_newcomer_in(&mut self) {
        while !self.held.is_empty() {
            self.slow_down(0);
        }
        // One after the other is given up, and who waited before comes first.
        self.slow.truncate(FEW_BEFORE);
        self.waiting.truncate(FEW_BEFORE);
        self.slow.iter().for_each(|(_, stay)| _ = stay.waits(true));
        sleep(LONG).await;
        self.requests.push(request(200));
        self.ask(self.requests.len() - 1);
        let begun = Instant::now();
        while !self.held.iter().any(|(asker, _)| Arc::ptr_eq(asker, self.requests.last().unwrap())) {
            // Who was there before is quick.
            self.held.clear();
            assert!(begun.elapsed() < PATIENCE, "kept waiting by slow clients");
            sleep(LOOK).await;
            self.poll();
            self.check();
        }
    }

    /// Lets everybody go on who can, and then those to whom they gave a place.
    fn poll(&mut self) {
        self.poll_once();
        self.poll_once();
    }

    fn poll_once(&mut self) {
        for (asker, since, mut question) in std::mem::take(&mut self.waiting) {
            match (&mut question).now_or_never() {
                None => self.waiting.push((asker, since, question)),
                Some(Ok(turn)) => self.held.push((asker, turn)),
                Some(Err(error)) => {
                    assert!(matches!(error, UpstreamError::Crowded), "{error}");
                    assert!(since.elapsed() >= PATIENCE, "refused after {:?}", since.elapsed());
                }
            }
        }
    }

    fn check(&mut self) {
        self.slow.retain(|(_, stay)| !stay.waits(stay.is_waiting()));
        let held = self.held.iter().map(|(asker, _)| Arc::as_ptr(asker));
        let holders: BTreeSet<_> =
            held.chain(self.slow.iter().map(|(asker, _)| Arc::as_ptr(asker))).collect();
        let mut taken = self.queue.taken.lock();
        assert_eq!(taken.places, holders.len(), "a place for each request that asks");
        assert!(taken.places <= self.most, "{} of {}", taken.places, self.most);
        let counted: usize = taken.counted.values().sum();
        assert!(counted <= taken.places && taken.counted.values().all(|own| *own > 0));
        for (asker, since, _) in &self.waiting {
            assert!(since.elapsed() < PATIENCE, "waited for {:?}", since.elapsed());
            assert!(!holders.contains(&Arc::as_ptr(asker)), "waits for the place that its request has");
            // Who asks now would be before them.
            assert_eq!(taken.take(asker, self.most), None, "waits though there is a place");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_place_that_is_free_and_none_is_lost() {
    for seed in seeds(300) {
        let tried = std::panic::AssertUnwindSafe(async {
            let mut world = World::new(seed);
            for _ in 0..200 {
                world.step().await;
            }
            world.let_a_newcomer_in().await;
            while !(world.held.is_empty() && world.slow.is_empty() && world.waiting.is_empty()) {
                world.held.clear();
                world.slow.clear();
                world.poll();
            }
            let taken = world.queue.taken.lock();
            assert!(taken.places == 0 && taken.counted.is_empty(), "{taken:?}");
        });
        assert!(tried.catch_unwind().await.is_ok(), "SEED={seed} replays this");
    }
}

/// Places, and how many requests were seen to have one at once.
struct Busy {
    queue: Arc<Queue>,
    now: AtomicUsize,
    most: AtomicUsize,
}

/// One question that has a place, among those of its request.
struct Use(Arc<Busy>, Arc<AtomicUsize>);

impl Use {
    fn of(busy: Arc<Busy>, uses: Arc<AtomicUsize>) -> Self {
        if uses.fetch_add(1, Ordering::SeqCst) == 0 {
            let now = busy.now.fetch_add(1, Ordering::SeqCst) + 1;
            busy.most.fetch_max(now, Ordering::SeqCst);
        }
        Self(busy, uses)
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        if self.1.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.now.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// A request that asks a few things at once, each for as long as its numbers say. Some are given up.
async fn request_of(busy: Arc<Busy>, mut random: Random) {
    let asker = request(u8::try_from(random.below(CLIENTS)).unwrap());
    let uses = Arc::new(AtomicUsize::new(0));
    let mut questions = Vec::new();
    for _ in 0..=random.below(3) {
        let (busy, uses, pause) = (Arc::clone(&busy), Arc::clone(&uses), random.below(6));
        let question = async move {
            let _turn = turn(Arc::clone(&busy.queue)).await.expect("nobody holds a place for long");
            let _use = Use::of(busy, uses);
            for _ in 0..pause {
                yield_now().await;
            }
        };
        questions.push(tokio::spawn(current::about(Arc::clone(&asker), question)));
        for _ in 0..random.below(3) {
            yield_now().await;
        }
        if random.below(5) == 0 {
            questions.last().unwrap().abort();
        }
    }
    for question in questions {
        if let Err(error) = question.await {
            assert!(error.is_cancelled(), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn threads_never_have_more_places_than_there_are() {
    for seed in seeds(20) {
        let most = 1 + usize::try_from(seed % 9).unwrap();
        let (now, seen) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let busy = Arc::new(Busy { queue: queue_for(most, Duration::from_secs(60)), now, most: seen });
        let requests: Vec<_> = (0..300)
            .map(|number| tokio::spawn(request_of(Arc::clone(&busy), Random(seed << 32 | number))))
            .collect();
        for request in requests {
            request.await.unwrap();
        }
        let seen = busy.most.load(Ordering::SeqCst);
        assert!(seen <= most, "SEED={seed}: {seen} of {most}");
        let taken = busy.queue.taken.lock();
        assert!(taken.places == 0 && taken.counted.is_empty(), "SEED={seed}: {taken:?}");
    }
}
