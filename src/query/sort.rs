//! Sorting, and the tokens by which a page says where the next one begins.
//!
//! Follows `_extract_sorting` and `_extract_pagination_rules_from_token` of `kinto.core.resource`. Kinto continues after
//! the last row's values, and so loses rows that share them with it; here the row's id is the last sort key and part of the
//! token, which loses none. A token names the order that it belongs to and carries a checksum: it is good for
//! nothing else than being sent back as it is.

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

#[derive(Serialize, Deserialize)]
struct Token {
    sorting: Vec<Sort>,
    /// An empty list for a value that is not there.
    after: Vec<Vec<Value>>,
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

/// The token of a page that ends with this position.
pub(super) fn write_token(sorting: &[Sort], last: &Position) -> String {
    let after = last.iter().map(|value| value.iter().cloned().collect()).collect();
    let token = Token { sorting: sorting.to_vec(), after };
    let mut bytes = serde_json::to_vec(&token).unwrap_or_default();
    let checksum = checksum(&bytes);
    bytes.extend_from_slice(&checksum);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The position that a token names.
pub(super) fn read_token(token: &str, sorting: &[Sort]) -> Result<Position, Invalid> {
    let position = || {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (content, sum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM_BYTES)?)?;
        if sum != checksum(content) {
            return None;
        }
        let token: Token = serde_json::from_slice(content).ok()?;
        let fits = token.sorting == sorting && token.after.len() == sorting.len();
        fits.then(|| token.after.into_iter().map(|value| value.into_iter().next()).collect())
    };
    position().ok_or_else(|| Invalid::unnamed("_token has invalid content"))
}

fn checksum(content: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest: [u8; 32] = Sha256::new().chain_update(b"page").chain_update(content).finalize().into();
    let mut sum = [0; CHECKSUM_BYTES];
    sum.iter_mut().zip(digest).for_each(|(place, byte)| *place = byte);
    sum
}
