//! What two settings say together.

use std::error::Error;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_cert::certificate::{CertificateInner, Raw};
use x509_cert::der::Decode;

use super::auth::ServiceAuth;
use super::error::{Origin, SettingsError};
use super::journal_url::JournalUrl;
use super::listen_addr::ListenAddr;
use super::modes::{self, HistoryMode};
use super::places::Places;
use super::values;

/// The two PEM files that make the listener speak TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// `sidecar.tls_certificate`: the chain, leaf first.
    pub certificate: PathBuf,
    /// `sidecar.tls_key`: its private key.
    pub key: PathBuf,
}

impl TlsFiles {
    /// When the certificate ends. An error names the file that is wrong.
    pub fn end(&self) -> Result<SystemTime, String> {
        let wrong = |error: &dyn std::fmt::Display| {
            format!("sidecar.tls_certificate = {}: {error}", self.certificate.display())
        };
        let pem = std::fs::read(&self.certificate).map_err(|error| wrong(&error))?;
        let leaf = CertificateDer::from_pem_slice(&pem).map_err(|error| wrong(&error))?;
        Self::end_of(&leaf).map(|end| SystemTime::UNIX_EPOCH + end).map_err(|error| wrong(&error))
    }

    /// When a certificate ends, since 1970.
    pub fn end_of(certificate: &CertificateDer<'_>) -> Result<Duration, impl Error + use<>> {
        CertificateInner::<Raw>::from_der(certificate)
            .map(|certificate| certificate.tbs_certificate().validity().not_after.to_unix_duration())
    }
}

impl Places<'_> {
    /// Both files, or neither.
    pub(super) fn tls(&self) -> Result<Option<TlsFiles>, SettingsError> {
        let [certificate, key] = ["sidecar.tls_certificate", "sidecar.tls_key"];
        let incomplete = |present, missing, origin| SettingsError::Incomplete { present, missing, origin };
        match (self.text(certificate)?, self.text(key)?) {
            (Some((certificate, _)), Some((key, _))) => {
                Ok(Some(TlsFiles { certificate: certificate.into(), key: key.into() }))
            }
            (None, None) => Ok(None),
            (Some((_, origin)), None) => Err(incomplete(certificate, key, origin)),
            (None, Some((_, origin))) => Err(incomplete(key, certificate, origin)),
        }
    }

    /// Where what outlives the process is kept: beside a SQLite journal where nobody says.
    pub(super) fn state_dir(&self) -> Result<Option<PathBuf>, SettingsError> {
        let key = "sidecar.state_dir";
        if let Some((folder, origin)) = self.text(key)? {
            if Path::new(&folder).metadata().is_ok_and(|there| !there.is_dir()) {
                return Err(SettingsError::Malformed {
                    key,
                    value: folder,
                    origin,
                    expected: "a folder, or none",
                });
            }
            return Ok(Some(PathBuf::from(folder)).filter(|folder| folder.as_os_str() != "none"));
        }
        let history: HistoryMode = self.value("sidecar.history", &modes::HISTORY)?;
        let journal: JournalUrl = self.value("sidecar.journal", &values::JOURNAL)?;
        Ok(match journal {
            JournalUrl::Sqlite(path) if history.wants_journal() => path.parent().map(Path::to_owned),
            _ => None,
        })
    }

    /// Where sockets are opened: no two at one place.
    pub(super) fn admin_listen(&self) -> Result<Option<ListenAddr>, SettingsError> {
        let [clients, operators] = ["sidecar.listen", "sidecar.admin_listen"];
        let listen: ListenAddr = self.value(clients, &values::LISTEN)?;
        let admin: Option<ListenAddr> = self.value(operators, &values::LISTEN)?;
        if let Some(admin) = admin.as_ref().filter(|admin| admin.takes_from(&listen)) {
            let origin = self.text(operators)?.map_or(Origin::Default, |(_, origin)| origin);
            return Err(SettingsError::Clash {
                first: format!("{operators} = {admin}"),
                origin,
                verb: "is where clients are listened for, too:",
                second: format!("{clients} = {listen}"),
            });
        }
        Ok(admin)
    }

    /// Where a new process asks for the sockets. What is there and is no socket is somebody's.
    pub(super) fn handover(&self) -> Result<Option<PathBuf>, SettingsError> {
        let key = "sidecar.handover";
        let Some((path, origin)) = self.text(key)? else { return Ok(None) };
        let there = Path::new(&path).symlink_metadata();
        if there.is_ok_and(|there| !there.file_type().is_socket()) {
            let expected = "the path of a socket, at which no other file is";
            return Err(SettingsError::Malformed { key, value: path, origin, expected });
        }
        Ok(Some(path.into()))
    }

    /// The service account, from the stronger place; in one place it can be written in one way only.
    pub(super) fn auth(&self) -> Result<Option<ServiceAuth>, SettingsError> {
        let [text, file] = ["sidecar.auth", "sidecar.auth_file"];
        let (in_text, in_file) = (self.text(text)?, self.text(file)?);
        let rank = |written: &Option<(_, Origin)>| written.as_ref().map(|(_, origin)| origin.rank());
        if in_text.is_some() && rank(&in_text) == rank(&in_file) {
            let origin = in_text.map_or(Origin::Default, |(_, origin)| origin);
            return Err(SettingsError::Exclusive { first: text, second: file, origin });
        }
        let is_text_stronger = rank(&in_text) > rank(&in_file);
        let (key, (written, origin)) = match (in_text, in_file) {
            (Some(written), _) if is_text_stronger => (text, written),
            (_, Some(written)) => (file, written),
            _ => return Ok(None),
        };
        let read = if is_text_stronger {
            ServiceAuth::from_text
        } else {
            |path: &str| ServiceAuth::from_file(Path::new(path))
        };
        read(&written).map(Some).map_err(|source| SettingsError::Credentials { key, origin, source })
    }
}
