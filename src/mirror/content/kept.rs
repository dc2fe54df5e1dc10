//! A content as it is kept on disk: what is known of each row, and the rows' bytes as they are.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Content, Row, hash};
use crate::kinto::Timestamp;
use crate::kinto::seq::Seq;
use crate::upstream::kinto::Metadata;

/// All of a content but its rows' bytes, which stand behind it.
#[derive(Serialize, Deserialize)]
struct KeptContent {
    metadata: String,
    metadata_modified: u64,
    timestamp: u64,
    serial: u64,
    rows: Vec<KeptRow>,
    high: String,
    lone: Vec<u64>,
    began: u64,
    #[serde(default)]
    remembers: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct KeptRow {
    id: String,
    last_modified: u64,
    deleted: bool,
    is_marked: bool,
    late: Option<u64>,
    invented: bool,
    found: u64,
    seq: String,
    serial: u64,
    witnessed: bool,
    #[serde(default)]
    born: u64,
    bytes: usize,
}

impl Content {
    /// What [`Content::revive`] makes the same content of: a line, and the rows.
    pub fn to_keep(&self) -> Option<(Vec<u8>, Bytes)> {
        let numbers = |timestamps: &[Timestamp]| timestamps.iter().map(|timestamp| timestamp.0).collect();
        let kept = KeptContent {
            metadata: String::from_utf8(self.metadata.json.to_vec()).ok()?,
            metadata_modified: self.metadata.last_modified.0,
            timestamp: self.timestamp.0,
            serial: self.serial,
            rows: self.rows.iter().map(KeptRow::of).collect(),
            high: self.high.to_string(),
            lone: numbers(&self.lone),
            began: self.began.0,
            remembers: self.remembers.map(|since| since.0),
        };
        Some((serde_json::to_vec(&kept).ok()?, self.bytes.clone()))
    }

    /// The content that was kept; `None` where this is none.
    pub fn revive(line: &[u8], bytes: Bytes) -> Option<Self> {
        let kept: KeptContent = serde_json::from_slice(line).ok()?;
        let metadata =
            Metadata { json: Bytes::from(kept.metadata), last_modified: Timestamp(kept.metadata_modified) };
        let mut rows = Vec::with_capacity(kept.rows.len());
        let mut start = 0_usize;
        for row in kept.rows {
            if !rows.is_empty() {
                start = start.checked_add(1)?;
            }
            let place = start..start.checked_add(row.bytes)?;
            let json = bytes.get(place.clone())?;
            let row = Row {
                id: row.id.into(),
                last_modified: Timestamp(row.last_modified),
                deleted: row.deleted,
                is_marked: row.is_marked,
                late: row.late.map(Timestamp),
                invented: row.invented,
                found: Timestamp(row.found),
                seq: Seq::parse(&row.seq)?,
                serial: row.serial,
                witnessed: row.witnessed,
                born: Timestamp(row.born),
                hash: hash(json),
                place,
            };
            start = row.place.end;
            rows.push(row);
        }
        if bytes.len() != start {
            return None;
        }
        Some(Self {
            serial: kept.serial,
            high: Seq::parse(&kept.high)?,
            lone: kept.lone.into_iter().map(Timestamp).collect(),
            began: Timestamp(kept.began),
            remembers: kept.remembers.map(Timestamp),
            ..Self::of(metadata, Timestamp(kept.timestamp), rows, bytes)
        })
    }
}

impl KeptRow {
    fn of(row: &Row) -> Self {
        Self {
            id: row.id.to_string(),
            last_modified: row.last_modified.0,
            deleted: row.deleted,
            is_marked: row.is_marked,
            late: row.late.map(|late| late.0),
            invented: row.invented,
            found: row.found.0,
            seq: row.seq.to_string(),
            serial: row.serial,
            witnessed: row.witnessed,
            born: row.born.0,
            bytes: row.place.len(),
        }
    }
}
