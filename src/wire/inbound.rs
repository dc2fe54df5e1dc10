//! A body that comes over a connection: whether all of it came, and its trailers.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Version;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

use super::headers::strip_hop_by_hop;

/// What hyper reads.
#[derive(Debug)]
pub struct Inbound {
    incoming: Incoming,
    /// Over HTTP/2, whoever has all that they need of a request resets its stream without an error (RFC 9113, section 8.1), and
    /// hyper takes that for the end of any body. To a reader who needs all of it, it is none.
    is_needed_whole: bool,
}

/// Why a body is not whole.
#[derive(Debug, thiserror::Error)]
pub enum InboundError {
    /// The connection broke, or what came was not HTTP.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
    /// Its stream was reset before its end.
    #[error("the stream was reset before its end")]
    Reset,
}

impl Inbound {
    /// A body that came with a head of this version. One that may be an answer to less than the whole request is not `is_whole`.
    pub fn new(incoming: Incoming, version: Version, is_whole: bool) -> Self {
        Self { incoming, is_needed_whole: is_whole && version == Version::HTTP_2 }
    }

    /// Whether it is known that nothing more comes.
    pub fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    /// How long it is, where that was said.
    pub fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }

    /// The next piece of it. Trailers have no fields that are of one connection: HTTP/2 would refuse them.
    pub fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, InboundError>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(context)).transpose()?;
        Poll::Ready(match frame {
            None if self.is_cut() => Some(Err(InboundError::Reset)),
            None => None,
            Some(mut frame) => {
                if let Some(trailers) = frame.trailers_mut() {
                    strip_hop_by_hop(trailers);
                }
                Some(Ok(frame))
            }
        })
    }

    fn is_cut(&self) -> bool {
        self.is_needed_whole && !self.incoming.is_end_stream() && self.incoming.size_hint().exact() != Some(0)
    }
}
