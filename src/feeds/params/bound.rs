//! Where a feed begins or ends, as a request says it: a seq, a moment, or now.

use super::refused;
use crate::error::Error;
use crate::kinto::seq::Seq;
use crate::kinto::{moment, unquoted};

/// A place in the order of changes. Seqs are timestamps, so a moment names one, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// This seq.
    Seq(Seq),
    /// When the request arrived.
    Now,
}

impl Bound {
    /// Reads the value of the parameter `name`.
    pub(super) fn read(name: &str, text: &str) -> Result<Self, Error> {
        let text = unquoted(text).unwrap_or(text);
        if text == "now" {
            return Ok(Self::Now);
        }
        let seq = Seq::parse(text).or_else(|| moment(text).map(Seq::of));
        seq.map(Self::Seq)
            .ok_or_else(|| refused(format!("Malformed sequence supplied in '{name}' parameter.")))
    }

    /// The seq, where it is named.
    pub fn seq(self) -> Option<Seq> {
        match self {
            Self::Seq(seq) => Some(seq),
            Self::Now => None,
        }
    }
}
