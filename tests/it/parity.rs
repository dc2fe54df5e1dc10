//! The same requests to a Kinto with a plugin (kinto-changes 4.1.2, or Kinto's own history) and to a plain Kinto behind the
//! sidecar, over the same writes.
//!
//! Status, headers that clients read and body have to be the same. Where the sidecar means to differ, the table of
//! differences says why, and both answers are checked.

mod ask;
mod changesets;
mod compare;
mod differences;
mod history;
mod lists;
mod others;
mod queries;
mod world;
