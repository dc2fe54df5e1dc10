//! Who somebody claims to be: the headers that Kinto authenticates by.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderValue};
use sha2::{Digest, Sha256};

/// A requester's credentials. Two are equal where their digests are; nothing of them is ever shown.
#[derive(Clone, Default)]
pub struct Credentials(Option<Arc<Named>>);

struct Named {
    digest: [u8; 32],
    headers: HeaderMap,
}

impl Credentials {
    /// Takes the credentials out of a request. Empty headers are none.
    pub fn of(request: &HeaderMap) -> Self {
        let mut headers = HeaderMap::new();
        let mut digest = Sha256::new();
        for name in [AUTHORIZATION, COOKIE] {
            for value in
                request.get_all(&name).iter().filter(|value| !value.as_bytes().trim_ascii().is_empty())
            {
                // Lengths keep two headers from reading as one.
                digest.update(name.as_str());
                digest.update(value.len().to_le_bytes());
                digest.update(value.as_bytes());
                let mut value = value.clone();
                value.set_sensitive(true);
                headers.append(&name, value);
            }
        }
        if headers.is_empty() {
            return Self(None);
        }
        Self(Some(Arc::new(Named { digest: digest.finalize().into(), headers })))
    }

    /// Whether there are none.
    pub fn is_anonymous(&self) -> bool {
        self.0.is_none()
    }

    /// How many bytes they hold.
    pub fn weight(&self) -> usize {
        self.0.as_ref().map_or(0, |named| named.headers.values().map(HeaderValue::len).sum())
    }

    /// The headers to ask the upstream with.
    pub fn headers(&self) -> HeaderMap {
        self.0.as_ref().map_or_else(HeaderMap::new, |named| named.headers.clone())
    }

    /// What tells them apart from all others.
    pub(super) fn digest(&self) -> Option<&[u8; 32]> {
        self.0.as_ref().map(|named| &named.digest)
    }
}

impl PartialEq for Credentials {
    fn eq(&self, other: &Self) -> bool {
        self.digest() == other.digest()
    }
}

impl Eq for Credentials {}

impl Hash for Credentials {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest().hash(state);
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.is_anonymous() { "Credentials(none)" } else { "Credentials(…)" })
    }
}

#[cfg(test)]
mod tests {
    use http::header::HeaderName;

    use super::*;

    fn credentials(headers: &[(HeaderName, &'static str)]) -> Credentials {
        let pairs = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
        Credentials::of(&pairs.collect())
    }

    #[test]
    fn an_empty_authorization_is_none() {
        assert!(credentials(&[(AUTHORIZATION, " ")]).is_anonymous());
        assert_eq!(credentials(&[(AUTHORIZATION, "")]), credentials(&[]));
    }

    #[test]
    fn other_credentials_are_somebody_else() {
        assert_ne!(credentials(&[(AUTHORIZATION, "Basic a")]), credentials(&[(AUTHORIZATION, "Basic b")]));
        assert_ne!(credentials(&[(AUTHORIZATION, "a")]), credentials(&[(COOKIE, "a")]));
        assert_eq!(credentials(&[(AUTHORIZATION, "Basic a")]), credentials(&[(AUTHORIZATION, "Basic a")]));
    }

    #[test]
    fn credentials_are_not_shown() {
        assert!(!format!("{:?}", credentials(&[(AUTHORIZATION, "Basic secret")])).contains("secret"));
    }
}
