//! What Remote Settings' readers see: the monitored collections that anybody may read, and what is made of them.

pub mod attachments;
pub mod bundles;
pub mod public;
pub mod published;
mod servers;
pub mod signatures;
