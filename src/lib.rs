#![forbid(unsafe_code)]
//! A reverse proxy that stands in front of a Kinto and adds, with no plugin there, what kinto-changes gives.
//!
//! # Five minutes
//!
//! - **A request** comes in at [`server`] (one thread and one runtime for each core), and its whole life can be read from
//!   top to bottom in [`handler`]. [`route`] says whose it is: the closed table of what the sidecar answers itself, under
//!   [`endpoints`], and everything else, which [`forward`] passes on unchanged.
//! - **A write** that passes is shown to [`observe`] before its client has the answer. It tells the [`timeline`] (newest
//!   timestamp of each collection) and [`access`] (who may read what, as the upstream said).
//! - **A change** moves a collection's [`timeline::clock`]. Whoever next asks for its changeset finds the [`mirror`] behind
//!   the clock, and one delta brings it up to date for all. Changes that pass elsewhere are found by [`timeline::poll`].
//! - **An answer** is a slice of bytes that are already there ([`mirror::content`], [`timeline::rendered`]), compressed
//!   once ([`compression`]), dressed for caches ([`cache_control`]) and browsers ([`cors`]).
//! - **A feed** ([`feeds`]) is an answer that goes on: its reader holds a position, is woken by thread, and is given what
//!   was written once for all.
//! - **Kinto** is spoken to by [`upstream`] alone; its words are in [`kinto`], its list language in [`query`], its errors in
//!   [`error`].
//!
//! Arrows point one way: `server → handler → endpoints, feeds, forward → timeline, mirror, access → upstream → kinto, body,
//! error`. The upstream decides every permission; the sidecar copies no access control.

pub mod access;
pub mod app;
mod aside;
pub mod body;
pub mod bounded;
pub mod buffers;
pub mod cache_control;
pub mod check;
pub mod cli;
pub mod compression;
pub mod conditional;
pub mod cors;
pub mod endpoints;
pub mod error;
pub mod feeds;
pub mod forward;
pub mod handler;
pub mod headers;
pub mod history;
pub mod history_cli;
pub mod journal;
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
