//! The closed table of what the sidecar answers itself. Everything else, and every spelling of a path that is not
//! exactly one of these but for the escapes in its ids, is forwarded as it came: the sidecar and Kinto never see two
//! different resources in one path.

use std::borrow::Cow;

use http::Method;
use percent_encoding::percent_decode_str;

use crate::feeds::{Subject, View};
use crate::kinto::{CollectionKey, is_segment};
use crate::settings::{ChangesMode, Compat, HistoryMode, Settings};
use crate::wire::cors::Exposed;

mod replication;
mod v2;

pub use replication::Replication;
pub use v2::V2;

/// An endpoint of the sidecar's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// The list of timestamps.
    MonitorChanges,
    /// The list of timestamps as a changeset.
    MonitorChangeset,
    /// What push services are told.
    Broadcasts,
    /// A collection's changeset.
    Changeset(CollectionKey),
    /// A bucket's history.
    History(String),
    /// A collection at a moment, which is what stands behind the `@`.
    Snapshot(CollectionKey, String),
    /// What was done in a bucket between two moments.
    Diff(String),
    /// Undoing what was done in a bucket.
    Revert(String),
    /// What was deleted in a bucket.
    Bin(String),
    /// A collection is to be as it was at a moment.
    Restore(CollectionKey, String),
    /// A feed of changes.
    Feed(Subject),
    /// A collection as `CouchDB`'s clients ask for their database.
    Database(CollectionKey),
    /// What programs ask for that copy a collection.
    Replication(CollectionKey, Replication),
    /// What Remote Settings' readers ask for.
    V2(V2),
}

/// How an endpoint is asked, and what scripts may read of its answers.
#[derive(Debug, Clone, Copy)]
pub struct Manners {
    /// Its name in logs and metrics.
    pub name: &'static str,
    /// The methods that it knows, as `Allow` has them.
    pub methods: &'static str,
    /// The headers that scripts may read.
    pub exposed: Exposed,
}

impl Endpoint {
    /// How it is asked.
    pub fn manners(&self) -> Manners {
        const READ: &str = "GET, HEAD, OPTIONS";
        let (name, methods, exposed) = match self {
            Self::MonitorChanges => ("monitor-changes", READ, Exposed::List),
            Self::MonitorChangeset => ("monitor-changeset", READ, Exposed::Changeset),
            Self::Broadcasts => ("broadcasts", READ, Exposed::Plain),
            Self::Changeset(_) => ("changeset", READ, Exposed::Changeset),
            Self::History(_) => ("history", "GET, HEAD, DELETE, OPTIONS", Exposed::List),
            Self::Snapshot(..) => ("snapshot", READ, Exposed::Snapshot),
            Self::Diff(_) => ("history-diff", READ, Exposed::List),
            Self::Bin(_) => ("history-deleted", READ, Exposed::List),
            Self::Revert(_) => ("history-revert", "POST, OPTIONS", Exposed::Plain),
            Self::Restore(..) => ("snapshot-restore", "POST, OPTIONS", Exposed::Plain),
            Self::Feed(_) => ("feed", "GET, HEAD, POST, OPTIONS", Exposed::Feed),
            Self::Database(_) => ("database", READ, Exposed::Plain),
            Self::Replication(_, asked) => ("replication", asked.methods(), Exposed::Plain),
            Self::V2(v2) => (v2.name(), "GET, HEAD", Exposed::Changeset),
        };
        Manners { name, methods, exposed }
    }

    /// Whether it is the upstream's where that keeps the history itself.
    pub fn is_of_history(&self) -> bool {
        matches!(
            self,
            Self::History(_)
                | Self::Snapshot(..)
                | Self::Diff(_)
                | Self::Revert(_)
                | Self::Bin(_)
                | Self::Restore(..)
                | Self::Feed(Subject::History(..))
        )
    }

    /// Whether a batch may ask for it. Kinto answers for the others that it knows no such URL.
    pub fn is_in_batches(&self) -> bool {
        !matches!(
            self,
            Self::Feed(_)
                | Self::Database(_)
                | Self::Replication(..)
                | Self::Revert(_)
                | Self::Restore(..)
                | Self::V2(_)
        )
    }

    /// Whether scripts of pages that the operator names may ask with the credentials that a browser has.
    pub fn takes_credentials(&self) -> bool {
        matches!(self, Self::Feed(_) | Self::Database(_) | Self::Replication(..))
    }
}

impl Manners {
    /// Whether the endpoint knows this method.
    pub fn knows(&self, method: &Method) -> bool {
        self.methods.split(", ").any(|known| known == method.as_str())
    }
}

/// Who answers a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `GET /v1/`: the upstream's, with the sidecar's capabilities added.
    Root,
    /// `GET /v1/__api__`: likewise.
    Api,
    /// One of the sidecar's own endpoints.
    Own(Endpoint),
    /// `/v1/batch`, which may ask for any of the others.
    Batch,
    /// Anything else: the upstream answers.
    Forward,
}

