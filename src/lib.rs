#![forbid(unsafe_code)]
//! A reverse proxy that stands in front of a Kinto and adds what its plugins would.

pub mod cache_control;
pub mod endpoints;
pub mod kinto;
pub mod mirror;
pub mod query;
pub mod settings;
pub mod timeline;
