//! What a history entry is about.

use std::fmt;

use super::escape::segment;

/// The kinds of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceName {
    /// A bucket.
    Bucket,
    /// A group.
    Group,
    /// A collection.
    Collection,
    /// A record.
    Record,
}

/// One object of Kinto, by the ids in its URI.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Object {
    /// `/buckets/{bucket}`
    Bucket(String),
    /// `/buckets/{bucket}/groups/{group}`
    Group(String, String),
    /// `/buckets/{bucket}/collections/{collection}`
    Collection(String, String),
    /// `/buckets/{bucket}/collections/{collection}/records/{record}`
    Record(String, String, String),
}

// === impl ResourceName ===

impl ResourceName {
    /// As Kinto writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bucket => "bucket",
            Self::Group => "group",
            Self::Collection => "collection",
            Self::Record => "record",
        }
    }
}

// === impl Object ===

impl Object {
    /// Its bucket's id.
    pub fn bucket(&self) -> &str {
        match self {
            Self::Bucket(bucket)
            | Self::Group(bucket, _)
            | Self::Collection(bucket, _)
            | Self::Record(bucket, ..) => bucket,
        }
    }

    pub(super) fn bucket_mut(&mut self) -> &mut String {
        match self {
            Self::Bucket(bucket)
            | Self::Group(bucket, _)
            | Self::Collection(bucket, _)
            | Self::Record(bucket, ..) => bucket,
        }
    }

    /// The id of the collection that it is or that it is in.
    pub fn collection(&self) -> Option<&str> {
        match self {
            Self::Collection(_, collection) | Self::Record(_, collection, _) => Some(collection),
            Self::Bucket(_) | Self::Group(..) => None,
        }
    }

    /// Its own id.
    pub fn id(&self) -> &str {
        match self {
            Self::Bucket(id) | Self::Group(_, id) | Self::Collection(_, id) | Self::Record(_, _, id) => id,
        }
    }

    /// The URI of the list that it is in.
    pub fn list(&self) -> String {
        let uri = self.to_string();
        uri.rsplit_once('/').map_or_else(String::new, |(list, _)| list.to_owned())
    }

    /// The objects that it is in, the bucket first.
    pub fn parents(&self) -> impl Iterator<Item = Self> + use<> {
        let bucket = (!matches!(self, Self::Bucket(_))).then(|| Self::Bucket(self.bucket().to_owned()));
        let collection = match self {
            Self::Record(bucket, collection, _) => Some(Self::Collection(bucket.clone(), collection.clone())),
            _ => None,
        };
        bucket.into_iter().chain(collection)
    }

    /// What kind of object it is.
    pub fn resource(&self) -> ResourceName {
        match self {
            Self::Bucket(_) => ResourceName::Bucket,
            Self::Group(..) => ResourceName::Group,
            Self::Collection(..) => ResourceName::Collection,
            Self::Record(..) => ResourceName::Record,
        }
    }
}

impl fmt::Display for Object {
    /// The URI, without the API version.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "/buckets/{}", segment(self.bucket()))?;
        match self {
            Self::Bucket(_) => Ok(()),
            Self::Group(_, group) => write!(formatter, "/groups/{}", segment(group)),
            Self::Collection(_, collection) => write!(formatter, "/collections/{}", segment(collection)),
            Self::Record(_, collection, record) => {
                write!(formatter, "/collections/{}/records/{}", segment(collection), segment(record))
            }
        }
    }
}
