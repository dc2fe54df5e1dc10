//! The chain of an object: its versions in the order in which they were Kinto's present ones, numbered over all its lives.
//!
//! Who copies a collection needs to know which of two versions is the newer one, also where one of them is a deletion, and
//! that one follows from the other. A `last_modified` does not say that: an object that is made anew may have an older one.
//! So a version that was ever told to anybody keeps its number for ever, whatever becomes of the entries. An older version
//! that is found when a newer one is in the chain stays out of it: at its end, it would win over the newer one.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use sha2::{Digest, Sha256};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::engine::Kind;
use super::rows::{CHUNK, at_once};
use super::statement::{Bound, Statement, timestamp, truth};
use crate::kinto::Timestamp;

pub(super) mod fill;
mod revisions;

pub(super) use revisions::{began, whole};

/// How many versions of an object are kept at least.
pub(super) const KEPT: u64 = 1000;
/// How many more there may be before the oldest are removed.
const SLACK: u64 = 100;

/// What a version of an object is called: `{generation}-{digest}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision {
    /// How many versions there were up to it.
    pub generation: u64,
    /// Tells it from all others of that number.
    pub digest: u128,
}

/// A version in a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub revision: Revision,
    /// Its `last_modified`.
    pub modified: Timestamp,
    /// Whether it is a deletion.
    pub deleted: bool,
    /// Whether it is known what was before it: the version before, or nothing.
    pub follows: bool,
}

/// The ends of chains, as far as they were read, and what was added to them.
#[derive(Debug, Default)]
pub(super) struct Chains {
    ends: HashMap<String, Option<Link>>,
    added: Vec<(String, Link)>,
}

/// How an object came to be at a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It was made: nothing was before, or a deletion.
    Made,
    /// It was seen, or changed.
    Moved,
    /// It was changed at the very moment of the version before, as Kinto on PostgreSQL may have it.
    AtOnce,
}

/// A version of an object as it was seen at Kinto.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The object.
    pub uri: String,
    /// The `last_modified` of the version.
    pub modified: Timestamp,
    /// Whether it is a deletion.
    pub deleted: bool,
}

/// What a version is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// It is the end of the object's chain.
    Known(Revision),
    /// It is in the chain, which went on since. That ends with the second.
    Passed(Revision, Revision),
    /// It is older than the end of the chain, which is this, and not in it.
    Older(Revision),
}

/// Up to where chains were made: a history, and an object in it.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    pub(super) history: i64,
    pub(super) uri: String,
}

// === impl Revision ===

impl Revision {
    /// Reads what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        let (generation, digest) = text.split_once('-')?;
        let is_digest = digest.len() == 32 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        let generation = generation.parse().ok().filter(|generation| *generation > 0)?;
        let digest = u128::from_str_radix(digest, 16).ok().filter(|_| is_digest)?;
        Some(Self { generation, digest })
    }

    /// The digest as it is written.
    pub fn hex(self) -> String {
        format!("{:032x}", self.digest)
    }

    /// The name of what follows on a version.
    fn next(before: Option<Self>, uri: &str, modified: Timestamp, deleted: bool) -> Self {
        let generation = before.map_or(0, |before| before.generation).saturating_add(1);
        let before = before.map_or(0, |before| before.digest);
        let digest = Sha256::digest(format!("{before:032x} {generation} {modified} {deleted} {uri}"));
        let digest = digest.iter().take(16).fold(0, |digest: u128, byte| digest << 8 | u128::from(*byte));
        Self { generation, digest }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{:032x}", self.generation, self.digest)
    }
}

// === impl Link ===

/// The columns of [`Link::read`].
const COLUMNS: &str = "v.uri, v.generation, v.modified, v.deleted, v.follows, v.digest";

impl Link {
    /// Reads a row with [`COLUMNS`].
    fn read(row: &AnyRow) -> sqlx::Result<(String, Self)> {
        let digest: String = row.try_get(5)?;
        let digest = u128::from_str_radix(&digest, 16).map_err(|error| sqlx::Error::Decode(error.into()))?;
        let generation = u64::try_from(row.try_get::<i64, _>(1)?).unwrap_or_default();
        let link = Self {
            revision: Revision { generation, digest },
            modified: timestamp(row, 2)?,
            deleted: truth(row, 3)?,
            follows: truth(row, 4)?,
        };
        Ok((row.try_get(0)?, link))
    }

    /// Whether it is this version.
    fn is_of(&self, modified: Timestamp, deleted: bool) -> bool {
        (self.modified, self.deleted) == (modified, deleted)
    }
}

// === impl Chains ===

impl Chains {
    /// Reads the ends of these objects' chains.
    pub(super) async fn read(
        &mut self,
        connection: &mut AnyConnection,
        uris: &BTreeSet<String>,
    ) -> sqlx::Result<()> {
        let unknown: Vec<&String> = uris.iter().filter(|uri| !self.ends.contains_key(*uri)).collect();
        for (uri, end) in ends(connection, &unknown).await? {
            self.ends.insert(uri, Some(end));
        }
        for uri in unknown {
            self.ends.entry(uri.clone()).or_default();
        }
        Ok(())
    }

    /// The end of a chain that was read.
    pub(super) fn end(&self, uri: &str) -> Option<Link> {
        *self.ends.get(uri)?
    }

