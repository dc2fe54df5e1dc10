//! What a feed is about.

use std::fmt;
use std::sync::Arc;

use crate::access::Credentials;
use crate::kinto::{CollectionKey, segment};

/// What a feed is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// The records of a collection.
    Collection(CollectionKey),
    /// The collections of a bucket.
    Bucket(Arc<str>),
    /// The monitored collections.
    Monitor,
    /// The entries of a bucket's history, as far as they are seen.
    History(Arc<str>, View),
}

/// How much of a history is seen.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum View {
    /// All of it.
    Everything,
    /// What somebody sees who may not read the whole bucket.
    Of(Credentials),
}

impl Subject {
    /// The bucket that it is in, where it is in one.
    pub fn bucket(&self) -> Option<&str> {
        match self {
            Self::Collection(key) => Some(&key.bucket),
            Self::Bucket(bucket) | Self::History(bucket, _) => Some(bucket),
            Self::Monitor => None,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Collection(key) => key.fmt(formatter),
            Self::Bucket(bucket) => write!(formatter, "/buckets/{}", segment(bucket)),
            Self::Monitor => formatter.write_str("the monitored collections"),
            Self::History(bucket, _) => write!(formatter, "/buckets/{}/history", segment(bucket)),
        }
    }
}
