//! `sidecar.auth` and `sidecar.auth_file`: the service account's credentials.
//!
//! SECURITY: they are never shown: not by `Debug`, not in an error, and the header is marked as sensitive.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderValue;
use thiserror::Error;
use tokio::time::Instant;

/// How often the file is looked at.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// What the sidecar itself reads upstream with. Clones share what was read.
#[derive(Clone)]
pub struct ServiceAuth(Source);

#[derive(Clone)]
enum Source {
    Header(HeaderValue),
    File(Arc<AuthFile>),
}

/// Why credentials cannot be used.
#[derive(Debug, Error)]
pub enum AuthError {
    /// The file cannot be read.
    #[error("{path} cannot be read: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds none of the two forms.
    #[error("{path} does not hold {}", ServiceAuth::EXPECTED)]
    Other {
        /// The file.
        path: PathBuf,
    },
    /// The text is none of the two forms.
    #[error("the credentials are not {}", ServiceAuth::EXPECTED)]
    Malformed,
}

impl ServiceAuth {
    pub(super) const EXPECTED: &str = "USER:PASSWORD or Bearer TOKEN";

    /// Credentials as they are written in `sidecar.auth`.
    pub fn from_text(text: &str) -> Result<Self, AuthError> {
        header(text).map(|header| Self(Source::Header(header)))
    }

    /// Credentials in a file, which is read now and again when it changes.
    pub fn from_file(path: &Path) -> Result<Self, AuthError> {
        let content = Content::read(path)?;
        Ok(Self(Source::File(Arc::new(AuthFile {
            path: path.to_owned(),
            opened: Instant::now(),
            checked_ms: AtomicU64::new(0),
            content: ArcSwap::from_pointee(content),
        }))))
    }

    /// The `Authorization` to send now. `None` where there is nothing to send.
    pub fn current(&self) -> Option<HeaderValue> {
        match &self.0 {
            Source::Header(header) => Some(header.clone()),
            Source::File(file) => Some(file.current()),
        }
    }
}

impl PartialEq for ServiceAuth {
    /// Two are one where they are the same text or the same file, whatever that holds by now.
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Source::Header(one), Source::Header(other)) => one == other,
            (Source::File(one), Source::File(other)) => one.path == other.path,
            _ => false,
        }
    }
}

impl fmt::Debug for ServiceAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::Header(_) => f.write_str("ServiceAuth(…)"),
            Source::File(file) => write!(f, "ServiceAuth(… from {})", file.path.display()),
        }
    }
}

/// A file of credentials and what was last read from it.
struct AuthFile {
    path: PathBuf,
    opened: Instant,
    /// When the file was last looked at, in milliseconds since `opened`.
    checked_ms: AtomicU64,
    content: ArcSwap<Content>,
}

struct Content {
    modified: Option<SystemTime>,
    size: u64,
    header: HeaderValue,
}

impl AuthFile {
    fn current(&self) -> HeaderValue {
        let now_ms = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        let checked_ms = self.checked_ms.load(Ordering::Relaxed);
        let is_due = Duration::from_millis(now_ms.saturating_sub(checked_ms)) >= CHECK_EVERY;
        // Whoever wins the exchange looks; the others go on with what is known.
        if is_due
            && self
                .checked_ms
                .compare_exchange(checked_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            self.refresh();
        }
        self.content.load().header.clone()
    }

    /// Reads the file again if it changed. What cannot be used leaves the last good credentials in force.
    fn refresh(&self) {
        let known = self.content.load();
        let is_unchanged = std::fs::metadata(&self.path)
            .is_ok_and(|now| now.modified().ok() == known.modified && now.len() == known.size);
        if is_unchanged {
            return;
        }
        match Content::read(&self.path) {
            Ok(content) => {
                tracing::info!(path = %self.path.display(), "service account's credentials read again");
                self.content.store(Arc::new(content));
            }
            Err(error) => tracing::warn!(%error, "service account's credentials kept as they were"),
        }
    }
}

impl Content {
    fn read(path: &Path) -> Result<Self, AuthError> {
        let unreadable = |source| AuthError::Unreadable { path: path.to_owned(), source };
        let metadata = std::fs::metadata(path).map_err(unreadable)?;
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let header = header(text.trim()).map_err(|_| AuthError::Other { path: path.to_owned() })?;
        Ok(Self { modified: metadata.modified().ok(), size: metadata.len(), header })
    }
}

fn header(text: &str) -> Result<HeaderValue, AuthError> {
    let value = match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => format!("Bearer {}", token.trim()),
        _ if text.contains(':') && text != ":" => format!("Basic {}", STANDARD.encode(text)),
        _ => return Err(AuthError::Malformed),
    };
    let mut header = HeaderValue::try_from(value).map_err(|_| AuthError::Malformed)?;
    header.set_sensitive(true);
    Ok(header)
}
