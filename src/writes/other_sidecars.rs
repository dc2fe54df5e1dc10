//! What other sidecars on the same journal record is known here at once: timestamps and permissions.

use std::sync::Arc;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::effects::Effects;
use crate::journal::{News, Object};
use crate::kinto::{CollectionKey, Timestamp};

/// Tells `effects` what others record, until the journal is closed.
pub(super) async fn follow(mut news: Receiver<News>, effects: Arc<Effects>) {
    loop {
        match news.recv().await {
            // Some of what others recorded may have been missed.
            Ok(news) if news.is_foreign && news.objects.is_empty() => effects.heard_of_everything(),
            Ok(news) if news.is_foreign => {
                for (object, timestamp) in &news.objects {
                    effects.heard(object, *timestamp).await;
                }
            }
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => effects.heard_of_everything(),
            Err(RecvError::Closed) => return,
        }
    }
}

impl Effects {
    /// Another sidecar saw this version of an object written.
    pub(super) async fn heard(self: &Arc<Self>, object: &Object, timestamp: Timestamp) {
        let bucket = object.bucket();
        match object {
            Object::Record(_, collection, _) => {
                let clock = self.timeline.clock(&CollectionKey::new(bucket, collection));
                self.timeline.heard_of(&clock, timestamp);
            }
            Object::Collection(_, collection) => {
                self.access.invalidate_bucket(bucket);
                self.ask(&CollectionKey::new(bucket, collection)).await;
            }
            Object::Bucket(_) => {
                self.bucket_changed(bucket);
                for clock in self.timeline.clocks().iter().filter(|clock| &*clock.key().bucket == bucket) {
                    self.ask(clock.key()).await;
                }
            }
            Object::Group(..) => self.access.invalidate_groups(bucket),
        }
    }

    /// What another sidecar saw was not told: anything may have been written.
    pub(super) fn heard_of_everything(&self) {
        self.access.doubt_all();
        for clock in self.timeline.clocks() {
            self.timeline.touched(clock.key());
        }
    }
}
