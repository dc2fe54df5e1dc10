//! `sidecar.admin_token` and `sidecar.admin_token_file`: what whoever changes something on the admin listener shows.
//!
//! SECURITY: it is never shown, and compared by digests, so that no answer comes sooner because a part of it is right.

use std::fmt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::error::{Origin, SettingsError};
use super::places::Places;

/// SECURITY: more than this is no token.
const LONGEST: u64 = 64 << 10;

/// The token, or the file that it is in.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminToken(Source);

#[derive(Clone, PartialEq, Eq)]
enum Source {
    Digest([u8; 32]),
    /// Read each time: a new token counts at once.
    File(PathBuf),
}

impl AdminToken {
    /// This token.
    pub fn from_text(token: &str) -> Self {
        Self(Source::Digest(digest(token)))
    }

    /// Whether this is the token.
    pub fn is(&self, shown: &str) -> bool {
        let shown = digest(shown);
        match &self.0 {
            Source::Digest(own) => *own == shown,
            Source::File(path) => read(path).is_some_and(|own| digest(&own) == shown),
        }
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken(…)")
    }
}

impl Places<'_> {
    /// The token, in one of its two places.
    pub(super) fn admin_token(&self) -> Result<Option<AdminToken>, SettingsError> {
        let [first, second] = ["sidecar.admin_token", "sidecar.admin_token_file"];
        match (self.text(first)?, self.text(second)?) {
            (Some((_, origin)), Some(_)) => Err(SettingsError::Exclusive { first, second, origin }),
            (Some((token, _)), None) => Ok(Some(AdminToken::from_text(&token))),
            (None, Some((path, origin))) => in_file(second, PathBuf::from(path), origin).map(Some),
            (None, None) => Ok(None),
        }
    }
}

fn in_file(key: &'static str, path: PathBuf, origin: Origin) -> Result<AdminToken, SettingsError> {
    if read(&path).is_none() {
        let value = path.display().to_string();
        return Err(SettingsError::Malformed { key, value, origin, expected: "a file with a token in it" });
    }
    Ok(AdminToken(Source::File(path)))
}

fn read(path: &Path) -> Option<String> {
    if std::fs::metadata(path).ok()?.len() > LONGEST {
        return None;
    }
    let token = std::fs::read_to_string(path).ok()?.trim().to_owned();
    (!token.is_empty()).then_some(token)
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_itself_and_a_file_is_read_each_time() {
        let token = AdminToken::from_text("secret");
        assert!(token.is("secret") && !token.is("secre") && !token.is(""));
        assert_eq!(format!("{token:?}"), "AdminToken(…)");
        let file = tempfile::NamedTempFile::new().unwrap();
        let token = AdminToken(Source::File(file.path().to_owned()));
        assert!(!token.is(""), "an empty file is no token");
        std::fs::write(file.path(), "one\n").unwrap();
        assert!(token.is("one"));
        std::fs::write(file.path(), "two").unwrap();
        assert!(token.is("two") && !token.is("one"));
    }
}
