//! Compressed bodies of one content, each made once.

use std::collections::HashMap;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::content::Selection;
use crate::error::Error;
use crate::wire::compression::{self, Encoding};

/// Bodies up to this length are compressed where they are asked for: that takes less than handing them over.
const AT_ONCE: usize = 8 * 1024;

/// All variants of one content take no more than this, unless a single one does.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// Which body, in which encoding.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name {
    selection: Option<Selection>,
    limit: Option<usize>,
    encoding: Encoding,
}

/// The variants made so far.
#[derive(Debug, Default)]
pub struct Variants {
    made: Mutex<Made>,
    /// Held while one is made, so that no body is compressed twice at once.
    making: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Made {
    bodies: HashMap<Name, Bytes>,
    bytes: usize,
}

impl Name {
    /// Names the body of a selection (or of all live records up to `limit`) in an encoding.
    pub fn new(selection: Option<Selection>, limit: Option<usize>, encoding: Encoding) -> Self {
        // A selection says by itself how many rows it has.
        let limit = limit.filter(|_| selection.is_none());
        Self { selection, limit, encoding }
    }
}

impl Variants {
    /// The body of that name, compressed from `chunks` (of `length` bytes together) where it was not made yet.
    pub async fn get_or_compress(
        &self,
        name: Name,
        chunks: Vec<Bytes>,
        length: usize,
        background: &Handle,
    ) -> Result<Bytes, Error> {
        if let Some(body) = self.get(&name) {
            return Ok(body);
        }
        let encoding = name.encoding;
        let body = if length <= AT_ONCE {
            compression::compress(encoding, &chunks)
        } else {
            let _turn = self.making.lock().await;
            if let Some(body) = self.get(&name) {
                return Ok(body);
            }
            let made = background.spawn_blocking(move || compression::compress(encoding, &chunks)).await;
            made.map_err(|error| Error::Internal(Box::new(error)))?
        };
        let body = body.map_err(|error| Error::Internal(Box::new(error)))?;
        self.put(name, body.clone());
        Ok(body)
    }

    /// The memory that they take, in bytes.
    pub fn bytes(&self) -> usize {
        self.made.lock().bytes
    }

    fn get(&self, name: &Name) -> Option<Bytes> {
        self.made.lock().bodies.get(name).cloned()
    }

    fn put(&self, name: Name, body: Bytes) {
        let mut made = self.made.lock();
        if made.bytes + body.len() > MOST_BYTES {
            made.bodies.clear();
            made.bytes = 0;
        }
        made.bytes += body.len();
        if let Some(replaced) = made.bodies.insert(name, body) {
            made.bytes -= replaced.len();
        }
    }
}
