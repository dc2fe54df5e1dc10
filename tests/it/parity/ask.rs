//! A request that is put to both servers.

use http::Method;

use crate::support::{Client, Response};

/// A request without a body.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    method: Method,
    /// Below the API version, with the query.
    path: String,
    headers: Vec<(&'static str, String)>,
    user: Option<&'static str>,
}

impl Ask {
    pub(crate) fn get(path: &str) -> Self {
        Self::new(Method::GET, path)
    }

    pub(crate) fn new(method: Method, path: &str) -> Self {
        Self { method, path: path.to_owned(), headers: Vec::new(), user: None }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// With the credentials of a user.
    pub(crate) fn by(mut self, user: &'static str) -> Self {
        self.user = Some(user);
        self
    }

    /// With another path, and other values of its headers.
    pub(crate) fn map(&self, change: impl Fn(&str) -> String) -> Self {
        let headers = self.headers.iter().map(|(name, value)| (*name, change(value))).collect();
        Self { path: change(&self.path), headers, ..self.clone() }
    }

    pub(crate) fn is_for_a_changeset(&self) -> bool {
        self.path.contains("/changeset")
    }

    pub(crate) async fn send(&self, server: &Client) -> Response {
        let server = self.user.map_or_else(|| server.clone(), |user| server.user(user));
        let mut request = server.request(self.method.clone(), &self.path);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.await
    }
}

impl std::fmt::Display for Ask {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {} {:?} by {:?}", self.method, self.path, self.headers, self.user)
    }
}
