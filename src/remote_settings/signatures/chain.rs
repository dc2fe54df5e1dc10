//! Chains of certificates that sign content.

use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use x509_cert::certificate::{CertificateInner, Raw};
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::spki::SubjectPublicKeyInfoOwned;

/// A chain, leaf first, as far as it matters here.
#[derive(Debug)]
pub(super) struct Chain {
    /// The leaf's key, as a point.
    pub(super) key: Vec<u8>,
    /// The names that the leaf is for.
    names: Vec<String>,
    begin: SystemTime,
    /// When the first of its certificates ends.
    pub(super) end: SystemTime,
}

impl Chain {
    /// Reads PEM.
    pub(super) fn read(pem: &[u8]) -> Result<Self, String> {
        let mut chain = Vec::new();
        for der in CertificateDer::pem_slice_iter(pem) {
            let der = der.map_err(|error| error.to_string())?;
            chain.push(CertificateInner::<Raw>::from_der(&der).map_err(|error| error.to_string())?);
        }
        let leaf = chain.first().ok_or("there is no certificate")?;
        let key = leaf.tbs_certificate().subject_public_key_info().subject_public_key.raw_bytes().to_vec();
        let names = leaf.tbs_certificate().get_extension::<SubjectAltName>().ok().flatten();
        let names =
            names.map(|(_, names)| names.0).unwrap_or_default().into_iter().filter_map(|name| match name {
                GeneralName::DnsName(name) => Some(name.to_string()),
                _ => None,
            });
        let at = |moment: Duration| SystemTime::UNIX_EPOCH + moment;
        let validities = || chain.iter().map(|certificate| certificate.tbs_certificate().validity());
        let begin = validities().map(|validity| at(validity.not_before.to_unix_duration())).max();
        let end = validities().map(|validity| at(validity.not_after.to_unix_duration())).min();
        let (Some(begin), Some(end)) = (begin, end) else { return Err("there is no certificate".to_owned()) };
        // Clients stop at a chain whose certificates do not follow one another.
        let is_linked = chain
            .iter()
            .zip(chain.iter().skip(1))
            .all(|(one, next)| one.tbs_certificate().issuer() == next.tbs_certificate().subject());
        if !is_linked {
            return Err("a certificate is not followed by that of its issuer".to_owned());
        }
        Ok(Self { key, names: names.collect(), begin, end })
    }

    /// Whether it is good now, and for that name.
    pub(super) fn check(&self, name: Option<&str>, now: SystemTime) -> Result<(), String> {
        if now < self.begin || now >= self.end {
            let word = if now < self.begin { "is not good yet" } else { "has ended" };
            return Err(format!("the chain of its signature {word}"));
        }
        match name.filter(|name| !self.names.iter().any(|own| own == name)) {
            Some(name) => Err(format!("the certificate of its signature is not for {name}")),
            None => Ok(()),
        }
    }
}

/// The point of a public key in PEM.
pub(super) fn key_of(pem: &[u8]) -> Result<Vec<u8>, String> {
    let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|error| error.to_string())?;
    let key = SubjectPublicKeyInfoOwned::from_der(&der).map_err(|error| error.to_string())?;
    Ok(key.subject_public_key.raw_bytes().to_vec())
}
