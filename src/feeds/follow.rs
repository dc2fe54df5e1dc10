//! Who keeps the channels of live feeds up to date: one task for each source that somebody listens to.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::feeds::channel::Channel;
use crate::feeds::tables::collections::{Collections, Naming};
use crate::feeds::tables::records::Records;
use crate::feeds::{Feeds, Subject, View};
use crate::journal::{Journal, News, Object};
use crate::kinto::{CollectionKey, Timestamp};
use crate::upstream::kinto::KintoError;

/// How often a source is marked as in use, and looked at for whether it still is.
const TICK: Duration = Duration::from_secs(5);

/// How long a channel is kept after its last reader: those of a long poll come back.
const LINGER: Duration = Duration::from_secs(30);

/// The pause after a failure of the upstream.
const BREATHER: Duration = Duration::from_secs(1);

/// Publishes a source's snapshots until nobody listens any more.
pub(super) async fn follow(feeds: Arc<Feeds>, subject: Subject, channel: Arc<Channel>) {
    match &subject {
        Subject::Collection(key) => follow_records(&feeds, key, &subject, &channel).await,
        Subject::Bucket(_) | Subject::Monitor => follow_collections(&feeds, &subject, &channel).await,
        Subject::History(bucket, view) => follow_entries(&feeds, bucket, view, &subject, &channel).await,
    }
}

async fn follow_records(feeds: &Feeds, key: &CollectionKey, subject: &Subject, channel: &Arc<Channel>) {
    let sources = &feeds.sources;
    let mirror = sources.mirrors.hold(key);
    let clock = Arc::clone(mirror.clock());
    let _listening = clock.listen();
    let mut read = mirror.subscribe();
    let mut usage = Usage::default();
    loop {
        clock.used();
        read.mark_unchanged();
        let news = clock.news();
        let current = match mirror.settled() {
            Some(state) => Ok(state),
            None => sources.mirrors.current(&mirror, None).await.map(|(state, _)| state),
        };
        match current {
            Ok(state) => {
                let state = Records { mirror: Arc::clone(&mirror), state, overlap: sources.overlap() };
                let advanced = match sources.revised(key, Arc::new(state)).await {
                    Ok(snapshot) => channel.advance(snapshot).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = advanced {
                    tracing::warn!(collection = %key, %error, "cannot tell the readers of {key} of a change");
                }
            }
            // Whoever comes back after it has become too large, or may not be read by the service account any more, is told
            // why there are no live feeds of it.
            Err(KintoError::Absent | KintoError::Oversize | KintoError::Refused(_)) => {
                feeds.close(subject, channel);
                return;
            }
            Err(error) => tracing::debug!(collection = %key, %error, "cannot read {key} for its readers"),
        }
        if mirror.settled().is_none() && clock.news() == news {
            // The upstream fails: what is known is not all that there is.
            tokio::time::sleep(BREATHER).await;
            continue;
        }
        let known = if mirror.settled().is_some() { clock.news() } else { news };
        tokio::select! {
            () = clock.news_beyond(known) => {}
            _ = read.changed() => {}
            () = tokio::time::sleep(TICK) => {}
        }
        if usage.is_over(channel) && feeds.close_if_unused(subject, channel) {
            return;
        }
    }
}

async fn follow_collections(feeds: &Feeds, subject: &Subject, channel: &Arc<Channel>) {
    let sources = &feeds.sources;
    let (list, naming) = match subject {
        // Kept from here on, loaded by the reader who asked for the channel.
        Subject::Bucket(bucket) => (sources.timeline.watch(bucket), Naming::InBucket),
        _ => (Arc::clone(sources.timeline.monitored()), Naming::Monitored),
    };
    let mut moved = list.subscribe();
    let mut usage = Usage::default();
    loop {
        moved.mark_unchanged();
        if !list.is_loaded() && *subject != Subject::Monitor {
            // The service account may not read all of it any more. Whoever comes back is told so.
            feeds.close(subject, channel);
            return;
        }
        let snapshot = Collections::now(Arc::clone(&list), naming, sources.overlap());
        if let Err(error) = channel.advance(Arc::new(snapshot)).await {
            tracing::warn!(%error, "cannot tell readers of a change");
        }
        tokio::select! {
            _ = moved.changed() => {}
            () = tokio::time::sleep(TICK) => {}
        }
        if usage.is_over(channel) && feeds.close_if_unused(subject, channel) {
            return;
        }
    }
}

async fn follow_entries(feeds: &Feeds, bucket: &str, view: &View, subject: &Subject, channel: &Arc<Channel>) {
    let sources = &feeds.sources;
    let mut usage = Usage::default();
    loop {
        // Before the journal is read: what is recorded from here on is news.
        let news = match sources.history.journal(sources.access.upstream()).await {
            Ok(journal) => journal.map(Journal::subscribe),
            Err(_) => None,
        };
        let advanced = match sources.entries(bucket, view).await {
            Ok(snapshot) => channel.advance(Arc::new(snapshot)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = advanced {
            tracing::debug!(bucket, %error, "cannot read a history for its readers");
            tokio::time::sleep(BREATHER).await;
        } else if let Some(news) = news {
            // What leaves no news, such as a deletion, is seen by looking.
            _ = tokio::time::timeout(TICK, news_of(bucket, news)).await;
        }
        if usage.is_over(channel) && feeds.close_if_unused(subject, channel) {
            return;
        }
    }
}

/// Waits until there may be something new in a bucket's history.
async fn news_of(bucket: &str, mut news: broadcast::Receiver<News>) {
    while let Ok(news) = news.recv().await {
        let is_about = |(object, _): &(Object, Timestamp)| object.bucket() == bucket;
        if news.objects.is_empty() || news.objects.iter().any(is_about) {
            return;
        }
    }
}

/// For how long a channel has had no readers.
#[derive(Debug, Default)]
struct Usage {
    alone_since: Option<Instant>,
}

impl Usage {
    fn is_over(&mut self, channel: &Arc<Channel>) -> bool {
        if !Feeds::is_unused(channel) {
            self.alone_since = None;
            return false;
        }
        self.alone_since.get_or_insert_with(Instant::now).elapsed() >= LINGER
    }
}
