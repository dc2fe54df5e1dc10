//! Signs of life while a page is waited for, and room for large ones.

use std::time::Duration;

use futures_util::future::pending;
use http_body_util::BodyExt;

use super::*;
use crate::access::Credentials;
use crate::feeds::framing::Layout;
use crate::feeds::seen_before::{ReaderId, SeenBefore};
use crate::feeds::snapshot::FeedRow;
use crate::feeds::snapshot::Snapshot;
use crate::settings::InForce;
use crate::wire::buffers::Buffers;

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

/// Large rows, one a page.
#[derive(Debug)]
struct Large;

impl Large {
    const ROWS: u64 = 3;
    const BYTES: usize = 100 << 10;
}

impl Snapshot for Large {
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
        Seq::of(Timestamp(Self::ROWS))
    }

    fn tag(&self) -> Option<String> {
        None
    }

    fn page(self: Arc<Self>, from: Position, _: Room) -> BoxFuture<'static, Result<FeedPage, Error>> {
        let at = Timestamp(from.seq.at.0 + 1);
        let json = Bytes::from(format!("{{\"x\":\"{}\"}}", "y".repeat(Self::BYTES)));
        let rows = vec![FeedRow::new(Seq::of(at), "a".into(), at, false, json)];
        let page = FeedPage { rows, pending: Self::ROWS - at.0, next: Position::new(Seq::of(at), 1) };
        Box::pin(async { Ok(page) })
    }

    fn before(self: Arc<Self>, _: Option<Seq>, _: Room) -> BoxFuture<'static, Result<FeedPage, Error>> {
        Box::pin(pending())
    }
}

async fn reader(snapshot: Arc<dyn Snapshot>, options: ReaderOptions) -> FeedReader {
    let nobody = ReaderId::of(None, &Credentials::of(&http::HeaderMap::new()), &http::HeaderMap::new());
    let presence = Arc::new(SeenBefore::default().enter(1, nobody).await);
    let memory = Memory { began: Seq::ZERO, presence };
    FeedReader::new(Supply::Fixed(snapshot), None, options, Position::default(), memory)
}

fn options(framing: Framing, end: End) -> ReaderOptions {
    ReaderOptions {
        layout: Layout { framing, docs: false },
        end,
        patience: Patience::Heartbeat(Duration::from_millis(5)),
        is_descending: false,
        limit: None,
        filter: None,
        client: None,
        until: None,
        previous: None,
        cursor: None,
        heartbeat_seq: false,
        buffers: Buffers::new(InForce::with(|_| ())),
    }
}

/// What comes next.
async fn next(reader: &mut FeedReader) -> Bytes {
    let frame = tokio::time::timeout(Duration::from_secs(10), reader.frame()).await;
    frame.expect("the feed is alive").unwrap().unwrap().into_data().unwrap()
}

#[tokio::test]
async fn a_large_document_is_counted_until_the_connection_has_written_it() {
    let buffers = Buffers::new(InForce::with(|settings| {
        // For two of the three.
        settings.limits.buffered_bytes = 4 * Large::BYTES + 4096;
    }));
    let layout = Layout { framing: Framing::Lines, docs: true };
    let options =
        ReaderOptions { layout, buffers: Arc::clone(&buffers), ..options(Framing::Lines, End::Now) };
    let mut reader = reader(Arc::new(Large), options).await;
    let (mut unwritten, mut beats) = (Vec::new(), 0);
    while beats < 5 || unwritten.len() < 2 {
        let piece = next(&mut reader).await;
        if piece.len() > Large::BYTES {
            unwritten.push(piece);
            beats = 0;
        } else {
            beats += 1;
        }
    }
    assert!(unwritten.len() == 2 && buffers.held() >= 2 * Large::BYTES, "{}", buffers.held());
    unwritten.pop();
    while unwritten.len() < 2 {
        unwritten.extend(Some(next(&mut reader).await).filter(|piece| piece.len() > Large::BYTES));
    }
    drop(unwritten);
    assert_eq!(buffers.held(), 0);
}

#[tokio::test]
async fn who_waits_for_a_page_is_shown_that_the_feed_is_alive() {
    for (framing, end, is_descending) in [
        (Framing::List, End::Now, false),
        (Framing::List, End::Now, true),
        (Framing::List, End::Changes, false),
        (Framing::Lines, End::Never, false),
        (Framing::Events, End::Never, false),
    ] {
        let options = ReaderOptions { is_descending, ..options(framing, end) };
        let mut reader = reader(Arc::new(Stuck), options).await;
        let mut text = String::new();
        let known = (!is_descending).then_some(Seq::ZERO);
        let expected = format!("{}{}", framing.opening(None), framing.heartbeat(known, false).repeat(2));
        while text.len() < expected.len() {
            text.push_str(std::str::from_utf8(&next(&mut reader).await).unwrap());
        }
        assert_eq!(text, expected);
    }
}
