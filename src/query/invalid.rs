//! What Kinto answers to parameters that it refuses: status 400, errno 107.
//!
//! Follows `kinto.core.errors` (`json_error_handler`, `request_GET`): all faults are listed, by name, and the first of
//! them makes the message.

use serde::Serialize;

/// Why a request's parameters were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The query is not UTF-8 once decoded; this is the query as it came.
    #[error("the query is not UTF-8: {0}")]
    Encoding(String),
    /// At least one parameter is not acceptable; sorted by name.
    #[error("{}", self.message())]
    Parameters(Vec<Fault>),
}

/// One parameter that is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Where it was: `querystring`, `header`, `path` or `body`.
    pub location: &'static str,
    /// Its name, where Kinto gives one.
    pub name: Option<String>,
    /// What is wrong with it, in Kinto's words.
    pub description: String,
}

// === impl Invalid ===

impl Invalid {
    /// Faults in any order; there is at least one.
    pub fn faults(mut faults: Vec<Fault>) -> Self {
        faults.sort_by(|a, b| a.sort_key().cmp(b.sort_key()));
        Self::Parameters(faults)
    }

    /// A single fault of one parameter.
    pub fn one(location: &'static str, name: &str, description: impl Into<String>) -> Self {
        Self::Parameters(vec![Fault::new(location, name, description)])
    }

    /// A single fault in the query.
    pub fn query(name: &str, description: impl Into<String>) -> Self {
        Self::Parameters(vec![Fault::query(name, description)])
    }

    /// A single fault in the query of which Kinto does not name the parameter.
    pub fn unnamed(description: impl Into<String>) -> Self {
        let (location, name, description) = ("querystring", None, description.into());
        Self::Parameters(vec![Fault { location, name, description }])
    }

    /// The page of this token was deleted before, or it is no token of a deletion.
    pub fn used_token() -> Self {
        Self::unnamed("_token was already used or has expired.")
    }

    /// Whether nothing but the query is at fault.
    pub fn is_of_query(&self) -> bool {
        match self {
            Self::Encoding(_) => true,
            Self::Parameters(faults) => faults.iter().all(|fault| fault.location == "querystring"),
        }
    }

    /// The `error` of the answer.
    pub fn title(&self) -> &'static str {
        match self {
            Self::Encoding(_) => "Bad Request",
            Self::Parameters(_) => "Invalid parameters",
        }
    }

    /// The `message` of the answer.
    pub fn message(&self) -> String {
        match self {
            // Kinto: the missing space is in its own message, which is what clients have seen so far.
            Self::Encoding(query) => format!(
                "A request with an incorrect encoding in the querystring wasreceived. Please make sure your \
                 requests are encoded in UTF-8: {query}"
            ),
            Self::Parameters(faults) => faults.first().map(Fault::message).unwrap_or_default(),
        }
    }

    /// The `details` of the answer; empty where it has none.
    pub fn details(&self) -> &[Fault] {
        match self {
            Self::Encoding(_) => &[],
            Self::Parameters(faults) => faults,
        }
    }
}

// === impl Fault ===

impl Fault {
    /// A fault of one parameter.
    pub fn new(location: &'static str, name: &str, description: impl Into<String>) -> Self {
        Self { location, name: Some(name.to_owned()), description: description.into() }
    }

    /// A fault of one parameter of the query.
    pub fn query(name: &str, description: impl Into<String>) -> Self {
        Self::new("querystring", name, description)
    }

    fn sort_key(&self) -> &str {
        self.name.as_deref().unwrap_or("None")
    }

    fn message(&self) -> String {
        match &self.name {
            // Kinto: the name is put in front only where the description does not have it already.
            Some(name) if self.description.contains(name) => self.description.clone(),
            Some(name) => format!("{name} in {}: {}", self.location, self.description),
            None => format!("{}: {}", self.location, self.description),
        }
    }
}
