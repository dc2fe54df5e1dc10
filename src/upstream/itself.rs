//! A sidecar in front of itself: each request would come in again, until there are no connections any more.

use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};

use crate::complaint::Complaint;
use crate::settings::{ListenAddr, Settings};

/// Whether the upstream is where the sidecar listens. Names are looked up only where the ports are the same.
pub fn leads_to_itself(settings: &Settings) -> Option<Complaint> {
    let (ListenAddr::Tcp(listen), upstream) = (&settings.listen, &settings.upstream) else { return None };
    let port = listen.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok())?;
    if port != upstream.port || upstream.socket.is_some() {
        return None;
    }
    let listens: Vec<SocketAddr> = listen.to_socket_addrs().ok()?.collect();
    let mut upstreams = (&*upstream.host, upstream.port).to_socket_addrs().ok()?;
    let is_reached = |to: SocketAddr| {
        listens.iter().any(|listens| listens.ip() == to.ip() || listens.ip().is_unspecified() && is_here(to))
    };
    upstreams.any(is_reached).then(|| Complaint::loops(&settings.listen, upstream))
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
    }
}
