//! Finds an address of the upstream's that answers: a name may have several, and some of them may swallow what is sent.
//!
//! Follows RFC 8305: families take turns, the next address is tried when one has not answered for a while, and the first
//! connection that comes about is used. The address that answered is tried first from then on.
//!
//! SECURITY: a name that a stranger wrote leads into no private network: it is asked for its addresses once, and of those none but
//! public ones are dialled.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::net::TcpStream;

/// How long an address has for itself before the next one is tried, too.
const HEAD_START: Duration = Duration::from_millis(250);

/// How long the name may take, where the address is known that answered last.
const LOOKUP: Duration = Duration::from_secs(1);

/// Connects to one name and port.
#[derive(Debug)]
pub(super) struct Dialer {
    host: String,
    port: u16,
    only_public: bool,
    /// The address that answered last.
    answered: Mutex<Option<SocketAddr>>,
}

impl Dialer {
    /// For this host, which may be an address.
    pub(super) fn new(host: &str, port: u16, only_public: bool) -> Self {
        Self { host: host.to_owned(), port, only_public, answered: Mutex::default() }
    }

    /// Connects to whichever address of the name answers.
    pub(super) async fn dial(&self) -> io::Result<TcpStream> {
        let mut addresses = self.addresses().await?;
        if self.only_public && !addresses.is_empty() {
            addresses.retain(|address| is_public(address.ip()));
            if addresses.is_empty() {
                let text = "it leads to no public address, and sidecar.signature_hosts does not name it";
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
            }
        }
        self.dial_one_of(addresses).await
    }

    /// Where the name leads. While nobody says, that is where it led: connections end, and are made, all the time.
    async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let found = tokio::net::lookup_host((&*self.host, self.port));
        let last = *self.answered.lock();
        let Some(last) = last else { return Ok(found.await?.collect()) };
        match tokio::time::timeout(LOOKUP, found).await {
            Ok(Ok(found)) => Ok(found.collect()),
            _ => Ok(vec![last]),
        }
    }

    async fn dial_one_of(&self, addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
        let last = *self.answered.lock();
        let (stream, address) = first_of(in_order(addresses, last)).await?;
        *self.answered.lock() = Some(address);
        Ok(stream)
    }
}

/// Whether an address is one of the public Internet, and leads there: neither this machine, nor a network of somebody's own, nor
/// a way of writing such an address in another.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let is_special = match address.octets() {
                [0 | 240..=255, ..] | [192, 0, 0, _] => true,
                [100, second, ..] => second & 0xc0 == 64,
                [198, second, ..] => second & 0xfe == 18,
                _ => false,
            };
            !(is_special
                || address.is_loopback()
                || address.is_private()
                || address.is_link_local()
                || address.is_multicast()
                || address.is_documentation())
        }
        IpAddr::V6(address) => {
            let embedded = |high: u16, low: u16| {
                is_public(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)).into())
            };
            match address.segments() {
                [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                    embedded(high, low)
                }
                [0x2002, high, low, ..] => embedded(high, low),
                // Teredo, what belongs to no network, and examples.
                [0x2001, second, ..] => second >= 0x200 && second != 0xdb8,
                [first, ..] => first & 0xe000 == 0x2000,
            }
        }
    }
}

/// The one that answered last, then both families in turn, each in the order of the resolver.
fn in_order(addresses: Vec<SocketAddr>, last: Option<SocketAddr>) -> VecDeque<SocketAddr> {
    let prefers_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let is_last = |address: &SocketAddr| Some(*address) == last;
    let mut ordered: VecDeque<_> = addresses.iter().copied().filter(is_last).take(1).collect();
    let (mut preferred, mut others): (VecDeque<_>, VecDeque<_>) = addresses
        .into_iter()
        .filter(|address| !is_last(address))
        .partition(|address| address.is_ipv6() == prefers_v6);
    while !preferred.is_empty() || !others.is_empty() {
        ordered.extend(preferred.pop_front());
        ordered.extend(others.pop_front());
    }
    ordered
}

