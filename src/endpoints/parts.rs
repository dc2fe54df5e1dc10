//! Lists that are passed on while they are read, page by page; what is too large to be held, as it comes.

use std::pin::pin;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use crate::kinto::Timestamp;
use crate::upstream::kinto::{KintoError, KintoPage, Pages};
use crate::wire::body::{Body, Sender};

/// What of a list is read at once.
pub(super) enum Part {
    /// A page.
    Page(KintoPage),
    /// A page of one row, which is too large to be held, and the answer with it.
    Row(KintoPage, Body),
}

impl Part {
    /// The next of these; `None` behind the last.
    pub(super) async fn next(pages: &mut Pages) -> Result<Option<Self>, KintoError> {
        match pages.next().await {
            Err(KintoError::Oversize) => {
                let (page, answer) = pages.large_row().await?;
                Ok(Some(Self::Row(page, answer)))
            }
            page => Ok(page?.map(Self::Page)),
        }
    }

    /// The timestamp of the list when it was read.
    pub(super) fn timestamp(&self) -> Timestamp {
        match self {
            Self::Page(page) | Self::Row(page, _) => page.timestamp,
        }
    }

    /// How much of it is in memory.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Page(page) => page.rows.iter().map(|row| row.json.len()).sum(),
            Self::Row(..) => 0,
        }
    }
}

/// Passes on the one row of an answer, without what stands around it; `false` where its reader went away.
pub(super) async fn pass_row(answer: Body, sender: &Sender) -> Result<bool, KintoError> {
    /// What stands behind a row has no more bytes.
    const END: usize = 16;
    let unreadable = || KintoError::Unreadable("a list that is none".into());
    let mut answer = pin!(answer);
    let (mut is_begun, mut held) = (false, BytesMut::new());
    while let Some(frame) = answer.frame().await {
        let Ok(mut data) = frame.map_err(|_broken| unreadable())?.into_data() else { continue };
        if !is_begun {
            let Some(begin) = data.iter().position(|byte| *byte == b'[') else { continue };
            data = data.split_off(begin + 1);
            is_begun = true;
        }
        held.extend_from_slice(&data);
        let ready = held.len().saturating_sub(END);
        if ready > 0 && sender.send(held.split_to(ready).freeze()).await.is_err() {
            return Ok(false);
        }
    }
    let rest = held.trim_ascii_end().strip_suffix(b"}").map(<[u8]>::trim_ascii_end);
    let rest = rest.and_then(|rest| rest.strip_suffix(b"]")).filter(|rest| !rest.is_empty());
    Ok(sender.send(Bytes::copy_from_slice(rest.ok_or_else(unreadable)?)).await.is_ok())
}
