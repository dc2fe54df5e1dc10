//! Kinto's list language, pure: parameters of a query, and what they select, over any kind of row.
//!
//! Follows `kinto.core.resource` (`Resource._plural_get` and what it calls), `kinto.core.resource.schema` and
//! `kinto.core.storage.memory`; its 400s are Kinto's to the letter.

mod invalid;
mod parameters;
pub(crate) mod python;

pub use invalid::{Fault, Invalid};
pub use parameters::{Parameters, decode, pairs};
