//! Chains of certificates that sign content.

use std::time::{Duration, SystemTime};

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use x509_cert::certificate::{CertificateInner, Raw};
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

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

type Certificate = CertificateInner<Raw>;

impl Chain {
    /// Reads PEM.
    pub(super) fn read(pem: &[u8]) -> Result<Self, String> {
        let mut chain = Vec::new();
        for der in CertificateDer::pem_slice_iter(pem) {
            let der = der.map_err(|error| error.to_string())?;
            chain.push(Certificate::from_der(&der).map_err(|error| error.to_string())?);
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
        for (one, next) in chain.iter().zip(chain.iter().skip(1)) {
            if one.tbs_certificate().issuer() != next.tbs_certificate().subject() {
                return Err("a certificate is not followed by that of its issuer".to_owned());
            }
            if !is_signed_by(one, next) {
                return Err("a certificate is not signed with the key of the next one".to_owned());
            }
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

/// Whether a certificate is signed with another one's key.
fn is_signed_by(one: &Certificate, next: &Certificate) -> bool {
    let (Ok(text), Some(signature)) = (one.tbs_certificate().to_der(), one.signature().as_bytes()) else {
        return false;
    };
    let key = next.tbs_certificate().subject_public_key_info();
    let (Some(method), Some(kind)) = (members(one.signature_algorithm()), members(&key.algorithm)) else {
        return false;
    };
    default_provider().signature_verification_algorithms.all.iter().any(|algorithm| {
        algorithm.signature_alg_id().as_ref() == method
            && algorithm.public_key_alg_id().as_ref() == kind
            && algorithm.verify_signature(key.subject_public_key.raw_bytes(), &text, signature).is_ok()
    })
}

/// An algorithm's name and parameters, without the head of the sequence that they are in.
fn members(algorithm: &AlgorithmIdentifierOwned) -> Option<Vec<u8>> {
    // So short a sequence has a head of two bytes.
    algorithm.to_der().ok().filter(|der| der.len() < 128).map(|mut der| der.split_off(2))
}

/// The point of a public key in PEM.
pub(super) fn key_of(pem: &[u8]) -> Result<Vec<u8>, String> {
    let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|error| error.to_string())?;
    let key = SubjectPublicKeyInfoOwned::from_der(&der).map_err(|error| error.to_string())?;
    Ok(key.subject_public_key.raw_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SignatureAlgorithm};

    /// A certificate of that name, its key and what it issues with.
    fn authority(
        name: &str,
        kind: &'static SignatureAlgorithm,
        issuer: Option<&Issuer<'_, KeyPair>>,
    ) -> (String, Issuer<'static, KeyPair>) {
        let key = KeyPair::generate_for(kind).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = match issuer {
            Some(issuer) => params.signed_by(&key, issuer),
            None => params.self_signed(&key),
        };
        (certificate.unwrap().pem(), Issuer::new(params, key))
    }

    #[test]
    fn each_certificate_is_signed_with_the_key_of_the_next() {
        let (root, root_issuer) = authority("root", &rcgen::PKCS_ED25519, None);
        let (middle, issuer) = authority("middle", &rcgen::PKCS_ECDSA_P256_SHA256, Some(&root_issuer));
        let (leaf, _) = authority("leaf", &rcgen::PKCS_ECDSA_P384_SHA384, Some(&issuer));
        let read = |pems: &[&str]| Chain::read(pems.concat().as_bytes()).map(drop);
        assert_eq!(read(&[&leaf, &middle, &root]), Ok(()));
        assert_eq!(read(&[&leaf]), Ok(()));
        let (other, _) = authority("middle", &rcgen::PKCS_ECDSA_P256_SHA256, Some(&root_issuer));
        let forged = read(&[&leaf, &other, &root]).unwrap_err();
        assert_eq!(forged, "a certificate is not signed with the key of the next one");
        let (kind, _) = authority("middle", &rcgen::PKCS_ECDSA_P384_SHA384, Some(&root_issuer));
        assert_eq!(read(&[&leaf, &kind, &root]).unwrap_err(), forged);
        assert!(read(&[&leaf, &root]).unwrap_err().contains("not followed"));
        assert!(read(&[]).is_err());
    }
}
