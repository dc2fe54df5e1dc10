//! What a program that copies a collection asks for, by CouchDB's names for it.

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replication {
    /// Documents by their ids: `_bulk_get`.
    Documents,
    /// Versions of one document: `{id}?open_revs=…`.
    Document(String),
    /// A checkpoint of the requester's, which says how far their program has come: `_local/{id}`.
    Checkpoint(String),
    /// To be told that everything is on the disk: `_ensure_full_commit`.
    Commit,
    /// To write: `_revs_diff`, `_bulk_docs`.
    Push,
}

impl Replication {
    /// What a path below a collection asks for.
    pub(super) fn of(leaf: &str) -> Option<Self> {
        match leaf {
            "_bulk_get" => Some(Self::Documents),
            "_ensure_full_commit" => Some(Self::Commit),
            "_revs_diff" | "_missing_revs" | "_bulk_docs" => Some(Self::Push),
            // They are Kinto's.
            "records" | "changeset" => None,
            _ if leaf.starts_with("records/") => None,
            _ => match leaf.strip_prefix("_local/") {
                Some(checkpoint) => Some(Self::Checkpoint(super::id(checkpoint)?.into_owned())),
                None if leaf.starts_with('_') => None,
                None => Some(Self::Document(super::id(leaf)?.into_owned())),
            },
        }
    }

    /// The methods that it knows.
    pub(super) fn methods(&self) -> &'static str {
        match self {
            Self::Documents | Self::Commit | Self::Push => "POST, OPTIONS",
            Self::Document(_) => "GET, HEAD, OPTIONS",
            Self::Checkpoint(_) => "GET, HEAD, PUT, DELETE, OPTIONS",
        }
    }

    /// Whether a query asks for a document in CouchDB's way. Below a collection, Kinto knows no such path, but a plugin may.
    pub fn is_asked(&self, query: Option<&str>) -> bool {
        let is_about_revisions = |pair: &str| pair.starts_with("open_revs=");
        !matches!(self, Self::Document(_))
            || query.is_some_and(|query| query.split('&').any(is_about_revisions))
    }
}
