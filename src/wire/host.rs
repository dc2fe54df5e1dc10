//! The one host that a request is for: what `Next-Page` and redirects name, and what the upstream is told.

use http::header::HOST;
use http::{HeaderValue, Request, Version};

use super::peer::Peer;
use crate::settings::Settings;

/// Leaves a request with one `Host`, which is that of its target where that names one. Only HTTP/1.0 may come without one,
/// and gets that of this service. Else it says what is wrong.
///
/// Follows RFC 9112 §3.2 and RFC 9113 §8.3.1.
pub fn settle<B>(request: &mut Request<B>, peer: &Peer, settings: &Settings) -> Result<(), &'static str> {
    if let Some(authority) = request.uri().authority() {
        // It counts, whatever `Host` says.
        let authority = authority.as_str();
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let host = Some(host).filter(|host| is_host(host.as_bytes()));
        let host = host.and_then(|host| HeaderValue::from_str(host).ok()).ok_or("the host is malformed")?;
        request.headers_mut().insert(HOST, host);
        return Ok(());
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next();
    // SECURITY: with two hosts, the next recipient could take the other one.
    if hosts.next().is_some() {
        return Err("there is more than one Host");
    }
    match host {
        None if request.version() != Version::HTTP_10 => Err("Host is missing"),
        None => {
            request.headers_mut().insert(HOST, own(peer, settings));
            Ok(())
        }
        Some(host) if !is_host(host.as_bytes()) => Err("Host is malformed"),
        Some(_) => Ok(()),
    }
}

/// The host of this service, for a client that names none.
///
/// SECURITY: the upstream would be told its own address instead, and tell the client in redirects (CVE-2000-0649).
fn own(peer: &Peer, settings: &Settings) -> HeaderValue {
    let named = settings.kinto.http_host.as_deref().filter(|host| !host.is_empty());
    let named = named.and_then(|host| HeaderValue::from_str(host).ok());
    let reached = || HeaderValue::try_from(peer.reached?.to_string()).ok();
    named.or_else(reached).unwrap_or(HeaderValue::from_static("localhost"))
}

/// Whether this is `uri-host [ ":" port ]` of RFC 9110 §7.2, by the bytes that may stand in it.
pub fn is_host(host: &[u8]) -> bool {
    let is_of_host = |byte: &u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':' | b'[' | b']' | b'%')
    };
    host.iter().all(is_of_host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(
        target: &str,
        version: Version,
        hosts: &[&'static str],
    ) -> Result<Option<String>, &'static str> {
        let mut request = Request::builder().uri(target).version(version);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let mut request = request.body(()).unwrap();
        let peer = Peer::new(None, false, &Settings::default());
        settle(&mut request, &peer, &Settings::default())?;
        assert!(request.headers().get_all(HOST).iter().count() <= 1);
        Ok(request.headers().get(HOST).map(|host| host.to_str().unwrap().to_owned()))
    }

    #[test]
    fn the_host_of_the_target_counts() {
        for (target, version, hosts) in [
            ("http://a.example:80/v1/", Version::HTTP_11, &["b.example"][..]),
            ("http://user@a.example:80/v1/", Version::HTTP_11, &["b.example", "c.example"]),
            ("https://a.example:80/v1/", Version::HTTP_2, &[]),
        ] {
            assert_eq!(settled(target, version, hosts), Ok(Some("a.example:80".to_owned())));
        }
        assert_eq!(settled("/v1/", Version::HTTP_11, &["[::1]:80"]), Ok(Some("[::1]:80".to_owned())));
    }

    #[test]
    fn who_names_no_host_gets_that_of_the_service() {
        let settled = |reached: Option<&str>, http_host: Option<&str>| {
            let mut settings = Settings::default();
            settings.kinto.http_host = http_host.map(str::to_owned);
            let reached = reached.map(|address| address.parse().unwrap());
            let mut request = Request::builder().version(Version::HTTP_10).body(()).unwrap();
            settle(&mut request, &Peer::new(None, false, &settings).at(reached), &settings).unwrap();
            request.headers()[HOST].to_str().unwrap().to_owned()
        };
        assert_eq!(settled(Some("[::ffff:192.0.2.1]:80"), None), "192.0.2.1:80");
        assert_eq!(settled(Some("[2001:db8::1]:8889"), Some("")), "[2001:db8::1]:8889");
        assert_eq!(settled(Some("192.0.2.1:80"), Some("www.example.org")), "www.example.org");
        assert_eq!(settled(None, None), "localhost");
    }

    #[test]
    fn what_has_two_readings_or_none_is_refused() {
        for (target, version, hosts) in [
            ("/v1/", Version::HTTP_11, &[][..]),
            ("/v1/", Version::HTTP_2, &[]),
            ("/v1/", Version::HTTP_11, &["a", "a"]),
            ("/v1/", Version::HTTP_11, &["a/evil?x"]),
            ("/v1/", Version::HTTP_10, &["a b"]),
            ("http://a;b/v1/", Version::HTTP_11, &["a"]),
        ] {
            assert!(settled(target, version, hosts).is_err(), "{target} {hosts:?}");
        }
    }
}
