//! `sidecar.upstream`: the API root of the Kinto behind the sidecar, as Kinto's clients write it.

use std::fmt;
use std::path::PathBuf;

use http::Uri;
use http::uri::Authority;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::kinto::is_segment;

/// What `Host` says to an upstream that has none.
const SOCKET_HOST: &str = "localhost";

/// The upstream's API root, taken apart: `{scheme}://{authority}{path_prefix}/{version}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamUrl {
    /// Whether connections to it are TLS.
    pub https: bool,
    /// The host to connect to; an IPv6 address without brackets.
    pub host: String,
    /// The port to connect to.
    pub port: u16,
    /// What stands in a `Host` header of the sidecar's own requests.
    pub authority: String,
    /// The path in front of the version: empty, or `/some/path`.
    pub path_prefix: String,
    /// The API version, the last part of the path: `v1`.
    pub version: String,
    /// The Unix socket to connect to, in place of host and port.
    pub socket: Option<PathBuf>,
    /// Whether it is connected to at public addresses alone.
    pub only_public: bool,
}

impl UpstreamUrl {
    pub(super) const EXPECTED: &str = "an http:// or https:// URL that ends in the API version, such as \
                                       http://127.0.0.1:8888/v1, with no zone in an IPv6 address; or a Unix socket, \
                                       such as http+unix://%2Frun%2Fkinto.sock/v1";

    pub(super) fn parse(text: &str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix("http+unix://") {
            return Self::of_socket(rest);
        }
        let uri: Uri = text.parse().ok()?;
        let https = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let authority = uri.authority()?;
        // SECURITY: credentials in a URL would end up in `Host` and in logs; they belong in `sidecar.auth`.
        if !is_complete(authority) || uri.query().is_some() || text.contains('#') {
            return None;
        }
        // A zone means something on one machine only: neither `Host` nor a certificate can name it.
        if authority.as_str().contains('%') {
            return None;
        }
        let port = authority.port_u16().unwrap_or(if https { 443 } else { 80 });
        let path = uri.path();
        let (path_prefix, version) = path.strip_suffix('/').unwrap_or(path).rsplit_once('/')?;
        let number = version.strip_prefix('v')?;
        if path_prefix.split('/').skip(1).any(|segment| !is_segment(segment)) {
            return None;
        }
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Some(Self {
            https,
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port,
            authority: authority.as_str().to_owned(),
            path_prefix: path_prefix.to_owned(),
            version: version.to_owned(),
            socket: None,
            only_public: false,
        })
    }

    /// A socket's path, escaped in the place of the host, and what follows.
    fn of_socket(text: &str) -> Option<Self> {
        let (path, rest) = text.split_once('/')?;
        let path = PathBuf::from(&*percent_decode_str(path).decode_utf8().ok()?);
        let url = Self::parse(&format!("http://{SOCKET_HOST}/{rest}"))?;
        path.is_absolute().then_some(Self { socket: Some(path), ..url })
    }
}

/// Whether something can be reached at it.
pub(super) fn is_complete(authority: &Authority) -> bool {
    let port = authority.as_str().get(authority.host().len()..).unwrap_or_default();
    // SECURITY: credentials in it would end up in logs.
    let is_plain = !authority.as_str().contains('@');
    is_plain
        && !authority.host().is_empty()
        && (port.is_empty() || authority.port_u16().is_some_and(|port| port > 0))
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(socket) = &self.socket {
            let socket = socket.to_string_lossy();
            let path = utf8_percent_encode(&socket, NON_ALPHANUMERIC);
            return write!(f, "http+unix://{path}{}/{}", self.path_prefix, self.version);
        }
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}/{}", self.authority, self.path_prefix, self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::UpstreamUrl;

    #[test]
    fn the_last_part_of_the_path_is_the_version() {
        let url = UpstreamUrl::parse("https://kinto.example/some/path/v2/").unwrap();
        assert_eq!((url.https, url.port), (true, 443));
        assert_eq!((url.path_prefix.as_str(), url.version.as_str()), ("/some/path", "v2"));
        assert_eq!(url.to_string(), "https://kinto.example/some/path/v2");
    }

    #[test]
    fn an_ipv6_host_loses_its_brackets_and_the_authority_keeps_them() {
        let url = UpstreamUrl::parse("http://[::1]:8888/v1").unwrap();
        assert_eq!((url.host.as_str(), url.port, url.authority.as_str()), ("::1", 8888, "[::1]:8888"));
        assert_eq!(url.path_prefix, "");
    }

    #[test]
    fn a_unix_socket_stands_in_the_place_of_the_host() {
        let url = UpstreamUrl::parse("http+unix://%2Frun%2Fk.sock/some/v1").unwrap();
        assert_eq!(url.socket.as_deref(), Some(std::path::Path::new("/run/k.sock")));
        assert_eq!((url.authority.as_str(), url.path_prefix.as_str()), ("localhost", "/some"));
        assert_eq!(UpstreamUrl::parse(&url.to_string()), Some(url));
    }

    #[test]
    fn what_is_not_an_api_root_is_refused() {
        for bad in [
            "127.0.0.1:8888",
            "http://h",
            "http://h/",
            "http://h/v",
            "http://h/vx",
            "ftp://h/v1",
            "/v1",
            "",
            "http://u:p@h/v1",
            "http://h:99999/v1",
            "http://h:0/v1",
            "http://h:/v1",
            "http://:8888/v1",
            "http://h/v1#x",
            "http://h//v1",
            "http://h/../v1",
            "http://h/v1?x=1",
            "http://[fe80::1%25lo]:8888/v1",
            "http://[fe80::1%lo]:8888/v1",
            "http+unix://run%2Fk.sock/v1",
            "http+unix://%2Frun%2Fk.sock",
            "https+unix://%2Frun%2Fk.sock/v1",
        ] {
            assert_eq!(UpstreamUrl::parse(bad), None, "{bad}");
        }
    }
}
