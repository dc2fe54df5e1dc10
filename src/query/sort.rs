//! Sorting, and the tokens by which a page says where the next one begins.
//!
//! Follows `_extract_sorting` and `_extract_pagination_rules_from_token` of `kinto.core.resource`. Kinto continues after
//! the last row's values, and so loses rows that share them with it; here the row's id is the last sort key and part of the
//! token, which loses none. A token names the order that it belongs to and carries a checksum: it is good for
//! nothing else than being sent back as it is.
//!
//! The token of a page that was deleted names the first row that was left. The next page begins with that row, or it was
//! deleted before: so it is deleted once, with nothing to be kept of the tokens that were given.

use std::cmp::Ordering;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::fields::Fields;
use super::invalid::Invalid;
use super::order::compare;
use super::{MODIFIED, Rules};

const CHECKSUM_BYTES: usize = 8;

/// One sort key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sort {
    /// The path of the field.
    pub field: String,
    /// Greatest first.
    pub descending: bool,
}

/// The values of a row at the sort keys, its id last.
pub(super) type Position = Vec<Option<Value>>;

/// Where a page begins.
#[derive(Debug, Clone)]
pub(super) enum Start {
    /// After the last row of the page before, which was read.
    After(Position),
    /// With the first row that was left of the page before, which was deleted.
    At(Position),
}

#[derive(Serialize, Deserialize)]
struct Token {
    sorting: Vec<Sort>,
    #[serde(flatten)]
    start: TokenStart,
}

/// The values at the sort keys, an empty list for one that is not there.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum TokenStart {
    After(Vec<Vec<Value>>),
    At(Vec<Vec<Value>>),
}

/// The order that `_sort` asks for; newest first within it, and by id within that.
pub(super) fn read_sorting(specified: &[String], rules: &Rules<'_>) -> Result<Vec<Sort>, Invalid> {
    let mut sorting: Vec<Sort> = Vec::new();
    let mut add = |field: &str, descending| {
        if !sorting.iter().any(|sort| sort.field == field) {
            sorting.push(Sort { field: field.to_owned(), descending });
        }
    };
    for part in specified {
        let part = part.trim();
        let (descending, field) = match part.strip_prefix('-') {
            Some(field) => (true, field),
            None => (false, part.strip_prefix('+').unwrap_or(part)),
        };
        let is_path =
            !field.is_empty() && field.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.'));
        // Kinto: what does not look like a field is passed over in silence.
        if !is_path {
            continue;
        }
        if !rules.knows(field) {
            return Err(Invalid::unnamed(format!("Unknown sort field '{field}'")));
        }
        add(field, descending);
    }
    add(MODIFIED, true);
    add("id", false);
    Ok(sorting)
}

/// Where a row stands in an order.
pub(super) fn position(row: &impl Fields, sorting: &[Sort]) -> Position {
    sorting.iter().map(|sort| row.field(&sort.field).map(std::borrow::Cow::into_owned)).collect()
}

/// Which of two positions comes first.
pub(super) fn compare_positions(sorting: &[Sort], left: &Position, right: &Position) -> Ordering {
    let keys = sorting.iter().zip(left.iter().zip(right));
    let mut orders = keys.map(|(sort, (left, right))| {
        let order = compare(left.as_ref(), right.as_ref());
        if sort.descending { order.reverse() } else { order }
    });
    orders.find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

/// The token of a page that begins there.
pub(super) fn write_token(sorting: &[Sort], start: &Start) -> String {
    let values = |position: &Position| position.iter().map(|value| value.iter().cloned().collect()).collect();
    let start = match start {
        Start::After(position) => TokenStart::After(values(position)),
        Start::At(position) => TokenStart::At(values(position)),
    };
    let token = Token { sorting: sorting.to_vec(), start };
    let mut bytes = serde_json::to_vec(&token).unwrap_or_default();
    let checksum = checksum(&bytes);
    bytes.extend_from_slice(&checksum);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Where the page of a token begins.
pub(super) fn read_token(token: &str, sorting: &[Sort]) -> Result<Start, Invalid> {
    let start = || {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (content, sum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM_BYTES)?)?;
        if sum != checksum(content) {
            return None;
        }
        let token: Token = serde_json::from_slice(content).ok()?;
        let position = |values: Vec<Vec<Value>>| -> Option<Position> {
            let fits = token.sorting == sorting && values.len() == sorting.len();
            fits.then(|| values.into_iter().map(|value| value.into_iter().next()).collect())
        };
        Some(match token.start {
            TokenStart::After(values) => Start::After(position(values)?),
            TokenStart::At(values) => Start::At(position(values)?),
        })
    };
    start().ok_or_else(|| Invalid::unnamed("_token has invalid content"))
}

// === impl Start ===

impl Start {
    /// The position that it names.
    pub(super) fn position(&self) -> &Position {
        match self {
            Self::After(position) | Self::At(position) => position,
        }
    }

    /// Whether a row belongs on the pages before.
    pub(super) fn is_past(&self, sorting: &[Sort], row: &Position) -> bool {
        let order = compare_positions(sorting, row, self.position());
        order.is_lt() || order.is_eq() && matches!(self, Self::After(_))
    }
}

fn checksum(content: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest: [u8; 32] = Sha256::new().chain_update(b"page").chain_update(content).finalize().into();
    let mut sum = [0; CHECKSUM_BYTES];
    sum.iter_mut().zip(digest).for_each(|(place, byte)| *place = byte);
    sum
}
