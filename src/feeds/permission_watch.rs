//! Permissions of those who read live: asked for again every so often, and at once where a passing write may have changed
//! them. Readers with the same credentials share one question.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::access::{Access, Credentials, Verdict};
use crate::error::Error;
use crate::feeds::Subject;
use crate::feeds::channel::Channel;
use crate::feeds::questions::Questions;
use crate::timeline::budget::rest;

/// Permissions are not asked for more often than this.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// A round of questions, however many there are, is not drawn out beyond this by resting.
const LONGEST_ROUND: Duration = Duration::from_secs(60);

/// The permission of some readers to read one source.
#[derive(Debug)]
pub struct Grant {
    subject: Subject,
    credentials: Credentials,
    channel: Weak<Channel>,
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
}

impl PermissionWatch {
    /// The permission of somebody who was just found to have it.
    pub fn give(&self, subject: Subject, credentials: Credentials, channel: &Arc<Channel>) -> Arc<Grant> {
        let mut grants = self.0.lock();
        let name = (subject, credentials);
        let known = grants.get(&name).and_then(Weak::upgrade);
        if let Some(grant) = known.filter(|grant| !grant.is_lost() && is_of(grant, channel)) {
            return grant;
        }
        let (subject, credentials) = name.clone();
        let channel = Arc::downgrade(channel);
        let grant = Arc::new(Grant { subject, credentials, channel, is_lost: AtomicBool::new(false) });
        grants.insert(name, Arc::downgrade(&grant));
        grant
    }

    /// Asks again and again until the process ends.
    pub async fn keep(self: Arc<Self>, access: Access, questions: Questions) {
        let mut changed = access.subscribe();
        loop {
            let settings = questions.settings.all();
            let interval = settings.permission_ttl.max(SHORTEST_INTERVAL);
            // Before the round: what changes while it goes on makes another.
            let sooner = tokio::time::timeout(interval, changed.changed()).await;
            let grants = self.held();
            let longest_rest = LONGEST_ROUND / u32::try_from(grants.len().max(1)).unwrap_or(u32::MAX);
            let mut to_wake: Vec<Arc<Channel>> = Vec::new();
            for grant in grants {
                let began = Instant::now();
                let requester = access.requester(grant.credentials.clone());
                let verdict = questions.ask(&grant.subject, &requester).await;
                let is_withdrawn =
                    matches!(verdict, Ok(Verdict::Refused(_)) | Err(Error::Unauthorized | Error::Forbidden));
                if is_withdrawn {
                    grant.is_lost.store(true, Ordering::Release);
                    to_wake.extend(grant.channel.upgrade());
                }
                // Nobody rests while a change of permissions is looked for.
                if sooner.is_err() {
                    tokio::time::sleep(rest(began.elapsed(), settings.poll_budget).min(longest_rest)).await;
                }
            }
            to_wake.dedup_by(|one, other| Arc::ptr_eq(one, other));
            for channel in to_wake {
                channel.wake();
            }
        }
    }

    fn held(&self) -> Vec<Arc<Grant>> {
        let mut grants = self.0.lock();
        grants.retain(|_, grant| grant.strong_count() > 0);
        grants.values().filter_map(Weak::upgrade).filter(|grant| !grant.is_lost()).collect()
    }
}

fn is_of(grant: &Grant, channel: &Arc<Channel>) -> bool {
    std::ptr::eq(grant.channel.as_ptr(), Arc::as_ptr(channel))
}