    /// Enters a version of an object whose chain was read, unless it is there or is older than what is.
    pub(super) fn enter(&mut self, uri: &str, modified: Timestamp, deleted: bool, step: Step) {
        let end = self.end(uri);
        let is_next = end.is_none_or(|end| match step {
            _ if modified > end.modified => true,
            Step::Made => end.deleted && !deleted,
            Step::Moved => modified == end.modified && deleted && !end.deleted,
            Step::AtOnce => modified == end.modified,
        });
        if is_next {
            self.append(uri, modified, deleted, end.is_some() || step == Step::Made);
        }
    }

    /// Enters a version that is known to follow on the end of the chain.
    pub(super) fn append(&mut self, uri: &str, modified: Timestamp, deleted: bool, follows: bool) {
        let before = self.end(uri).map(|end| end.revision);
        let revision = Revision::next(before, uri, modified, deleted);
        self.add(uri, Link { revision, modified, deleted, follows });
    }

    /// Adds what is the end of a chain from now on.
    pub(super) fn add(&mut self, uri: &str, link: Link) {
        self.ends.insert(uri.to_owned(), Some(link));
        self.added.push((uri.to_owned(), link));
    }

    /// Writes what was added.
    pub(super) async fn store(&mut self, connection: &mut AnyConnection) -> sqlx::Result<()> {
        let kind = Kind::of(connection);
        let added = std::mem::take(&mut self.added);
        for added in added.chunks(at_once(kind)) {
            let rows = added.iter().map(|(uri, link)| -> [Bound; 6] {
                let generation = i64::try_from(link.revision.generation).unwrap_or(i64::MAX);
                let digest = link.revision.hex();
                [
                    uri.as_str().into(),
                    generation.into(),
                    link.modified.into(),
                    link.deleted.into(),
                    link.follows.into(),
                    digest.into(),
                ]
            });
            let into = "sidecar_versions (uri, generation, modified, deleted, follows, digest)";
            Statement::insert(kind, into, rows.collect()).execute(connection).await?;
        }
        for (uri, link) in &added {
            let generation = link.revision.generation;
            if generation > KEPT && generation.is_multiple_of(SLACK) {
                let last = i64::try_from(generation - KEPT).unwrap_or(i64::MAX);
                let old = Statement::new("DELETE FROM sidecar_versions WHERE uri = ").bind(uri.as_str());
                // When the last life ended stays known.
                let old = old.push(" AND generation <= ").bind(last).push(
                    " AND generation <> COALESCE((SELECT max(generation) FROM sidecar_versions AS ends \
                     WHERE ends.deleted = 1 AND ends.uri = ",
                );
                old.bind(uri.as_str()).push("), 0)").execute(connection).await?;
            }
        }
        Ok(())
    }
}

/// The ends of chains.
pub(super) async fn ends(
    connection: &mut AnyConnection,
    uris: &[impl AsRef<str>],
) -> sqlx::Result<Vec<(String, Link)>> {
    let mut ends = Vec::new();
    for uris in uris.chunks(CHUNK) {
        let select =
            Statement::new("WITH given (uri) AS (VALUES ").rows(uris.iter().map(|uri| [uri.as_ref()]));
        let select = select.push(&format!(") SELECT {COLUMNS} FROM given "));
        let select = select.push(match Kind::of(connection) {
            Kind::Sqlite => {
                "JOIN sidecar_versions v ON v.uri = given.uri AND v.generation = \
                 (SELECT max(generation) FROM sidecar_versions WHERE uri = given.uri)"
            }
            // It would rather read all versions than look for some.
            Kind::Postgres => {
                "CROSS JOIN LATERAL (SELECT * FROM sidecar_versions WHERE uri = given.uri \
                 ORDER BY generation DESC LIMIT 1) v"
            }
        });
        for row in select.fetch(connection).await? {
            ends.push(Link::read(&row)?);
        }
    }
    Ok(ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_read_as_it_is_written() {
        let first = Revision::next(None, "/buckets/a", Timestamp(5), false);
        let second = Revision::next(Some(first), "/buckets/a", Timestamp(6), true);
        assert_eq!((first.generation, second.generation), (1, 2));
        assert_ne!(first.digest, second.digest);
        assert_eq!(Revision::parse(&second.to_string()), Some(second));
        for text in
            ["", "1-", "1-5", "0-00000000000000000000000000000001", "1-0000000000000000000000000000000g"]
        {
            assert_eq!(Revision::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_chain_grows_by_what_follows_on_its_end() {
        use Step::{AtOnce, Made, Moved};
        let mut chains = Chains::default();
        let uri = "/buckets/a";
        for (modified, deleted, step, generation) in [
            (5, false, Moved, 1),
            (5, false, Moved, 1),
            (5, false, AtOnce, 2),
            (4, false, Moved, 2),
            (4, false, Made, 2),
            (6, false, Moved, 3),
            (6, true, Moved, 4),
            (5, false, Moved, 4),
            (4, false, Made, 5),
            (5, true, Moved, 6),
        ] {
            chains.enter(uri, Timestamp(modified), deleted, step);
            let end = chains.end(uri).unwrap();
            assert_eq!(end.revision.generation, generation, "{modified} {deleted} {step:?}");
        }
        assert!(!chains.added[0].1.follows, "it was seen when it was there already");
        assert!(chains.added[1].1.follows);
    }
}
