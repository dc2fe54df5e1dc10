#![forbid(unsafe_code)]
//! A reverse proxy that stands in front of a Kinto and adds what its plugins would.

pub mod access;
pub mod app;
pub mod body;
pub mod cache_control;
pub mod cli;
pub mod compression;
pub mod conditional;
pub mod cors;
pub mod endpoints;
pub mod error;
pub mod forward;
pub mod handler;
pub mod headers;
pub mod kinto;
pub mod metrics;
pub mod mirror;
pub mod observe;
pub mod purge;
pub mod query;
pub mod request_id;
pub mod route;
pub mod server;
pub mod settings;
pub mod telemetry;
pub mod timeline;
pub mod upstream;
