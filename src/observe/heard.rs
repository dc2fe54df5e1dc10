//! What other sidecars on the same journal saw written.

use std::sync::Arc;

use tokio::time::Instant;

use super::Observer;
use crate::journal::Object;
use crate::kinto::{CollectionKey, Timestamp};

impl Observer {
    /// Another sidecar saw this version of an object written.
    pub async fn heard(self: &Arc<Self>, object: &Object, timestamp: Timestamp) {
        let bucket = object.bucket();
        match object {
            Object::Record(_, collection, _) => {
                let clock = self.timeline.clock(&CollectionKey::new(bucket, collection));
                let newest = timestamp.max(clock.timestamp());
                self.timeline.learned(&clock, newest, None, clock.news(), Instant::now());
                // A version that became visible late moves no timestamp.
                self.timeline.touched(clock.key());
            }
            Object::Collection(_, collection) => {
                self.access.invalidate_bucket(bucket);
                self.ask(&CollectionKey::new(bucket, collection)).await;
            }
            Object::Bucket(_) => {
                self.access.invalidate_bucket(bucket);
                for clock in self.timeline.clocks().iter().filter(|clock| &*clock.key().bucket == bucket) {
                    self.ask(clock.key()).await;
                }
            }
            Object::Group(..) => self.access.invalidate_bucket(bucket),
        }
    }

    /// What another sidecar saw was not told: anything may have been written.
    pub fn heard_of_everything(&self) {
        self.access.doubt_all();
        for clock in self.timeline.clocks() {
            self.timeline.touched(clock.key());
        }
    }
}
