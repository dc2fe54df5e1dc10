#![forbid(unsafe_code)]
//! A reverse proxy that stands in front of a Kinto and adds what its plugins would.

pub mod body;
pub mod cache_control;
pub mod compression;
pub mod endpoints;
pub mod error;
pub mod headers;
pub mod kinto;
pub mod mirror;
pub mod query;
pub mod route;
pub mod settings;
pub mod timeline;
pub mod upstream;
