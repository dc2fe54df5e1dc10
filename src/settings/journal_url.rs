//! `sidecar.journal`: where the history is kept.

use std::{fmt, path::PathBuf};

/// The journal's engine and place.
#[derive(Clone, PartialEq, Eq)]
pub enum JournalUrl {
    /// `sqlite:PATH`.
    Sqlite(PathBuf),
    /// `sqlite::memory:`, which lives as long as the process.
    SqliteInMemory,
    /// `postgres://…`, which several sidecars can share.
    Postgres(String),
}

impl JournalUrl {
    pub(super) const EXPECTED: &str = "sqlite:PATH, sqlite::memory: or postgres://…";

    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Some(Self::Postgres(text.to_owned()));
        }
        match text.strip_prefix("sqlite:")? {
            "" => None,
            ":memory:" => Some(Self::SqliteInMemory),
            // Other programs have other spellings of a journal in memory, and parameters: here each would be a file's name.
            path if path.contains(":memory") || path.contains('?') => None,
            // The same place, whatever the working directory becomes.
            path => Some(Self::Sqlite(std::path::absolute(path).unwrap_or_else(|_| path.into()))),
        }
    }

    /// SECURITY: whether this text of one may have a password in it.
    pub(super) fn has_secret(text: &str) -> bool {
        text.contains('@') || text.contains("password")
    }
}

impl fmt::Debug for JournalUrl {
    /// SECURITY: a PostgreSQL URL carries a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::SqliteInMemory => f.write_str("sqlite::memory:"),
            Self::Postgres(_) => f.write_str("postgres://…"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::JournalUrl;

    #[test]
    fn engines_are_told_apart_by_scheme() {
        assert_eq!(JournalUrl::parse("sqlite:/a/b.db"), Some(JournalUrl::Sqlite("/a/b.db".into())));
        let here = std::env::current_dir().unwrap();
        assert_eq!(JournalUrl::parse("sqlite:a/b.db"), Some(JournalUrl::Sqlite(here.join("a/b.db"))));
        assert_eq!(JournalUrl::parse("sqlite::memory:"), Some(JournalUrl::SqliteInMemory));
        assert!(matches!(JournalUrl::parse("postgresql://h/db"), Some(JournalUrl::Postgres(_))));
        for bad in ["sqlite:", "sqlite::memory", "sqlite:///:memory:", "sqlite:a.db?mode=ro"] {
            assert_eq!(JournalUrl::parse(bad), None, "{bad}");
        }
        assert_eq!(JournalUrl::parse("mysql://h/db"), None);
    }

    #[test]
    fn debug_keeps_the_password_to_itself() {
        let url = JournalUrl::parse("postgres://me:secret@h/db").unwrap();
        assert!(!format!("{url:?}").contains("secret"));
    }
}
