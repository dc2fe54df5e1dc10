//! Long polls that many share: all who wait at one seq ask for one URL, and a cache in front lets one of them wait for all.
//!
//! - Nothing is sent before the outcome is known. A cache gives the head of an answer, once it has it, to everybody who comes
//!   later.
//! - A cache may keep every answer for a second, so that all who waited have it. None of them asks for the same URL again:
//!   an answer with rows leads to another seq, and one without to another cursor.
//! - No purge drops an answer: it would be gone before those who waited have it.

use std::net::IpAddr;

use http::header::{self, HeaderName, HeaderValue};

use super::FeedRequest;
use crate::error::Error;
use crate::feeds::params::{End, Patience, SharedPoll};
use crate::feeds::reader::Whole;
use crate::feeds::reader_options::ReaderOptions;
use crate::wire::body::{Body, Response};
use crate::wire::buffers::Hold;
use crate::wire::headers;
use crate::wire::peer::Peer;

/// The `last_seq` of the body.
const LAST_SEQ: HeaderName = HeaderName::from_static("last-seq");

/// The `cursor` of the body.
const CURSOR: HeaderName = HeaderName::from_static("cursor");

const KEPT: HeaderValue = HeaderValue::from_static("public, max-age=1");

impl FeedRequest<'_> {
    /// Waits for what there is to tell, and tells it to all who asked for it.
    pub(super) async fn shared(
        self,
        options: ReaderOptions,
        shared: SharedPoll,
        client: Option<IpAddr>,
        peer: &Peer,
        hold: &mut Hold,
    ) -> Result<Response, Error> {
        let SharedPoll { cursor, wait } = shared;
        let (patience, cursor) = (Patience::Timeout(wait), Some(cursor));
        let mut options = ReaderOptions { patience, cursor, ..options };
        let framing = options.layout.framing;
        let position = self.position();
        self.settle_end(&mut options, &position)?;
        let reader = if options.end == End::Now {
            self.fixed(options, position)
        } else {
            let seat = self.core.app.feeds.reader_limit.take(client, peer)?;
            self.waiting(seat, options, position).await?
        };
        let Whole { text, position, cursor } = reader.whole(hold).await?;
        let mut response = Response::new(Body::full(text));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(framing.content_type()));
        headers.insert(header::CACHE_CONTROL, KEPT);
        if let Ok(seq) = HeaderValue::try_from(position.seq.to_string()) {
            headers.insert(LAST_SEQ, seq);
        }
        headers.insert(CURSOR, HeaderValue::from(cursor.unwrap_or_default()));
        headers::insert_kinto_defaults(headers);
        Ok(response)
    }
}
