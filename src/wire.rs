//! What HTTP needs and nobody else knows: bodies, headers, codings, and who is at the other end.

pub mod arrival;
pub mod body;
pub mod buffers;
pub mod cache_control;
pub mod compression;
pub mod cors;
pub mod dictionaries;
pub(crate) mod duplex;
pub mod headers;
pub mod host;
pub mod inbound;
pub mod lent;
pub(crate) mod limited;
pub mod peer;
pub mod request_id;
pub(crate) mod stall;
pub mod tagged;
pub(crate) mod turns;
pub mod variants;
pub mod vary;
pub mod via;
