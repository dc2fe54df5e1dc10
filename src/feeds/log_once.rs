//! What the log is told once of each source, not with each request.

use super::{Subject, View};
use crate::cache::Cache;

/// Of how many sources is remembered what was told.
const REMEMBERED: u64 = 10_000;

/// What the log was told.
#[derive(Debug)]
pub struct LogOnce(Cache<(Subject, Matter), ()>);

/// What there is to tell of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Matter {
    /// A parameter looks like a filter of Kinto's, and is none.
    Ignored,
    /// Its live feeds are refused: it is too large to be kept.
    Oversize,
    /// Its live feeds are refused: the service account may not read it.
    Unreadable,
}

impl Default for LogOnce {
    fn default() -> Self {
        Self(Cache::builder(REMEMBERED).build())
    }
}

impl LogOnce {
    /// Whether this is told for the first time.
    pub fn is_new(&self, subject: &Subject, matter: Matter) -> bool {
        let subject = match subject {
            Subject::History(bucket, _) => Subject::History(bucket.clone(), View::Everything),
            subject => subject.clone(),
        };
        self.0.insert_new((subject, matter), ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_matter_of_each_source_is_new_once() {
        let told = LogOnce::default();
        let (one, other) = (Subject::Bucket("a".into()), Subject::Bucket("b".into()));
        assert!(told.is_new(&one, Matter::Ignored));
        assert!(!told.is_new(&one, Matter::Ignored));
        assert!(told.is_new(&one, Matter::Oversize));
        assert!(told.is_new(&other, Matter::Ignored));
    }
}