/// The first connection that comes about; where none does, the last failure.
async fn first_of(mut addresses: VecDeque<SocketAddr>) -> io::Result<(TcpStream, SocketAddr)> {
    let mut attempts = FuturesUnordered::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        if let Some(address) = addresses.pop_front() {
            attempts.push(async move { TcpStream::connect(address).await.map(|stream| (stream, address)) });
        }
        let next = if addresses.is_empty() {
            attempts.next().await
        } else {
            match tokio::time::timeout(HEAD_START, attempts.next()).await {
                Ok(next) => next,
                Err(_elapsed) => continue,
            }
        };
        match next {
            Some(Ok(connected)) => return Ok(connected),
            Some(Err(error)) => failure = error,
            None => return Err(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    /// An address whose queue of connections is full: it swallows what comes.
    struct Swallowing {
        address: SocketAddr,
        _listener: socket2::Socket,
        _queued: Vec<TcpStream>,
    }

    impl Swallowing {
        async fn open() -> Self {
            let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            listener.bind(&"127.0.0.2:0".parse::<SocketAddr>().unwrap().into()).unwrap();
            listener.listen(0).unwrap();
            let address = listener.local_addr().unwrap().as_socket().unwrap();
            let mut queued = Vec::new();
            while let Ok(Ok(stream)) =
                tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(address)).await
            {
                queued.push(stream);
            }
            Self { address, _listener: listener, _queued: queued }
        }
    }

    #[tokio::test]
    async fn an_address_that_swallows_everything_costs_a_quarter_of_a_second_once() {
        let (silent, there) = (Swallowing::open().await, TcpListener::bind("127.0.0.1:0").await.unwrap());
        let good = there.local_addr().unwrap();
        let dialer = Dialer::new("unused", 0, false);
        let dial = async || {
            let began = Instant::now();
            let stream = dialer.dial_one_of(vec![silent.address, good]).await.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), good);
            began.elapsed()
        };
        let first = dial().await;
        assert!(first >= HEAD_START && first < 8 * HEAD_START, "{first:?}");
        assert_eq!(*dialer.answered.lock(), Some(good));
        assert!(dial().await < HEAD_START);
    }

    #[tokio::test]
    async fn an_address_that_refuses_costs_nothing_and_the_one_that_answered_may_go_away() {
        let there = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = there.local_addr().unwrap();
        let refusing = {
            let gone = TcpListener::bind("127.0.0.3:0").await.unwrap();
            gone.local_addr().unwrap()
        };
        let dialer = Dialer::new("unused", 0, false);
        *dialer.answered.lock() = Some(refusing);
        let stream = dialer.dial_one_of(vec![good, refusing]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good);
        assert!(dialer.dial_one_of(vec![refusing]).await.is_err());
        assert!(dialer.dial_one_of(Vec::new()).await.is_err());
    }

    #[tokio::test]
    async fn while_the_name_is_not_found_the_address_that_answered_last_is_used() {
        let there = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialer = Dialer::new("not a name", 0, false);
        assert!(dialer.dial().await.is_err());
        *dialer.answered.lock() = Some(there.local_addr().unwrap());
        assert_eq!(dialer.dial().await.unwrap().peer_addr().unwrap(), there.local_addr().unwrap());
    }

    #[tokio::test]
    async fn a_name_that_leads_into_no_public_network_is_not_dialled_where_a_stranger_wrote_it() {
        let there = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = there.local_addr().unwrap().port();
        for host in ["127.0.0.1", "localhost", "::ffff:127.0.0.1"] {
            assert!(Dialer::new(host, port, false).dial().await.is_ok(), "{host}");
            let refused = Dialer::new(host, port, true).dial().await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{host}");
        }
    }

    #[test]
    fn what_is_public_is_neither_special_nor_special_in_another_spelling() {
        let public = [
            "1.1.1.1", "172.15.0.1", "172.32.0.1", "100.63.0.1", "198.17.0.1", "2606:4700::1111",
            "::ffff:1.1.1.1",
        ];
        let others = [
            "127.0.0.1", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
            "169.254.169.254", "100.64.0.1", "192.0.0.1", "198.18.0.1", "198.19.0.1", "224.0.0.1",
            "240.0.0.1", "255.255.255.255", "192.0.2.1", "::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254",
            "fec0::1", "ff02::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "64:ff9b:1::a00:1", "2002:7f00:1::",
            "2001:db8::1", "2001:0:4136::1", "::127.0.0.1",
        ];
        for (addresses, are_public) in [(&public[..], true), (&others[..], false)] {
            for address in addresses {
                assert_eq!(is_public(address.parse().unwrap()), are_public, "{address}");
            }
        }
    }

    #[test]
    fn families_take_turns_behind_the_address_that_answered_last() {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        let found = addresses(&["[::1]:1", "[::2]:1", "127.0.0.1:1", "127.0.0.2:1"]);
        let ordered: Vec<SocketAddr> = in_order(found.clone(), None).into();
        assert_eq!(ordered, addresses(&["[::1]:1", "127.0.0.1:1", "[::2]:1", "127.0.0.2:1"]));
        let ordered: Vec<SocketAddr> = in_order(found, Some("127.0.0.2:1".parse().unwrap())).into();
        assert_eq!(ordered, addresses(&["127.0.0.2:1", "[::1]:1", "127.0.0.1:1", "[::2]:1"]));
        let other = in_order(addresses(&["127.0.0.1:1"]), Some("127.0.0.9:1".parse().unwrap()));
        assert_eq!(Vec::from(other), addresses(&["127.0.0.1:1"]), "which the name no longer has");
    }
}
