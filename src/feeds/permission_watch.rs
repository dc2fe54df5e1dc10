//! Permissions of those who read live: asked for again every so often, and at once where a passing write may have changed
//! them. Readers with the same credentials share one question. While their permission is in doubt, they are told only what was
//! there before the last question was put to which the upstream said yes.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join;
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::access::{Access, Credentials, Footing, Verdict};
use crate::error::Error;
use crate::feeds::Subject;
use crate::feeds::channel::Channel;
use crate::feeds::questions::Questions;
use crate::timeline::budget::rest;

/// Permissions are not asked for more often than this.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// How many are asked at once where permissions have changed, and how many of them are told of together.
const AT_ONCE: usize = 8;
const TOGETHER: usize = 64;

/// A round of questions, however many there are, is not drawn out beyond this by resting.
const LONGEST_ROUND: Duration = Duration::from_secs(60);

/// The permission of some readers to read one source.
#[derive(Debug)]
pub struct Grant {
    subject: Subject,
    credentials: Credentials,
    channel: Weak<Channel>,
    footing: Footing,
    /// They had it when the channel had come to the serial before this one.
    covered: AtomicU64,
    is_lost: AtomicBool,
}

/// All permissions that live readers stand on.
#[derive(Debug, Default)]
pub struct PermissionWatch(Mutex<HashMap<(Subject, Credentials), Weak<Grant>>>);

impl Grant {
    /// Whether it was withdrawn.
    pub fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Acquire)
    }

    /// Whether it was changed and nobody knows yet how. Its readers are told when that is known.
    pub fn is_in_doubt(&self) -> bool {
        self.footing.is_in_doubt()
    }

    /// Whether they may be told what a snapshot of this serial has: nothing is in doubt, or they were found to have the permission
    /// since it was there. SECURITY: to be asked about a snapshot that the caller has already.
    pub fn covers(&self, serial: u64) -> bool {
        serial < self.covered.load(Ordering::Acquire) || !self.is_in_doubt()
    }

    /// What is there, and so was written, before the question is put: where permissions change without end, that is told
    /// nevertheless. SECURITY: a history is read when it is told.
    fn covered_by_now(&self) -> u64 {
        let channel = self.channel.upgrade().filter(|_| !matches!(self.subject, Subject::History(..)));
        let latest = channel.and_then(|channel| channel.latest());
        latest.map_or(0, |latest| latest.snapshot.serial().saturating_add(1))
    }

    /// Asks the upstream. Whether its readers have something to learn from what was said.
    async fn ask(&self, access: &Access, questions: &Questions) -> bool {
        let (at, was_in_doubt) = (self.footing.now(), self.is_in_doubt());
        let covered = self.covered_by_now();
        let requester = access.requester(self.credentials.clone());
        match questions.ask(&self.subject, &requester).await {
            Ok(Verdict::Refused(_)) | Err(Error::Unauthorized | Error::Forbidden) => {
                self.is_lost.store(true, Ordering::Release);
                true
            }
            Ok(_) => {
                self.covered.fetch_max(covered, Ordering::AcqRel);
                self.footing.renew(at);
                was_in_doubt
            }
            Err(_) => false,
        }
    }
}

impl PermissionWatch {
    /// The permission of somebody who was just found to have it; what it stands on is from before they were.
    pub fn give(
        &self,
        subject: Subject,
        credentials: Credentials,
        footing: Footing,
        channel: &Arc<Channel>,
    ) -> Arc<Grant> {
        let mut grants = self.0.lock();
        let name = (subject, credentials);
        let known = grants.get(&name).and_then(Weak::upgrade);
        if let Some(grant) = known.filter(|grant| !grant.is_lost() && is_of(grant, channel)) {
            return grant;
        }
        let (subject, credentials) = name.clone();
        let channel = Arc::downgrade(channel);
        let (covered, is_lost) = (AtomicU64::new(0), AtomicBool::new(false));
        let grant = Arc::new(Grant { subject, credentials, channel, footing, covered, is_lost });
        grants.insert(name, Arc::downgrade(&grant));
        grant
    }

    /// Asks again and again until the process ends.
    pub async fn keep(self: Arc<Self>, access: Access, questions: Questions) {
        join(self.ask_every_so_often(&access, &questions), self.ask_when_changed(&access, &questions)).await;
    }

    async fn ask_every_so_often(&self, access: &Access, questions: &Questions) {
        loop {
            sleep(questions.settings.all().permission_ttl.max(SHORTEST_INTERVAL)).await;
            let grants = self.held();
            let longest_rest = LONGEST_ROUND / u32::try_from(grants.len().max(1)).unwrap_or(u32::MAX);
            for grant in grants {
                let began = Instant::now();
                if grant.ask(access, questions).await {
                    wake([&*grant]);
                }
                let budget = questions.settings.all().poll_budget;
                sleep(rest(began.elapsed(), budget).min(longest_rest)).await;
            }
        }
    }

    /// Nobody rests while a change of permissions is looked for. What the upstream did not say is asked for again.
    async fn ask_when_changed(&self, access: &Access, questions: &Questions) {
        let mut changed = access.subscribe();
        loop {
            let mut moved = self.held();
            moved.retain(|grant| grant.footing.has_moved());
            let asked = moved.iter().map(async |grant| (grant, grant.ask(access, questions).await));
            let asked = stream::iter(asked.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
            // Readers of many grants are woken together.
            let mut asked = pin!(asked.ready_chunks(TOGETHER));
            while let Some(some) = asked.next().await {
                wake(some.into_iter().filter(|(_, is_settled)| *is_settled).map(|(grant, _)| &**grant));
            }
            let is_unsaid = |grant: &Arc<Grant>| grant.footing.has_moved() && !grant.is_lost();
            let longest = if moved.iter().any(is_unsaid) { SHORTEST_INTERVAL } else { Duration::MAX };
            if let Ok(Err(_)) = timeout(longest, changed.changed()).await {
                return;
            }
        }
    }

    fn held(&self) -> Vec<Arc<Grant>> {
        let mut grants = self.0.lock();
        grants.retain(|_, grant| grant.strong_count() > 0);
        grants.values().filter_map(Weak::upgrade).filter(|grant| !grant.is_lost()).collect()
    }
}

/// Has the readers look again whose permissions these are.
fn wake<'g>(grants: impl IntoIterator<Item = &'g Grant>) {
    let channels = grants.into_iter().filter_map(|grant| grant.channel.upgrade());
    let channels: HashMap<*const Channel, Arc<Channel>> =
        channels.map(|channel| (Arc::as_ptr(&channel), channel)).collect();
    for channel in channels.values() {
        channel.wake();
    }
}

fn is_of(grant: &Grant, channel: &Arc<Channel>) -> bool {
    std::ptr::eq(grant.channel.as_ptr(), Arc::as_ptr(channel))
}
