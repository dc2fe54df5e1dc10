//! Reading a body into memory: the one place where that is done, and where it is bounded.

use std::collections::VecDeque;
use std::future::Ready;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;

use super::BoxError;
use crate::wire::buffers::{Hold, NoRoom};

/// How much of a body is read into one block.
const BLOCK: usize = 64 << 10;

/// A body that can be no longer may take its time.
const FREE: usize = 64 << 10;

/// Why a body was not read whole.
#[derive(Debug, thiserror::Error)]
pub enum BodyReadError {
    /// It is longer than it may be.
    #[error("the body is longer than it may be")]
    TooLarge,
    /// There is no room for it.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// It did not come to its end.
    #[error(transparent)]
    Broken(BoxError),
}

/// Reads a whole body. More than `limit` bytes are [`BodyReadError::TooLarge`].
pub async fn read_limited<B>(body: B, limit: usize) -> Result<Bytes, BodyReadError>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    read(body, limit, AT_ONCE, |_| Ok(())).await
}

/// As [`read_limited`]. A body that is longer than `free` bytes waits for its turn before more of it is read, and has that until
/// it is there.
pub async fn read_in_turn<B, T>(
    body: B,
    limit: usize,
    free: usize,
    turn: impl AsyncFnOnce() -> T,
) -> Result<Bytes, BodyReadError>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    read(body, limit, Some((free, turn)), |_| Ok(())).await
}

/// As [`read_limited`], and has what was read held.
pub async fn read_held<B>(body: B, limit: usize, hold: &mut Hold) -> Result<Bytes, BodyReadError>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    if limit <= FREE {
        return read(body, limit, AT_ONCE, |bytes| hold.grow(bytes)).await;
    }
    let (come, watch) = (AtomicUsize::new(0), hold.another());
    let grow = |bytes| {
        come.fetch_add(bytes, Ordering::Relaxed);
        hold.grow(bytes)
    };
    tokio::select! {
        biased;
        whole = read(body, limit, AT_ONCE, grow) => whole,
        () = watch.until_given_up(&come) => Err(NoRoom.into()),
    }
}

type NoTurn = fn() -> Ready<()>;

/// Waits for no turn.
const AT_ONCE: Option<(usize, NoTurn)> = None;

async fn read<B, T>(
    body: B,
    limit: usize,
    mut turns: Option<(usize, impl AsyncFnOnce() -> T)>,
    mut grow: impl FnMut(usize) -> Result<(), NoRoom>,
) -> Result<Bytes, BodyReadError>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut body = std::pin::pin!(body);
    if body.size_hint().lower() > limit as u64 {
        return Err(BodyReadError::TooLarge);
    }
    let mut pieces = Pieces::default();
    let mut _turn = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| BodyReadError::Broken(error.into()))?;
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > limit - pieces.length() {
            return Err(BodyReadError::TooLarge);
        }
        grow(data.len())?;
        if let Some((_, turn)) = turns.take_if(|(free, _)| pieces.length() + data.len() > *free) {
            _turn = Some(turn().await);
        }
        pieces.add(data);
    }
    Ok(pieces.end())
}

/// The pieces of a body, as they come.
#[derive(Default)]
pub(crate) struct Pieces {
    /// Most bodies come in one piece, which is not copied.
    first: Bytes,
    joined: Joined,
}

impl Pieces {
    /// The bytes that have come.
    pub(crate) fn length(&self) -> usize {
        self.first.len() + self.joined.length
    }

    /// Another one.
    pub(crate) fn add(&mut self, data: Bytes) {
        if self.length() == 0 {
            self.first = data;
            return;
        }
        if self.joined.length == 0 {
            self.joined.add(&std::mem::take(&mut self.first));
        }
        self.joined.add(&data);
    }

    /// All of them.
    pub(crate) fn end(self) -> Bytes {
        if self.joined.length == 0 { self.first } else { self.joined.end() }
    }
}

/// Pieces that are joined when all are there. They are copied, because each would keep the whole buffer that it was read
/// into. They are copied into blocks, because one growing buffer would be copied again each time it grows.
#[derive(Default)]
struct Joined {
    blocks: VecDeque<BytesMut>,
    length: usize,
}

impl Joined {
    fn add(&mut self, mut data: &[u8]) {
        self.length += data.len();
        while !data.is_empty() {
            if self.blocks.back().is_none_or(|last| last.len() == BLOCK) {
                self.blocks.push_back(BytesMut::with_capacity(BLOCK));
            }
            let Some(last) = self.blocks.back_mut() else { return };
            let (now, later) = data.split_at(data.len().min(BLOCK - last.len()));
            last.extend_from_slice(now);
            data = later;
        }
    }

    fn end(mut self) -> Bytes {
        if self.blocks.len() < 2 {
            return self.blocks.pop_front().unwrap_or_default().freeze();
        }
        let mut whole = BytesMut::with_capacity(self.length);
        while let Some(block) = self.blocks.pop_front() {
            whole.extend_from_slice(&block);
        }
        whole.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::InForce;
    use crate::wire::body::Body;

    #[tokio::test]
    async fn pieces_are_joined_up_to_the_limit() {
        let pieces = || Body::chunks(vec![Bytes::from("ab"), Bytes::new(), Bytes::from("cde")]);
        assert_eq!(pieces().size_hint().exact(), Some(5));
        assert_eq!(read_limited(pieces(), 5).await.unwrap(), "abcde");
        assert!(matches!(read_limited(pieces(), 4).await, Err(BodyReadError::TooLarge)));
    }

    #[tokio::test]
    async fn a_channel_body_without_end_is_bounded_too() {
        let (sender, body) = Body::channel();
        let writer = tokio::spawn(async move { while sender.send(Bytes::from("x")).await.is_ok() {} });
        assert!(matches!(read_limited(body, 100).await, Err(BodyReadError::TooLarge)));
        writer.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_read_is_held_and_what_has_no_room_is_not_read() {
        let budget = crate::wire::buffers::Buffers::new(InForce::with(|settings| {
            settings.limits.buffered_bytes = 100_000;
        }));
        let mut hold = budget.hold(None);
        let pieces = |number: usize| Body::chunks(vec![Bytes::from(vec![b'x'; 20_000]); number]);
        let read = read_held(pieces(2), usize::MAX, &mut hold).await.unwrap();
        assert_eq!((read.len(), budget.held()), (40_000, 40_000));
        let refused = read_held(pieces(2), usize::MAX, &mut budget.hold(None)).await;
        assert!(matches!(refused, Err(BodyReadError::NoRoom(_))));
        let body = Body::sequence(vec![
            Body::full("a"),
            Body::empty(),
            Body::full(read).held(hold),
            Body::full("b"),
        ]);
        assert_eq!((body.size_hint().exact(), budget.held()), (Some(40_002), 40_000));
        let read = read_limited(body, usize::MAX).await.unwrap();
        assert!(read.starts_with(b"ax") && read.ends_with(b"xb") && budget.held() == 0);
    }
}
