#![forbid(unsafe_code)]
//! A reverse proxy that stands in front of a Kinto and adds, with no plugin there, what kinto-changes gives.
//!
//! # Five minutes
//!
//! - **A request** comes in at [`server`] (one thread and one runtime for each core), and its whole life can be read from
//!   top to bottom in [`handler`]. [`route`] says whose it is: the closed table of what the sidecar answers itself, under
//!   [`endpoints`], and everything else, which [`forward`] passes on unchanged.
//! - **A write** that passes goes through [`writes`] before its client has the answer: into the [`journal`], where the
//!   sidecar keeps the history, to the [`timeline`] (newest timestamp of each collection) and to [`access`] (who may read
//!   what, as the upstream said). [`history`] shows who wrote what to those who may see it.
//! - **A change** moves a collection's [`timeline::clock`]. Whoever next asks for its changeset finds the [`mirror`] behind
//!   the clock, and one delta brings it up to date for all. Changes that pass elsewhere are found by [`timeline::poll`].
//! - **An answer** is a slice of bytes that are already there ([`mirror::content`], [`timeline::document`]), compressed
//!   once ([`wire::variants`]), dressed for caches ([`wire::cache_control`]) and browsers ([`wire::cors`]).
//! - **A feed** ([`feeds`]) is an answer that goes on: its reader holds a position, is woken by thread, and is given what
//!   was written once for all.
//! - **A restart** begins with what [`warm`] kept on disk: old until Kinto was asked, and given out as such.
//! - **Kinto** is spoken to by [`upstream`] alone; its words are in [`kinto`], its list language in [`query`], its errors in
//!   [`error`].
//!
//! The upstream decides every permission; the sidecar copies no access control.
//!
//! # Floors
//!
//! Imports run down this table, or along a row, and nowhere in a circle; `tests/it/floors.rs` holds them to it.
//!
//! | rooms | what they know |
//! | --- | --- |
//! | `serve`, `commands`, `cli`, `telemetry` | how the process begins and ends, and what the operator is told |
//! | `server` | connections: who has a place, where a head ends, TLS |
//! | `handler` | the life of a request |
//! | `endpoints`, `forward` | what the sidecar answers itself, and what it passes on |
//! | `condition` | how the sidecar is, and what is wrong |
//! | `app`, `route` | what all requests share, and whose a request is |
//! | `access_log` | what is told of each request |
//! | `feeds` | live and normal feeds |
//! | `history` | who sees what of what was written by whom |
//! | `writes`, `purge`, `traces` | one life of a write, and what it means for others; the caches in front; the collector of spans |
//! | `history/keeper` | whose the history is |
//! | `remote_settings` | what anybody may read, as Remote Settings' readers have it |
//! | `warm` | what the next process begins with |
//! | `mirror` | contents of collections |
//! | `timeline` | timestamps of collections, and when to ask for them |
//! | `access` | who may read what, as the upstream said |
//! | `journal` | entries and intents on disk |
//! | `aside`, `error` | work that takes long; what clients are told when something is wrong |
//! | `upstream` | Kinto, over HTTP |
//! | `metrics` | what is counted |
//! | `upstream/error`, `upstream/ended` | why the upstream gave no answer |
//! | `query`, `wire` | Kinto's list language; what HTTP needs and nobody else knows |
//! | `settings` | what the operator wrote |
//! | `phase` | whether the process serves, drains or stops; whether the one before it still does |
//! | `complaint`, `troubles`, `log_stream` | what an operator can mend, and how; what the log was last told of; the way of its lines |
//! | `current` | the request that a task is about |
//! | `kinto`, `bounded`, `backoff`, `cache`, `atomics` | Kinto's words; JSON of strangers, counted while it is read; pauses between tries; what is kept for a while; what is decided without a lock |
//! | `chapters` | nothing: they are for people |
//!
//! # Invariants
//!
//! - Only [`upstream`] speaks to Kinto, and only [`journal`] to a database.
//! - [`query`] does no I/O, and nothing that it reads is waited for.
//! - What goes wrong below [`endpoints`] is an [`error::Error`], which alone becomes an answer, and is told to the log there.
//! - Nothing is told to a client of a write before the [`journal`] has it.
//! - A body that is read whole is counted in [`wire::buffers`] while it is held.

pub mod access;
pub mod access_log;
pub mod app;
mod aside;
mod atomics;
mod backoff;
pub mod bounded;
mod cache;
pub mod chapters;
pub mod cli;
pub mod commands;
mod complaint;
pub mod condition;
pub mod current;
pub mod endpoints;
pub mod error;
pub mod feeds;
pub mod forward;
pub mod handler;
pub mod history;
pub mod journal;
pub mod kinto;
mod log_stream;
pub mod metrics;
pub mod mirror;
pub mod phase;
pub mod purge;
pub mod query;
pub mod remote_settings;
pub mod route;
pub mod serve;
pub mod server;
pub mod settings;
pub mod telemetry;
pub mod timeline;
pub mod traces;
pub mod troubles;
pub mod upstream;
pub(crate) mod warm;
pub mod wire;
pub mod writes;
