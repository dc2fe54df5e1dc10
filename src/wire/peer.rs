//! Who is at the other end of a client's connection, and how a gateway names it to the upstream.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use http::{HeaderMap, HeaderValue};

use crate::settings::Settings;

/// The other end of a client's connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address; `None` on a `unix:` listener.
    pub address: Option<IpAddr>,
    /// The address of this end; `None` on a `unix:` listener.
    pub reached: Option<SocketAddr>,
    /// Whether the connection is encrypted.
    pub is_tls: bool,
    /// Whether its `Forwarded` and `X-Forwarded-*` are believed.
    pub is_trusted: bool,
    /// How many live feeds its connection carries.
    pub(crate) feeds: Arc<AtomicUsize>,
    /// The address as `X-Forwarded-For` has it.
    pub(crate) forwarded_for: HeaderValue,
    /// The address as a node of `Forwarded` (RFC 7239 §6): quoted where it is an IPv6 address.
    pub(crate) node: String,
}

impl Peer {
    /// The peer at this address.
    pub fn new(address: Option<IpAddr>, is_tls: bool, settings: &Settings) -> Self {
        let address = address.map(|address| address.to_canonical());
        let node = match address {
            Some(IpAddr::V4(address)) => address.to_string(),
            Some(IpAddr::V6(address)) => format!("\"[{address}]\""),
            None => "unknown".to_owned(),
        };
        let text = address.map_or_else(|| "unknown".to_owned(), |address| address.to_string());
        Self {
            address,
            reached: None,
            is_tls,
            feeds: Arc::default(),
            // A unix socket is reached from this machine only.
            is_trusted: settings.is_trusted_proxy(address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))),
            forwarded_for: HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("unknown")),
            node,
        }
    }

    /// The same, of a connection to this address.
    #[must_use]
    pub fn at(self, reached: Option<SocketAddr>) -> Self {
        let canonical = |reached: SocketAddr| SocketAddr::new(reached.ip().to_canonical(), reached.port());
        Self { reached: reached.map(canonical), ..self }
    }

    /// The scheme that the client used.
    pub fn scheme(&self) -> &'static str {
        if self.is_tls { "https" } else { "http" }
    }
}

/// Who a request comes from: behind proxies that are trusted, the last address of `X-Forwarded-For` that is not theirs.
pub fn client(peer: &Peer, headers: &HeaderMap, settings: &Settings) -> Option<IpAddr> {
    if !peer.is_trusted {
        return peer.address;
    }
    let values = headers.get_all("x-forwarded-for").iter().rev().filter_map(|value| value.to_str().ok());
    let chain = values.flat_map(|value| value.rsplit(','));
    let mut addresses = chain.map_while(|address| address.trim().parse::<IpAddr>().ok());
    addresses.find(|address| !settings.is_trusted_proxy(*address)).or(peer.address)
}

/// The client that an address stands for. Whoever has one IPv6 address has a network of them.
pub(crate) fn client_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trusted_proxy_says_for_whom_it_asks() {
        let settings =
            Settings { trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()], ..Settings::default() };
        let asked = |peer: [u8; 4], chain: &'static str| {
            let peer = Peer::new(Some(IpAddr::from(peer)), false, &settings);
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static("x-forwarded-for"),
                HeaderValue::from_static(chain),
            )]);
            client(&peer, &headers, &settings).unwrap().to_string()
        };
        assert_eq!(asked([10, 0, 0, 1], "6.6.6.6, 7.7.7.7, 10.0.0.2"), "7.7.7.7");
        assert_eq!(asked([8, 8, 8, 8], "6.6.6.6"), "8.8.8.8");
        assert_eq!(asked([10, 0, 0, 1], "unknown"), "10.0.0.1");
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let of = |text: &str| client_of(text.parse().unwrap()).to_string();
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(of("::ffff:1.2.3.4"), "1.2.3.4");
        assert_eq!(of("1.2.3.4"), "1.2.3.4");
    }
}
