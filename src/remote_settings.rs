//! What Remote Settings' readers see: the monitored collections that anybody may read.

pub mod public;
