//! What is decided without a lock, in each order in which threads may run, and see what others wrote.
//!
//! The files of `src/` that decide are compiled here once more, with loom's atomics in place of those of the machine: an
//! order that is taken from the epoch, a look at it that comes too late, and a count that is looked at before it is written,
//! instead of with it, each fail here.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "a test stops at the first surprise, and what is public in the crate is compiled here for itself"
)]

use loom::sync::{Arc, Mutex};
use loom::thread;

#[path = "../../src/timeline/epoch.rs"]
mod epoch;
#[path = "../../src/current/turn.rs"]
mod turn;

mod atomics {
    pub(crate) use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
}

use atomics::{AtomicU64, Ordering};
use epoch::{Epoch, Found};
use turn::Turn;

#[test]
fn what_changed_before_the_epoch_moved_is_seen_by_whoever_sees_it_move() {
    loom::model(|| {
        // A content that others stand on, and the epoch that moves when it becomes another.
        let shared = Arc::new((AtomicU64::new(0), Epoch::default()));
        let changes = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                shared.0.store(1, Ordering::Relaxed);
                shared.1.advance();
            })
        };
        // Whatever else is heard of moves it, too.
        let others = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.1.advance())
        };
        let found = Found::default();
        let is_still = || found.is_still(&shared.1, || shared.0.load(Ordering::Relaxed) == 0);
        is_still();
        is_still();
        changes.join().unwrap();
        others.join().unwrap();
        assert!(!is_still(), "it has changed");
    });
}

/// The places at the upstream that are taken: those that are not counted, and those that are.
type Places = Mutex<[usize; 2]>;

/// A part of a request asks the upstream, as [`Turn`] has it.
fn ask(turn: &Turn, places: &Places, is_counted: bool) {
    if !turn.share() {
        places.lock().unwrap()[usize::from(is_counted)] += 1;
        if !turn.take(is_counted) {
            places.lock().unwrap()[usize::from(is_counted)] -= 1;
        }
    }
    assert_ne!(*places.lock().unwrap(), [0, 0], "who asks has a place");
    if let Some(was_counted) = turn.leave() {
        places.lock().unwrap()[usize::from(was_counted)] -= 1;
    }
}

#[test]
fn the_parts_of_a_request_have_one_place_between_them_and_give_it_back_once() {
    loom::model(|| {
        let shared = Arc::new((Turn::default(), Places::default()));
        let other = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || ask(&shared.0, &shared.1, true))
        };
        ask(&shared.0, &shared.1, false);
        other.join().unwrap();
        assert_eq!(*shared.1.lock().unwrap(), [0, 0], "nobody asks any more");
    });
}
