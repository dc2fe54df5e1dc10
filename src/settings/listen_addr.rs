//! `sidecar.listen` and `sidecar.admin_listen`: where to accept connections.

use std::{fmt, path::PathBuf};

/// A place to listen at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddr {
    /// `HOST:PORT` or `[IPV6]:PORT`, as it was written; port 0 takes a free one.
    Tcp(String),
    /// `unix:PATH`.
    Unix(PathBuf),
}

impl ListenAddr {
    pub(super) const EXPECTED: &str = "HOST:PORT, [IPV6]:PORT or unix:PATH";

    /// Reads what was written.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return (!path.is_empty()).then(|| Self::Unix(path.into()));
        }
        let (host, port) = text.rsplit_once(':')?;
        port.parse::<u16>().ok().filter(|_| port.bytes().all(|byte| byte.is_ascii_digit()))?;
        let is_host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']')?.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && !host.contains([':', '/', ' ', '[', ']']),
        };
        is_host.then(|| Self::Tcp(text.to_owned()))
    }
}

impl ListenAddr {
    /// Whether no two sockets can be opened at both.
    pub(super) fn takes_from(&self, other: &Self) -> bool {
        let (Self::Tcp(one), Self::Tcp(two)) = (self, other) else { return self == other };
        let (Some((host, port)), Some((other, other_port))) = (one.rsplit_once(':'), two.rsplit_once(':'))
        else {
            return false;
        };
        let is_every = |host: &str| matches!(host, "0.0.0.0" | "[::]");
        let port: Option<u16> = port.parse().ok();
        port == other_port.parse().ok()
            && port != Some(0)
            && (host == other || is_every(host) || is_every(other))
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ListenAddr;

    #[test]
    fn host_and_port_are_both_needed() {
        for good in ["127.0.0.1:0", "localhost:8889", "[::]:80", "[::1]:65535"] {
            assert_eq!(ListenAddr::parse(good), Some(ListenAddr::Tcp(good.to_owned())));
        }
        for bad in
            ["", "8889", ":8889", "::1:80", "host", "host:", "host:65536", "host:+1", "http://h:1", "[::1]"]
        {
            assert_eq!(ListenAddr::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn unix_sockets_are_named_by_path() {
        assert_eq!(ListenAddr::parse("unix:/run/k.sock"), Some(ListenAddr::Unix("/run/k.sock".into())));
        assert_eq!(ListenAddr::parse("unix:"), None);
    }
}
