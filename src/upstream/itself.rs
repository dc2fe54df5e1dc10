//! A sidecar in front of itself: each request would come in again, until there are no connections any more.

use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};

use crate::complaint::Complaint;
use crate::settings::{ListenAddr, Settings, UpstreamUrl};

/// Whether the upstream is where the sidecar listens. Names are looked up only where the ports are the same.
pub fn leads_to_itself(settings: &Settings) -> Option<Complaint> {
    let upstream = &settings.upstream;
    let listeners = [
        ("sidecar.listen", Some(&settings.listen)),
        ("sidecar.admin_listen", settings.admin_listen.as_ref()),
    ];
    let own = listeners.into_iter().find_map(|(setting, address)| {
        let address = address.filter(|address| is_at(upstream, address).unwrap_or(false))?;
        Some((setting, address))
    });
    own.map(|(setting, address)| Complaint::loops(setting, address, upstream))
}

/// `None` where that cannot be known.
fn is_at(upstream: &UpstreamUrl, address: &ListenAddr) -> Option<bool> {
    let listen = match (address, &upstream.socket) {
        (ListenAddr::Unix(path), Some(socket)) => return Some(std::path::absolute(path).ok()? == *socket),
        (ListenAddr::Tcp(listen), None) => listen,
        _ => return None,
    };
    let port = listen.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok())?;
    if port != upstream.port {
        return None;
    }
    let listens: Vec<SocketAddr> = listen.to_socket_addrs().ok()?.collect();
    let mut upstreams = (&*upstream.host, upstream.port).to_socket_addrs().ok()?;
    let is_reached = |to: SocketAddr| {
        listens.iter().any(|listens| listens.ip() == to.ip() || listens.ip().is_unspecified() && is_here(to))
    };
    Some(upstreams.any(is_reached))
}

/// Whether an address is one of this machine's: no other can be bound.
fn is_here(address: SocketAddr) -> bool {
    UdpSocket::bind((address.ip(), 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Arguments, Environment};

    fn loops(listen: &str, upstream: &str) -> bool {
        let flags = [("sidecar.listen", listen.to_owned()), ("sidecar.upstream", upstream.to_owned())];
        let arguments = Arguments { flags: flags.into(), ..Arguments::default() };
        leads_to_itself(&Settings::load(&arguments, &Environment::new()).unwrap().0).is_some()
    }

    #[test]
    fn an_upstream_is_not_where_the_sidecar_listens() {
        assert!(loops("127.0.0.1:8889", "http://127.0.0.1:8889/v1"));
        assert!(loops("127.0.0.1:8889", "http://localhost:8889/v1"));
        assert!(loops("0.0.0.0:8889", "http://127.0.0.1:8889/v1"));
        assert!(loops("127.0.0.1:80", "http://127.0.0.1/v1"));
        assert!(!loops("127.0.0.1:8889", "http://127.0.0.1:8888/v1"));
        assert!(!loops("0.0.0.0:8889", "http://192.0.2.1:8889/v1"), "of another machine");
        assert!(!loops("127.0.0.1:0", "http://127.0.0.1:8889/v1"));
        assert!(!loops("unix:/run/s", "http://127.0.0.1:8889/v1"));
        assert!(loops("unix:/run/s", "http+unix://%2Frun%2Fs/v1"));
        assert!(!loops("unix:/run/s", "http+unix://%2Frun%2Fother/v1"));
    }
}
