//! Recording in the order of versions among several processes, see [`super::others`].

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::AnyConnection;
use tokio::time::{Instant, sleep};

use super::engine::{DEADLINE, Kind};
use super::others::{Among, Behind, Others, uris};
use super::queue::{Done, Work};
use super::transaction::Transaction;
use super::{Change, IntentGroup, Journal, JournalError, Outcome, intents};

/// How long somebody waits: another process that hangs delays no writes of an object for longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// SECURITY: how many versions are told of in one transaction.
const TOLD: usize = 200;
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

// === impl Transaction ===

impl Transaction<'_> {
    /// Records of an outcome what others let pass, and says which versions the rest is.
    pub(super) async fn settle_among(
        &mut self,
        among: &Among,
        outcome: &Outcome,
        owner: i64,
    ) -> sqlx::Result<Done> {
        let (first, rest): (Vec<_>, Vec<_>) =
            outcome.changes.iter().partition(|change| self.others.let_pass(among, change));
        if rest.is_empty() {
            return self.settle(outcome).await.map(Done::Entries);
        }
        let changes = first.into_iter().cloned().collect();
        let first = Outcome { changes, ended: outcome.ended.clone(), ..Outcome::default() };
        let rest = Outcome { changes: rest.into_iter().cloned().collect(), ..outcome.clone() };
        self.tell(among.group, &rest.changes, owner).await?;
        self.settle(&first).await?;
        let others = self.others.groups(among);
        Ok(Done::Behind(Behind { rest, others }))
    }

    /// Says which versions these are, where there is anybody to be told. Gives who that is.
    pub(super) async fn tell(
        &mut self,
        group: IntentGroup,
        changes: &[Change],
        owner: i64,
    ) -> sqlx::Result<BTreeSet<i64>> {
        let others = self.others.about(changes);
        if !others.is_empty() {
            intents::tell_made(self.connection, group, owner, changes).await?;
        }
        Ok(others)
    }
}

// === impl Journal ===

impl Journal {
    /// The answers to the writes of a group were read, and somebody has to wait before what they say is recorded: tells the
    /// other processes on this journal that write the same objects which versions these are.
    pub async fn tell(&self, among: &mut Among, changes: &[Change]) -> Result<(), JournalError> {
        if self.engine.kind == Kind::Sqlite || changes.is_empty() {
            return Ok(());
        }
        let told: Vec<Change> = changes
            .iter()
            .map(|change| Change::bare(change.object.clone(), change.action, change.modified))
            .collect();
        for told in told.chunks(TOLD) {
            if let Done::Others(others) = self.write(Work::Tell(among.group, told.to_vec())).await? {
                among.others.get_or_insert_default().extend(others);
            }
        }
        Ok(())
    }

    /// Records what the answers to the writes of a group say, as [`Journal::settle_at_last`] does, but after what other
    /// processes on this journal record of older versions of the same objects.
    pub async fn settle_among(&self, among: Among, outcome: Outcome) -> Result<(), JournalError> {
        let (mut among, mut outcome) = (among, outcome);
        let until = Instant::now() + PATIENCE;
        loop {
            let work = Work::Settle { outcome, is_kept: true, among: Some(among.clone()) };
            let Done::Behind(Behind { rest, others }) = self.write(work).await? else { return Ok(()) };
            outcome = rest;
            among.others = Some(others);
            if !self.passes(&among, &outcome.changes, until).await {
                return self.settle_at_last(outcome).await.map(drop);
            }
        }
    }

    /// Waits until others let one of these changes pass; whoever has not done so in time is passed by, and it is `false`.
    async fn passes(&self, among: &Among, changes: &[Change], until: Instant) -> bool {
        let uris = uris(changes).collect();
        loop {
            let look = async |connection: &mut AnyConnection| {
                Others::look(connection, self.owner.number, &uris, false).await
            };
            let others = match self.engine.ask(DEADLINE, look).await {
                Ok(others) => others,
                Err(error) => {
                    tracing::debug!(%error, "could not wait for other processes");
                    return false;
                }
            };
            if changes.iter().any(|change| others.let_pass(among, change)) {
                return true;
            }
            if Instant::now() >= until {
                let groups = others.groups(among).into_iter().collect();
                if let Err(error) = self.write(Work::PassBy(groups)).await {
                    tracing::debug!(%error, "could not say who is passed by");
                }
                return false;
            }
            sleep(BETWEEN_LOOKS).await;
        }
    }
}
