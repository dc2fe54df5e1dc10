//! What clocks make of what they hear.

use super::*;

fn clock() -> Arc<Clock> {
    Arc::new(Clock::new(CollectionKey::new("a", "b"), Arc::default()))
}

#[test]
fn writes_that_were_alone_here_have_an_order_among_themselves_and_are_not_witnessed() {
    let clock = clock();
    assert_eq!(clock.begin_write().acknowledged(&[Timestamp(12), Timestamp(10)]), Heard::Moved);
    assert_eq!(clock.begin_write().acknowledged(&[Timestamp(14)]), Heard::Moved);
    assert_eq!(clock.lone(), [Timestamp(10), Timestamp(12), Timestamp(14)]);
    assert!(clock.witnessed().is_empty(), "somebody else may have written meanwhile");
}

#[test]
fn a_write_that_was_alone_here_has_its_place_also_where_a_read_found_it_before_its_answer_came() {
    let clock = clock();
    clock.begin_write().acknowledged(&[Timestamp(10)]);
    let write = clock.begin_write();
    clock.read(Timestamp(12), Instant::now());
    write.acknowledged(&[Timestamp(12)]);
    assert_eq!(clock.lone(), [Timestamp(10), Timestamp(12)]);
    // What is dated back became visible after what is above it.
    clock.begin_write().acknowledged(&[Timestamp(11)]);
    assert_eq!(clock.lone(), [Timestamp(10), Timestamp(12)]);
}

#[test]
fn one_write_is_under_way_alone_until_another_begins_or_it_ends() {
    let clock = clock();
    assert!(!clock.has_one_under_way());
    let write = clock.begin_write();
    assert!(clock.has_one_under_way());
    drop(clock.begin_write());
    assert!(!clock.has_one_under_way(), "another one was beside it");
    drop(write);
    drop(clock.begin_write());
    assert!(!clock.has_one_under_way());
}

#[test]
fn the_next_delta_reaches_down_to_whatever_was_written_since_the_last_one_began() {
    let clock = clock();
    assert_eq!(clock.take_low(), None);
    clock.begin_write().acknowledged(&[Timestamp(12), Timestamp(11)]);
    clock.heard_of(Timestamp(10));
    assert_eq!(clock.take_low(), Some(Timestamp(10)));
    assert_eq!(clock.take_low(), None);
    // Nothing is known of a collection that was made anew, and a read of it is under way.
    clock.forget();
    clock.begin_write().acknowledged(&[Timestamp(5)]);
    clock.read(Timestamp(20), Instant::now());
    assert_eq!(clock.take_low(), Some(Timestamp(5)), "the read may have begun before the write");
    clock.restore_low(Some(Timestamp(7)));
    clock.restore_low(None);
    assert_eq!(clock.take_low(), Some(Timestamp(7)));
}

#[test]
fn writes_that_overlap_have_no_order() {
    let clock = clock();
    let (one, other) = (clock.begin_write(), clock.begin_write());
    one.acknowledged(&[Timestamp(11)]);
    other.acknowledged(&[Timestamp(10)]);
    assert!(clock.lone().is_empty());
    assert_eq!(clock.take_low(), Some(Timestamp(10)));
    assert_eq!(clock.timestamp(), Timestamp(11));
}

#[test]
fn what_another_sidecar_saw_written_is_news_and_is_not_witnessed() {
    let clock = clock();
    for timestamp in [10, 12, 11] {
        let news = clock.news();
        clock.heard_of(Timestamp(timestamp));
        assert!(clock.news() > news);
    }
    assert_eq!(clock.timestamp(), Timestamp(12));
    assert!(clock.witnessed().is_empty());
    clock.learned(Timestamp(12), None, clock.news(), Instant::now());
    assert_eq!(clock.witnessed(), [Timestamp(12)], "the upstream says that it is the newest");
}

#[test]
fn an_answer_that_a_write_overtook_does_not_move_the_clock_back() {
    let clock = clock();
    let (news, asked) = (clock.news(), Instant::now());
    clock.begin_write().acknowledged(&[Timestamp(10)]);
    assert_eq!(clock.learned(Timestamp(9), Some(1), news, asked), Heard::Nothing);
    assert_eq!(clock.timestamp(), Timestamp(10));
    assert!(!clock.take_void());
}

#[test]
fn a_timestamp_that_went_back_voids_what_was_known() {
    let clock = clock();
    clock.learned(Timestamp(10), Some(1), clock.news(), Instant::now());
    assert_eq!(clock.learned(Timestamp(9), Some(1), clock.news(), Instant::now()), Heard::Moved);
    assert!(clock.take_void());
    assert!(!clock.take_void());
}

#[test]
fn a_read_accounts_for_a_timestamp_that_was_heard_while_it_was_under_way_and_for_no_write() {
    let clock = clock();
    let news = clock.news();
    clock.learned(Timestamp(10), Some(1), news, Instant::now());
    assert_eq!(clock.accounted(news, Timestamp(9)), news);
    assert_eq!(clock.accounted(news, Timestamp(10)), clock.news());
    clock.begin_write().acknowledged(&[Timestamp(9)]);
    assert_eq!(clock.accounted(news, Timestamp(10)), news);
}

#[test]
fn another_number_of_records_at_the_same_timestamp_is_news() {
    let clock = clock();
    clock.learned(Timestamp(10), Some(1), clock.news(), Instant::now());
    assert_eq!(clock.learned(Timestamp(10), Some(2), clock.news(), Instant::now()), Heard::News);
    assert_eq!(clock.learned(Timestamp(10), Some(2), clock.news(), Instant::now()), Heard::Nothing);
}
