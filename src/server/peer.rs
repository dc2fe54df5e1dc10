//! Who is at the other end of a client's connection, and how a gateway names it to the upstream.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use http::HeaderValue;

use crate::settings::Settings;

/// The other end of a client's connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address; `None` on a `unix:` listener.
    pub address: Option<IpAddr>,
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
            is_tls,
            feeds: Arc::default(),
            // A unix socket is reached from this machine only.
            is_trusted: settings.is_trusted_proxy(address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))),
            forwarded_for: HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("unknown")),
            node,
        }
    }

    /// The scheme that the client used.
    pub fn scheme(&self) -> &'static str {
        if self.is_tls { "https" } else { "http" }
    }
}
