//! What there is to know of a setting before anybody writes it, and the setting as it is in force.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use super::error::Origin;
use super::names::Environment;
use super::redacted;

/// What can be written: its name, and all that is the same in every process.
#[derive(Debug)]
pub struct Key {
    /// The name in the file and in `--set`, without Kinto's optional prefix.
    pub name: &'static str,
    /// What it is about, together with its neighbours.
    pub section: &'static str,
    /// The named flag, where there is one.
    pub flag: Option<Flag>,
    /// What is in force where nobody says anything.
    pub fallback: Fallback,
    /// What it is for, in Markdown.
    pub meaning: &'static str,
    /// The name in kinto-changes 0.x.
    pub former: Option<&'static str>,
    /// Whether it may change while the process runs.
    pub is_live: bool,
    /// Whether a blank text means an empty list, and not the default.
    pub(super) takes_blank: bool,
    /// SECURITY: whether this text of it must not be shown.
    pub(super) is_secret: fn(&str) -> bool,
}

/// A named flag of the command line.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Its name, without the dashes.
    pub long: &'static str,
    /// What its value is called; `None` for a switch.
    pub value: Option<&'static str>,
}

/// A setting's default.
#[derive(Clone, Copy, Debug)]
pub enum Fallback {
    /// As it would be written; blank for nothing.
    Text(&'static str),
    /// Found at start.
    Found {
        /// In which way, in Markdown.
        how: &'static str,
        /// As it would be written.
        find: fn(&Environment) -> String,
    },
}

impl Key {
    pub(super) const fn new(
        section: &'static str,
        name: &'static str,
        default: &'static str,
        meaning: &'static str,
    ) -> Self {
        Self {
            name,
            section,
            flag: None,
            fallback: Fallback::Text(default),
            meaning,
            former: None,
            is_live: false,
            takes_blank: false,
            is_secret: |_| false,
        }
    }

    pub(super) const fn flag(self, long: &'static str, value: &'static str) -> Self {
        Self { flag: Some(Flag { long, value: Some(value) }), ..self }
    }

    pub(super) const fn switch(self, long: &'static str) -> Self {
        Self { flag: Some(Flag { long, value: None }), ..self }
    }

    pub(super) const fn found(self, how: &'static str, find: fn(&Environment) -> String) -> Self {
        Self { fallback: Fallback::Found { how, find }, ..self }
    }

    pub(super) const fn formerly(self, name: &'static str) -> Self {
        Self { former: Some(name), ..self }
    }

    pub(super) const fn live(self) -> Self {
        Self { is_live: true, ..self }
    }

    pub(super) const fn takes_blank(self) -> Self {
        Self { takes_blank: true, ..self }
    }

    pub(super) const fn secret(self, is_secret: fn(&str) -> bool) -> Self {
        Self { is_secret, ..self }
    }

    /// The default, as it would be written in this environment.
    pub(super) fn default(&self, environment: &Environment) -> String {
        match self.fallback {
            Fallback::Text(text) => text.to_owned(),
            Fallback::Found { find, .. } => find(environment),
        }
    }

    /// Its meaning, and whether a new process is needed for another value.
    pub fn described_meaning(&self) -> String {
        format!("{}{}", self.meaning, at_start_only(self.is_live))
    }

    /// The key's row in a Markdown table of key, flag, default, whether it may change while the process runs, and meaning.
    pub fn markdown_row(&self) -> String {
        let mut row = format!("| `{}` | ", self.name);
        match self.flag {
            Some(Flag { long, value: Some(value) }) => _ = write!(row, "`--{long} {value}`"),
            Some(Flag { long, value: None }) => _ = write!(row, "`--{long}`"),
            None => {}
        }
        let live = if self.is_live { "yes" } else { "" };
        _ = write!(row, " | {} | {live} | {} |", self.described_default(), self.meaning);
        row
    }

    /// The default for people, in Markdown.
    pub fn described_default(&self) -> String {
        match self.fallback {
            Fallback::Text("") => "none".to_owned(),
            Fallback::Text(text) => format!("`{text}`"),
            Fallback::Found { how, .. } => how.to_owned(),
        }
    }
}

/// What is said of settings that need a new process.
pub fn at_start_only(is_live: bool) -> &'static str {
    if is_live { "" } else { " [at start only]" }
}

/// A setting in force.
#[derive(Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its name; of the family of `record_cache_expires_seconds` as it was written.
    pub name: Cow<'static, str>,
    /// What it is about, together with its neighbours.
    pub section: &'static str,
    /// Where it was written.
    pub origin: Origin,
    /// Whether it may change while the process runs.
    pub is_live: bool,
    pub(super) text: String,
    is_secret: bool,
}

impl Setting {
    pub(super) fn new(key: &Key, name: Cow<'static, str>, text: String, origin: Origin) -> Self {
        let is_secret = (key.is_secret)(&text);
        Self { name, section: key.section, origin, is_live: key.is_live, text, is_secret }
    }

    /// Whether it is one of many that share a meaning, and not in [`super::KEYS`] by its own name.
    pub(super) fn is_of_family(&self) -> bool {
        matches!(self.name, Cow::Owned(_))
    }

    /// Its value, as it was written or would be, without what lets anybody in.
    pub fn shown(&self) -> Cow<'_, str> {
        redacted::shown(&self.text, self.is_secret)
    }
}

impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {:?} ({})", self.name, self.shown(), self.origin)
    }
}

#[cfg(test)]
mod tests {
    use super::Key;

    #[test]
    fn a_row_says_key_flag_default_whether_it_may_change_and_meaning() {
        let key = Key::new("Mirrors", "sidecar.overlap", "10s", "how far back");
        assert_eq!(
            key.flag("overlap", "DURATION").live().markdown_row(),
            "| `sidecar.overlap` | `--overlap DURATION` | `10s` | yes | how far back |"
        );
        let key = Key::new("Changes", "sidecar.exclusive", "false", "no polling").switch("exclusive");
        assert_eq!(key.markdown_row(), "| `sidecar.exclusive` | `--exclusive` | `false` |  | no polling |");
        let key =
            Key::new("Listening", "sidecar.threads", "", "threads").found("one per core", |_| String::new());
        assert_eq!(key.markdown_row(), "| `sidecar.threads` |  | one per core |  | threads |");
        assert!(
            Key::new("Listening", "sidecar.tls_key", "", "PEM").markdown_row().contains(" |  | none |  | ")
        );
    }
}
