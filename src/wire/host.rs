//! The one host that a request is for: what `Next-Page` and redirects name, and what the upstream is told.

use http::header::HOST;
use http::{HeaderValue, Request, Version};

/// Leaves a request with one `Host`, which is that of its target where that names one; only HTTP/1.0 may have none. Else it
/// says what is wrong.
///
/// Follows RFC 9112 §3.2 and RFC 9113 §8.3.1.
pub fn settle<B>(request: &mut Request<B>) -> Result<(), &'static str> {
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
        Some(host) if !is_host(host.as_bytes()) => Err("Host is malformed"),
        _ => Ok(()),
    }
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
        settle(&mut request)?;
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
        assert_eq!(settled("/v1/", Version::HTTP_10, &[]), Ok(None));
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
