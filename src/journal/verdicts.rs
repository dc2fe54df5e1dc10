//! Who sees what, where a history does not know it: the upstream is asked.
//!
//! It is asked while no connection is held, lest what reads and writes the journal has to wait for the upstream. A question
//! that comes to objects of which nothing is known breaks off, and is put again once it is known.

use std::collections::HashMap;
use std::fmt;

use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::{JournalError, Object, PATIENCE};

/// How much more is asked at once each time, lest more is asked than is needed, and how much at most.
const MORE: usize = 4;
const MOST: usize = 64;

/// Which entries of a bucket somebody sees.
pub enum Sees<'s> {
    /// All of them.
    Everything,
    /// Those that name one of these principals as a reader; of entries whose readers are not known completely, also
    /// those that the verdict says yes to.
    Some {
        /// Theirs.
        principals: &'s [String],
        /// Whether they may see entries about this object now. Asked once for each object.
        verdict: &'s (dyn Fn(Object) -> BoxFuture<'s, bool> + Send + Sync),
    },
}

/// What the upstream said of objects whose readers are not known, and of which it is still to be asked.
#[derive(Debug)]
pub(super) struct Verdicts {
    known: HashMap<String, bool>,
    wanted: Vec<(String, Object)>,
    most: usize,
}

/// What came of a question that was put.
#[derive(Debug)]
pub(super) struct Put<T> {
    /// Of use where nothing is wanted.
    answer: Option<T>,
    verdicts: Verdicts,
}

// === impl Sees ===

impl fmt::Debug for Sees<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => formatter.write_str("Everything"),
            Self::Some { principals, .. } => formatter.debug_tuple("Some").field(principals).finish(),
        }
    }
}

// === impl Verdicts ===

impl Default for Verdicts {
    fn default() -> Self {
        Self { known: HashMap::new(), wanted: Vec::new(), most: 1 }
    }
}

impl Verdicts {
    pub(super) fn of(&self, uri: &str) -> Option<bool> {
        self.known.get(uri).copied()
    }

    /// Notes that something has to be known. An error, which is none to anybody else, where that is as much as is asked at
    /// once.
    pub(super) fn want(&mut self, uri: &str, object: Object) -> sqlx::Result<()> {
        if self.wanted.iter().all(|(wanted, _)| wanted != uri) {
            self.wanted.push((uri.to_owned(), object));
        }
        if self.wanted.len() < self.most { Ok(()) } else { Err(sqlx::Error::BeginFailed) }
    }

    /// What came of a question that was put with these.
    pub(super) fn put<T>(self, answer: sqlx::Result<T>) -> sqlx::Result<Put<T>> {
        match answer {
            Err(error) if self.wanted.is_empty() => Err(error),
            answer => Ok(Put { answer: answer.ok(), verdicts: self }),
        }
    }

    async fn ask(&mut self, sees: &Sees<'_>) {
        let Sees::Some { verdict, .. } = sees else { return };
        for (uri, object) in std::mem::take(&mut self.wanted) {
            let sees = verdict(object).await;
            self.known.insert(uri, sees);
        }
        self.most = self.most.saturating_mul(MORE).min(MOST);
    }
}

/// Puts a question with what is known, until that is enough to answer it; `None` where there is no history.
pub(super) async fn settled<T, F>(
    sees: &Sees<'_>,
    put: impl Fn(Verdicts) -> F,
) -> Result<Option<T>, JournalError>
where
    F: Future<Output = Result<Option<Put<T>>, JournalError>>,
{
    let answered = async {
        let mut verdicts = Verdicts::default();
        loop {
            let Some(Put { answer, verdicts: known }) = put(verdicts).await? else { return Ok(None) };
            verdicts = known;
            if verdicts.wanted.is_empty() {
                return Ok(answer);
            }
            // Nothing is kept in memory while others are waited for.
            drop(answer);
            verdicts.ask(sees).await;
        }
    };
    let late = || JournalError::Unavailable("the upstream does not say in time who sees what".into());
    timeout(PATIENCE, answered).await.unwrap_or_else(|_| Err(late()))
}
