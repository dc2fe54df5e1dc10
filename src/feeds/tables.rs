//! The tables that there are feeds of.

pub mod collections;
pub mod history;
pub mod records;
