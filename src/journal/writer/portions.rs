//! Outcomes that are too large for one transaction. They are recorded portion by portion, and what others have waiting is
//! written in between.

use std::collections::{BTreeSet, HashMap, VecDeque};

use tokio::sync::oneshot;

use crate::journal::late;
use crate::journal::others::{Among, Behind};
use crate::journal::queue::{Done, Waiting, Work};
use crate::journal::{Intent, JournalError, Object, Outcome};

/// SECURITY: the most changes, and the most bytes but for a single one, that one transaction records.
const CHANGES: usize = 200;
const BYTES: usize = 8 << 20;

/// See the module.
#[derive(Debug, Default)]
pub(in crate::journal) struct Portions {
    large: VecDeque<Large>,
    /// How many of them are about an object.
    objects: HashMap<Object, usize>,
}

/// A large outcome, or one that comes after a large one about the same objects.
#[derive(Debug)]
pub(super) struct Large {
    portions: VecDeque<Outcome>,
    objects: BTreeSet<Object>,
    is_kept: bool,
    among: Option<Among>,
    entries: usize,
    /// What has to wait for other processes, and for which.
    behind: Option<Behind>,
    reply: oneshot::Sender<Result<Done, JournalError>>,
}

/// How much of what waits is done together, from the first on: at least one.
pub(super) fn together<'w>(works: impl Iterator<Item = &'w Work>) -> usize {
    let (mut changes, mut bytes) = (0, 0);
    let fitting = works.take_while(|work| {
        let (more, larger) = weight(work);
        changes += more;
        bytes += larger;
        changes <= 2 * CHANGES && bytes <= 2 * BYTES
    });
    fitting.count().max(1)
}

/// How many rows work comes to, or less, and how many bytes, as far as whoever asks for it chooses that.
pub(super) fn weight(work: &Work) -> (usize, usize) {
    let of_intent =
        |intent: &Intent| intent.uri.len() + intent.sent.as_deref().map_or(0, |sent| sent.get().len());
    match work {
        Work::Settle { outcome, .. } => (number(outcome), late::size(outcome)),
        Work::Intend(_, intents) => (intents.len(), intents.iter().map(of_intent).sum()),
        Work::Tell(_, changes) => (changes.len(), 0),
        Work::Delete { names, .. } => (names.len(), BYTES),
        Work::Enter { seen, .. } => (seen.len(), 0),
        // Whatever there is of it.
        Work::Remove(_) | Work::Sweep(_) | Work::Fill(_) => (CHANGES, BYTES),
        Work::Checkpoint(_, json) => (1, json.as_deref().map_or(0, str::len)),
        _ => (1, 0),
    }
}

fn number(outcome: &Outcome) -> usize {
    outcome.changes.len() + outcome.known.len()
}

/// The same in portions; the last one closes the intents, and has nothing else but watermarks.
fn cut(outcome: Outcome) -> VecDeque<Outcome> {
    let Outcome { closes, changes, known, watermarks, ended } = outcome;
    let mut portions: VecDeque<Outcome> = VecDeque::new();
    let begun = || Outcome { ended: ended.clone(), ..Outcome::default() };
    let parts = known.into_iter().map(|known| Outcome { known: vec![known], ..Outcome::default() });
    let changes = changes.into_iter().map(|one| Outcome { changes: vec![one], ..Outcome::default() });
    let mut bytes = 0;
    for part in parts.chain(changes) {
        let size = late::size(&part);
        let has_room = |last: &&mut Outcome| number(last) < CHANGES && bytes + size <= BYTES;
        if let Some(last) = portions.back_mut().filter(has_room) {
            bytes += size;
            last.known.extend(part.known);
            last.changes.extend(part.changes);
        } else {
            bytes = size;
            portions.push_back(Outcome { known: part.known, changes: part.changes, ..begun() });
        }
    }
    portions.push_back(Outcome { closes, watermarks, ..begun() });
    portions
}

// === impl Portions ===

impl Portions {
    /// Takes out of what waits what is too large, and what is about the same objects as that.
    pub(super) fn sort(&mut self, waiting: &mut Vec<Waiting>) {
        for next in std::mem::take(waiting) {
            let is_here = match &next.work {
                Work::Settle { outcome, .. } => {
                    let is_large =
                        number(outcome) > CHANGES || number(outcome) > 1 && late::size(outcome) > BYTES;
                    is_large || outcome.changes.iter().any(|change| self.objects.contains_key(&change.object))
                }
                _ => false,
            };
            match next.work {
                Work::Settle { outcome, is_kept, among } if is_here => {
                    let objects: BTreeSet<Object> =
                        outcome.changes.iter().map(|change| change.object.clone()).collect();
                    for object in &objects {
                        *self.objects.entry(object.clone()).or_default() += 1;
                    }
                    let (portions, reply) = (cut(outcome), next.reply);
                    let large = Large { portions, objects, is_kept, among, entries: 0, behind: None, reply };
                    self.large.push_back(large);
                }
                work => waiting.push(Waiting { work, reply: next.reply }),
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.large.is_empty()
    }

    /// The first that is to be recorded, for one portion of it.
    pub(super) fn take(&mut self) -> Option<Large> {
        let large = self.large.pop_front()?;
        for object in &large.objects {
            if let Some(number) = self.objects.get_mut(object) {
                *number -= 1;
                if *number == 0 {
                    self.objects.remove(object);
                }
            }
        }
        Some(large)
    }

    /// It goes on with its next portion before others do.
    pub(super) fn put_back(&mut self, large: Large) {
        for object in &large.objects {
            *self.objects.entry(object.clone()).or_default() += 1;
        }
        self.large.push_front(large);
    }
}

// === impl Large ===

impl Large {
    /// What is recorded next. The intents are not closed, and nothing is marked, before all is recorded.
    pub(super) fn next(&mut self) -> Option<Work> {
        if self.portions.len() == 1 && self.behind.is_some() {
            return None;
        }
        let outcome = self.portions.pop_front()?;
        Some(Work::Settle { outcome, is_kept: self.is_kept, among: self.among.clone() })
    }

    /// What came of it.
    pub(super) fn record(&mut self, done: Done) {
        self.entries += done.entries();
        let Done::Behind(more) = done else { return };
        match &mut self.behind {
            Some(behind) => {
                behind.rest.changes.extend(more.rest.changes);
                behind.others.extend(more.others);
            }
            None => self.behind = Some(more),
        }
    }

    /// It was all recorded, but for what has to wait.
    pub(super) fn end(mut self) {
        let done = match (self.behind, self.portions.pop_front()) {
            (Some(Behind { rest, others }), Some(last)) => {
                let rest = Outcome { changes: rest.changes, ..last };
                Done::Behind(Behind { rest, others })
            }
            _ => Done::Entries(self.entries),
        };
        // Whoever asked may have gone.
        let _ = self.reply.send(Ok(done));
    }

    /// It could not be recorded; gives what is to be kept of it.
    pub(super) fn fail(self, now: Work, error: &JournalError) -> Vec<Work> {
        let Self { portions, is_kept, reply, behind, .. } = self;
        let _ = reply.send(Err(error.clone()));
        let rest = behind.map(|behind| Outcome { closes: None, watermarks: Vec::new(), ..behind.rest });
        let rest = rest.into_iter().chain(portions);
        let rest = rest.map(|outcome| Work::Settle { outcome, is_kept, among: None });
        [now].into_iter().chain(rest).collect()
    }
}
