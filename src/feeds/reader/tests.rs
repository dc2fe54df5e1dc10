//! Signs of life while a page is waited for.

use std::time::Duration;

use futures_util::future::pending;
use http_body_util::BodyExt;

use super::*;
use crate::access::Credentials;
use crate::feeds::framing::Layout;
use crate::feeds::seen_before::{ReaderId, SeenBefore};
use crate::feeds::snapshot::Snapshot;

/// A source of which no page comes.
#[derive(Debug)]
struct Stuck;

impl Snapshot for Stuck {
    fn lineage(&self) -> u64 {
        1
    }

    fn began(&self) -> Seq {
        Seq::ZERO
    }

    fn serial(&self) -> u64 {
        1
    }

    fn newest_seq(&self) -> Seq {
        Seq::ZERO
    }

    fn tag(&self) -> Option<String> {
        None
    }

    fn page(self: Arc<Self>, _: Position, _: Room) -> BoxFuture<'static, Result<FeedPage, Error>> {
        Box::pin(pending())
    }

    fn before(self: Arc<Self>, _: Option<Seq>, _: Room) -> BoxFuture<'static, Result<FeedPage, Error>> {
        Box::pin(pending())
    }
}

#[tokio::test]
async fn who_waits_for_a_page_is_shown_that_the_feed_is_alive() {
    let nobody = ReaderId::of(None, &Credentials::of(&http::HeaderMap::new()), &http::HeaderMap::new());
    let presence = Arc::new(SeenBefore::default().enter(1, nobody).await);
    for (framing, end, is_descending) in [
        (Framing::List, End::Now, false),
        (Framing::List, End::Now, true),
        (Framing::List, End::Changes, false),
        (Framing::Lines, End::Never, false),
        (Framing::Events, End::Never, false),
    ] {
        let options = ReaderOptions {
            layout: Layout { framing, docs: false },
            end,
            patience: Patience::Heartbeat(Duration::from_millis(5)),
            is_descending,
            limit: None,
            filter: None,
            client: None,
            until: None,
            previous: None,
            cursor: None,
            heartbeat_seq: false,
        };
        let memory = Memory { began: Seq::ZERO, presence: Arc::clone(&presence) };
        let mut reader =
            FeedReader::new(Supply::Fixed(Arc::new(Stuck)), None, options, Position::default(), memory);
        let mut text = String::new();
        let known = (!is_descending).then_some(Seq::ZERO);
        let expected = format!("{}{}", framing.opening(None), framing.heartbeat(known, false).repeat(2));
        while text.len() < expected.len() {
            let frame = tokio::time::timeout(Duration::from_secs(10), reader.frame()).await;
            let frame = frame.expect("the feed is alive").unwrap().unwrap();
            text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
        }
        assert_eq!(text, expected);
    }
}