impl Route {
    /// Reads a path as it came, without its query.
    pub fn of(path: &str, settings: &Settings) -> Self {
        let has_changes = settings.changes_mode != ChangesMode::Off;
        let has_history = matches!(settings.history_mode, HistoryMode::Auto | HistoryMode::Journal);
        if has_changes
            && settings.compat == Compat::RemoteSettings
            && let Some(v2) = V2::of(path, settings)
        {
            return Self::Own(Endpoint::V2(v2));
        }
        let Some(path) = path
            .strip_prefix('/')
            .and_then(|path| path.strip_prefix(&*settings.upstream.version))
            .filter(|path| path.starts_with('/'))
        else {
            return Self::Forward;
        };
        if let Some(endpoint) = of_feed(path) {
            let is_ours = match endpoint {
                Endpoint::Feed(Subject::Monitor) => has_changes,
                Endpoint::Feed(Subject::History(..)) => has_history,
                _ => true,
            };
            return if is_ours { Self::Own(endpoint) } else { Self::Forward };
        }
        if !has_changes && !has_history {
            return Self::Forward;
        }
        match path {
            "/" => return Self::Root,
            "/batch" => return Self::Batch,
            "/__api__" => return Self::Api,
            "/__broadcasts__" if has_changes => return Self::Own(Endpoint::Broadcasts),
            _ => {}
        }
        let Some((bucket, path)) = path.strip_prefix("/buckets/").and_then(|path| path.split_once('/'))
        else {
            return Self::Forward;
        };
        let endpoint = match path.strip_prefix("collections/") {
            Some(path) if has_changes => of_collection(bucket, path, settings),
            None if has_history => of_history(bucket, path),
            _ => None,
        };
        endpoint.map_or(Self::Forward, Self::Own)
    }

    /// The name of the endpoint in logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Api => "api",
            Self::Own(endpoint) => endpoint.manners().name,
            Self::Batch => "batch",
            Self::Forward => "forward",
        }
    }
}

/// Feeds, and what belongs to them, by the path below the version. Ids are read last: most paths lead elsewhere.
fn of_feed(path: &str) -> Option<Endpoint> {
    if path == "/_changes" {
        return Some(Endpoint::Feed(Subject::Monitor));
    }
    let (bucket, path) = path.strip_prefix("/buckets/")?.split_once('/')?;
    if path == "_changes" {
        return Some(Endpoint::Feed(Subject::Bucket((&*id(bucket)?).into())));
    }
    if path == "history/_changes" {
        return Some(Endpoint::Feed(Subject::History((&*id(bucket)?).into(), View::Everything)));
    }
    let (collection, leaf) = path.strip_prefix("collections/")?.split_once('/')?;
    let key = || Some(CollectionKey::new(&id(bucket)?, &id(collection)?));
    match leaf {
        // Some clients join a database's URL and what is below it with a slash of their own.
        "_changes" | "/_changes" => Some(Endpoint::Feed(Subject::Collection(key()?))),
        "" => Some(Endpoint::Database(key()?)),
        leaf => Replication::of(leaf).and_then(|asked| Some(Endpoint::Replication(key()?, asked))),
    }
}

fn of_collection(bucket: &str, path: &str, settings: &Settings) -> Option<Endpoint> {
    let (collection, leaf) =
        path.split_once('/').filter(|(_, leaf)| matches!(*leaf, "records" | "changeset"))?;
    let (bucket, collection) = (&*id(bucket)?, &*id(collection)?);
    let is_monitor = bucket == settings.changes.bucket && collection == settings.changes.collection;
    match (leaf, is_monitor) {
        ("records", true) => Some(Endpoint::MonitorChanges),
        ("changeset", true) => Some(Endpoint::MonitorChangeset),
        ("changeset", false) => Some(Endpoint::Changeset(CollectionKey::new(bucket, collection))),
        _ => None,
    }
}

fn of_history(bucket: &str, path: &str) -> Option<Endpoint> {
    let of_bucket = |endpoint: fn(String) -> Endpoint| Some(endpoint(id(bucket)?.into_owned()));
    match path {
        "history" => return of_bucket(Endpoint::History),
        "history/diff" => return of_bucket(Endpoint::Diff),
        "history/revert" => return of_bucket(Endpoint::Revert),
        "history/deleted" => return of_bucket(Endpoint::Bin),
        _ => {}
    }
    let place = path.strip_prefix("snapshot/collections/")?;
    let bucket = &*id(bucket)?;
    let (place, is_restored) = place.strip_suffix("/restore").map_or((place, false), |place| (place, true));
    let place = id(place)?;
    // Kinto: an id may have an `@`, a moment has none.
    let (collection, moment) = place.rsplit_once('@').filter(|(_, moment)| !moment.is_empty())?;
    let key = is_segment(collection).then(|| CollectionKey::new(bucket, collection))?;
    let endpoint = if is_restored { Endpoint::Restore } else { Endpoint::Snapshot };
    Some(endpoint(key, moment.to_owned()))
}

/// The id that a segment of a path names; `None` where servers in front of Kinto could read it in several ways.
fn id(segment: &str) -> Option<Cow<'_, str>> {
    let is_plain = segment.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'/'));
    let id = percent_decode_str(segment).decode_utf8().ok().filter(|id| is_plain && is_segment(id))?;
    let is_escaped =
        |rest: &str| rest.as_bytes().iter().take(2).filter(|b| b.is_ascii_hexdigit()).count() == 2;
    segment.split('%').skip(1).all(is_escaped).then_some(id)
}

#[cfg(test)]
mod tests;
