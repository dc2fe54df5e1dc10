//! What is listed of what is written, and when.

use super::*;

fn timeline() -> Timeline {
    let resources = Resources::new(&["/buckets/a".into()], &["/buckets/a/collections/hidden".into()]);
    Timeline::new(resources, String::new(), Box::new(|_| ()))
}

fn write(timeline: &Timeline, collection: &str, timestamp: u64) {
    let write = timeline.clock(&CollectionKey::new("a", collection)).begin_write();
    timeline.acknowledged(&write, &[Timestamp(timestamp)]);
}

fn listed(timeline: &Timeline) -> Vec<(String, u64, Option<u64>)> {
    let entries = timeline.entries();
    let rows = entries.rows.iter();
    rows.map(|row| (row.key.collection.to_string(), row.last_modified.0, row.late.map(|late| late.at.0)))
        .collect()
}

#[test]
fn a_passing_write_is_listed_at_once_newest_first() {
    let timeline = timeline();
    write(&timeline, "one", 10);
    write(&timeline, "two", 20);
    write(&timeline, "one", 30);
    write(&timeline, "hidden", 40);
    assert_eq!(listed(&timeline), [("one".into(), 30, None), ("two".into(), 20, None)]);
    assert_eq!(timeline.entries().timestamp, Timestamp(30));
}

#[test]
fn an_entry_learned_late_belongs_to_the_timestamp_of_that_moment() {
    let timeline = timeline();
    write(&timeline, "one", 30);
    let clock = timeline.clock(&CollectionKey::new("a", "two"));
    timeline.learned(&clock, Timestamp(20), Some(1), clock.news(), Instant::now());
    assert_eq!(listed(&timeline), [("one".into(), 30, None), ("two".into(), 20, Some(30))]);
}

#[test]
fn removed_collections_disappear() {
    let timeline = timeline();
    write(&timeline, "one", 10);
    write(&timeline, "two", 20);
    timeline.removed_from_bucket("a", &|key| &*key.collection == "one");
    assert_eq!(listed(&timeline), [("one".into(), 10, None)]);
    timeline.removed_all();
    assert!(listed(&timeline).is_empty());
}

#[test]
fn what_is_monitored_from_now_on_is_listed_late_and_what_is_no_more_is_gone() {
    let timeline = timeline();
    write(&timeline, "one", 10);
    write(&timeline, "hidden", 5);
    write(&timeline, "two", 20);
    timeline.set_loaded();
    timeline.monitor(Resources::new(
        &["/buckets/a/collections/hidden".into(), "/buckets/a/collections/two".into()],
        &[],
    ));
    assert_eq!(listed(&timeline), [("two".into(), 20, None), ("hidden".into(), 5, Some(20))]);
    assert_eq!(timeline.entries().gone[0].key, CollectionKey::new("a", "one"));
    write(&timeline, "one", 30);
    assert_eq!(listed(&timeline).len(), 2);
}

#[test]
fn what_was_only_asked_for_is_no_news_when_it_is_not_there() {
    let news = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&news);
    let on_news: OnNews = Box::new(move |_| _ = counted.fetch_add(1, Ordering::Relaxed));
    let timeline = Timeline::new(Resources::default(), String::new(), on_news);
    let key = CollectionKey::new("a", "b");
    for _ in 0..10 {
        let clock = timeline.clock(&key);
        let _refused = clock.begin_write();
        timeline.removed(&key);
    }
    assert!(timeline.clocks().is_empty());
    assert_eq!(news.load(Ordering::Relaxed), 0);
    write(&timeline, "b", 1);
    timeline.removed(&key);
    timeline.removed(&key);
    assert_eq!(news.load(Ordering::Relaxed), 2, "it came, and it went");
    assert!(timeline.kept_clocks().is_empty());
}

#[test]
fn unchanged_lists_are_shared() {
    let timeline = timeline();
    write(&timeline, "one", 10);
    assert!(Arc::ptr_eq(&timeline.entries(), &timeline.entries()));
}
