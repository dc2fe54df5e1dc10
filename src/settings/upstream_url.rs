//! `sidecar.upstream`: the API root of the Kinto behind the sidecar, as Kinto's clients write it.

use std::fmt;

use http::Uri;

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
}

impl UpstreamUrl {
    pub(super) const EXPECTED: &str = "an http:// or https:// URL that ends in the API version, such as \
                                       http://127.0.0.1:8888/v1, with no zone in an IPv6 address";

    pub(super) fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let https = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let authority = uri.authority()?;
        // SECURITY: credentials in a URL would end up in `Host` and in logs; they belong in `sidecar.auth`.
        if authority.as_str().contains('@') || uri.query().is_some() {
            return None;
        }
        // A zone means something on one machine only: neither `Host` nor a certificate can name it.
        if authority.as_str().contains('%') {
            return None;
        }
        let (_, port_text) = authority.as_str().split_at_checked(authority.host().len())?;
        let port = match (authority.port_u16(), port_text) {
            (Some(port), _) => port,
            (None, "") => {
                if https {
                    443
                } else {
                    80
                }
            }
            (None, _) => return None,
        };
        let path = uri.path();
        let (path_prefix, version) = path.strip_suffix('/').unwrap_or(path).rsplit_once('/')?;
        let number = version.strip_prefix('v')?;
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
        })
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
            "http://h/v1?x=1",
            "http://[fe80::1%25lo]:8888/v1",
            "http://[fe80::1%lo]:8888/v1",
        ] {
            assert_eq!(UpstreamUrl::parse(bad), None, "{bad}");
        }
    }
}
