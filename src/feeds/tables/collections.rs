//! The collections of a bucket, or all monitored ones, as the timeline lists them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use crate::feeds::table::{Mark, Table};
use crate::kinto::given::Given;
use crate::kinto::seq::Seq;
use crate::kinto::{CollectionKey, Timestamp};
use crate::timeline::collection_list::CollectionList;
use crate::timeline::entries::{Entries, Gone, MonitorEntry};

/// What a collection is called in a feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// By its id in its bucket.
    InBucket,
    /// By the id of its entry in monitor/changes.
    Monitored,
}

/// A list of collections at one moment.
#[derive(Debug)]
pub struct Collections {
    list: Arc<CollectionList>,
    entries: Arc<Entries>,
    naming: Naming,
    overlap: Duration,
    by_seq: Vec<Place>,
    content_digest: u64,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Entry(usize),
    Gone(usize),
}

enum Found<'t> {
    Entry(&'t MonitorEntry),
    Gone(&'t Gone),
}

impl Collections {
    /// The list as it is now.
    pub fn now(list: Arc<CollectionList>, naming: Naming, overlap: Duration) -> Self {
        let entries = list.entries();
        let mut this = Self { list, entries, naming, overlap, by_seq: Vec::new(), content_digest: 0 };
        let mut places: Vec<Place> = (0..this.entries.rows.len()).rev().map(Place::Entry).collect();
        places.extend((0..this.entries.gone.len()).map(Place::Gone));
        places.sort_by_key(|place| match this.find(*place) {
            Some(Found::Entry(entry)) => (seq(entry), entry.generation),
            Some(Found::Gone(gone)) => (gone.seen, gone.generation),
            None => (Seq::ZERO, 0),
        });
        this.by_seq = places;
        let mut hasher = DefaultHasher::new();
        for mark in (0..this.by_seq.len()).filter_map(|place| this.mark(place)) {
            (mark.id, mark.seq, mark.last_modified, mark.is_late).hash(&mut hasher);
        }
        this.content_digest = hasher.finish();
        this
    }

    fn find(&self, place: Place) -> Option<Found<'_>> {
        match place {
            Place::Entry(index) => self.entries.rows.get(index).map(Found::Entry),
            Place::Gone(index) => self.entries.gone.get(index).map(Found::Gone),
        }
    }

    fn name<'t>(&self, key: &'t CollectionKey, id: &'t str) -> &'t str {
        match self.naming {
            Naming::InBucket => &key.collection,
            Naming::Monitored => id,
        }
    }

    fn at(&self, place: usize) -> Option<Found<'_>> {
        self.find(*self.by_seq.get(place)?)
    }
}

fn seq(entry: &MonitorEntry) -> Seq {
    entry.late.unwrap_or(Seq::of(entry.last_modified))
}

impl Table for Collections {
    fn lineage(&self) -> u64 {
        self.list.lineage
    }

    fn began(&self) -> Seq {
        Seq::of(self.entries.first_known)
    }

    fn serial(&self) -> u64 {
        self.entries.generation
    }

    fn newest_seq(&self) -> Seq {
        let Entries { high, .. } = &*self.entries;
        *high
    }

    fn digest(&self) -> u64 {
        self.content_digest
    }

    fn count(&self) -> usize {
        self.by_seq.len()
    }

    fn mark(&self, place: usize) -> Option<Mark<'_>> {
        Some(match self.at(place)? {
            Found::Entry(entry) => Mark {
                seq: seq(entry),
                last_modified: entry.last_modified,
                is_late: entry.late.is_some(),
                serial: entry.generation,
                born: Timestamp::ZERO,
                id: self.name(&entry.key, &entry.id),
            },
            Found::Gone(gone) => Mark {
                seq: gone.seen,
                last_modified: gone.seen.at,
                is_late: true,
                serial: gone.generation,
                born: Timestamp::ZERO,
                id: self.name(&gone.key, &gone.id),
            },
        })
    }

    /// Another sidecar may have heard of newer collections first.
    fn may_hide(&self, _place: usize, _since: Timestamp) -> bool {
        true
    }

    fn json(&self, place: usize) -> (Bytes, bool) {
        let Some(found) = self.at(place) else { return Default::default() };
        let (key, id, timestamp, deleted) = match found {
            Found::Entry(entry) => (&entry.key, &entry.id, entry.last_modified, false),
            Found::Gone(gone) => (&gone.key, &gone.id, gone.seen.at, true),
        };
        let (id, timestamp) = (json!(self.name(key, id)), timestamp.0);
        let (bucket, collection) = (json!(&*key.bucket), json!(&*key.collection));
        let mut text =
            format!(r#"{{"id":{id},"last_modified":{timestamp},"bucket":{bucket},"collection":{collection}"#);
        match (deleted, self.naming) {
            (true, _) => text.push_str(r#","deleted":true"#),
            (false, Naming::InBucket) => {}
            (false, Naming::Monitored) => {
                text.push_str(r#","host":"#);
                text.push_str(&json!(self.list.host()).to_string());
            }
        }
        text.push('}');
        (text.into(), deleted)
    }

    fn given(&self) -> &Given {
        &self.list.given
    }

    fn heed(&self, seq: Seq) {
        self.list.heed(seq);
    }

    fn heard(&self) -> Seq {
        self.list.heard()
    }

    fn overlap(&self) -> Duration {
        self.overlap
    }
}
