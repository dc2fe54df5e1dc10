//! Feeds from one moment, and until another.

use std::time::{Duration, Instant};

use serde_json::json;

use super::follower::{Event, Follower};
use super::{World, ids};
use crate::support::eventually;

/// A timestamp as people write it.
fn date(timestamp: u64) -> String {
    let seconds = std::time::UNIX_EPOCH + Duration::from_secs(timestamp / 1000);
    let text = httpdate::fmt_http_date(seconds);
    let parts: Vec<&str> = text.split(' ').collect();
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months.iter().position(|month| *month == parts[2]).unwrap() + 1;
    format!("{}-{month:02}-{}T{}.{:03}", parts[3], parts[1], parts[4], timestamp % 1000)
}

/// A collection of three records, and their timestamps.
async fn three() -> (World, [u64; 3]) {
    let world = World::new(&[]).await;
    let mut seqs = [0; 3];
    for (id, seq) in ["a", "b", "c"].into_iter().zip(&mut seqs) {
        *seq = world.write(id, json!({})).await;
    }
    (world, seqs)
}

#[tokio::test]
async fn a_feed_begins_and_ends_at_moments() {
    let (world, [first, second, third]) = three().await;
    let begin = format!("since={}", date(first));
    for zone in ["Z", "+00:00", "%2B00:00", "-00:00"] {
        let answer = world.changes(&format!("{begin}{zone}")).await;
        assert_eq!((ids(&answer), &answer["last_seq"]), (vec!["b", "c"], &json!(third)), "{zone}");
    }
    let answer = world.changes(&format!("{begin}Z&until={}Z", date(second))).await;
    assert_eq!(
        (ids(&answer), &answer["last_seq"], &answer["pending"]),
        (vec!["b"], &json!(second), &json!(0))
    );
    let answer = world.sidecar.client().get(&world.feed("until=tomorrow")).await.expect(400);
    assert!(answer.text().contains("Malformed sequence supplied in 'until' parameter."), "{answer}");
}

#[tokio::test]
async fn every_feed_ends_with_the_last_row_that_is_wanted() {
    let (world, [first, second, _]) = three().await;
    for query in ["", "feed=longpoll&"] {
        let answer = world.changes(&format!("{query}until={second}")).await;
        assert_eq!(ids(&answer), ["a", "b"]);
        assert_eq!((&answer["last_seq"], &answer["pending"]), (&json!(second), &json!(0)));
        let answer = world.changes(&format!("{query}until={second}&descending=true")).await;
        assert_eq!((ids(&answer), &answer["last_seq"]), (vec!["b", "a"], &json!(first)));
    }
    let mut lines = world.follow(&format!("feed=continuous&heartbeat=60000&until={second}")).await;
    for id in ["a", "b"] {
        assert_eq!(lines.row().await.unwrap()["id"], id);
    }
    assert_eq!(lines.row().await.unwrap(), json!({"last_seq": second, "pending": 0}));
    assert!(lines.row().await.is_none());
    let counted = world.changes(&format!("limit=0&until={second}")).await;
    assert_eq!((&counted["last_seq"], &counted["pending"]), (&json!(0), &json!(2)));
    let page = world.changes(&format!("limit=1&until={second}")).await;
    assert_eq!((ids(&page), &page["pending"]), (vec!["a"], &json!(1)));
    let entries = format!("{}/history/_changes?until=", world.bucket);
    let all = world.alice.get(&format!("{entries}now")).await.expect(200).json();
    let third = all["results"][2]["seq"].clone();
    let some = world.alice.get(&format!("{entries}{third}")).await.expect(200).json();
    assert_eq!((ids(&all).len(), ids(&some), &some["last_seq"]), (5, ids(&all)[..3].to_vec(), &third));
}

#[tokio::test]
async fn a_feed_until_later_ends_when_that_has_come() {
    let (world, [.., third]) = three().await;
    let until = third + 1;
    let mut lines =
        world.follow(&format!("feed=continuous&since={third}&heartbeat=60000&until={until}")).await;
    assert_eq!(lines.line().await.unwrap(), "");
    let polled = world.follow(&format!("feed=longpoll&since={third}&until={until}")).await;
    let later = world.write("d", json!({})).await;
    assert!(later >= until);
    let last = if later == until {
        assert_eq!(lines.row().await.unwrap()["id"], "d");
        later
    } else {
        until
    };
    assert_eq!(lines.row().await.unwrap(), json!({"last_seq": last, "pending": 0}));
    assert!(polled.rest().await.contains(&format!("\"last_seq\":{last},")));
    let waited =
        world.changes(&format!("feed=longpoll&timeout=1&since={later}&until={}", later + 60_000)).await;
    assert_eq!(waited, json!({"results": [], "last_seq": later, "pending": 0}));
}

#[tokio::test]
async fn a_browser_does_not_come_back_to_a_feed_that_is_over() {
    let (world, [first, second, third]) = three().await;
    let open = async |query: &str, last: u64| {
        let path = world.feed(&format!("feed=eventsource&{query}"));
        Follower::open(&world.sidecar, &path, &[("last-event-id", &last.to_string())]).await
    };
    let mut events = open(&format!("until={second}"), first).await;
    let mut last = events.event().await.unwrap();
    while let Some(event) = events.event().await {
        last = event;
    }
    // Where the last row is not at the very end, this is.
    assert_eq!(last, Event { id: Some(second.to_string()), ..Event::default() });
    for (query, last) in
        [(format!("until={second}"), second), (format!("until={second}"), third), ("until=now".into(), third)]
    {
        let events = open(&query, last).await;
        assert_eq!(events.status, 204, "{query}");
        assert_eq!(events.rest().await, "");
    }
    // It lies behind what is known, and nothing more can come.
    let world = World::new(&[("sidecar.overlap", "0s")]).await;
    let newest = world.write("a", json!({})).await;
    let path = world.feed(&format!("feed=eventsource&since={newest}&until={}", newest + 1));
    eventually("the moment to be past", async || {
        (Follower::open(&world.sidecar, &path, &[]).await.status == 204).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_long_poll_at_its_end_waits_all_the_same() {
    let (world, [.., third]) = three().await;
    for until in [third.to_string(), (third - 1).to_string(), "now".to_owned()] {
        let begun = Instant::now();
        let answer = world.changes(&format!("feed=longpoll&since={third}&until={until}&timeout=300")).await;
        assert_eq!(answer, json!({"results": [], "last_seq": third, "pending": 0}));
        assert!(begun.elapsed() >= Duration::from_millis(250), "{until}: {:?}", begun.elapsed());
    }
}
