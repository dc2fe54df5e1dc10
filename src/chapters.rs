//! The chapters for people: what is too much for the README. They are files of Markdown in `src/chapters`, to be read there, too.

#[doc = include_str!("chapters/differences.md")]
pub mod differences {}

#[doc = include_str!("chapters/feeds.md")]
pub mod feeds {}

#[doc = include_str!("chapters/figures.md")]
pub mod figures {}

#[doc = include_str!("chapters/history.md")]
pub mod history {}

#[doc = include_str!("chapters/moving.md")]
pub mod moving {}

#[doc = include_str!("chapters/operating.md")]
pub mod operating {}

#[doc = include_str!("chapters/remote_settings.md")]
pub mod remote_settings {}

#[doc = include_str!("chapters/security.md")]
pub mod security {}

#[doc = include_str!("chapters/settings.md")]
pub mod settings {}
