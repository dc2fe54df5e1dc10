//! What an import left out, since it could not be read.

use super::Failure;

/// How many are named.
const NAMED: usize = 10;

/// What was left out so far.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    number: u64,
    named: Vec<String>,
}

impl LeftOut {
    /// Something is left out, for this reason.
    pub(super) fn add(&mut self, reason: String) {
        self.number += 1;
        if self.named.len() < NAMED {
            self.named.push(reason);
        }
    }

    /// Fails where anything was left out.
    pub(super) fn end(&self) -> Result<(), Failure> {
        if self.number == 0 {
            return Ok(());
        }
        let (named, number) = (self.named.join("; "), self.number);
        let more = if self.named.len() as u64 == number { "" } else { "; …" };
        Err(Failure::Problem(format!("{number} were left out: {named}{more}")))
    }
}
