//! What there is to know without the upstream: where the sidecar would listen, with which certificate, and what the
//! settings say together.

use std::io::ErrorKind;
use std::time::{Duration, SystemTime};

use super::report::{Finding, Report};
use crate::commands::health::Place;
use crate::complaint::Complaint;
use crate::server::{Certificates, Sockets};
use crate::settings::{ListenAddr, Settings};
use crate::upstream::leads_to_itself;
use crate::warm;

/// How long whoever listens at an address may take to say who they are.
const PATIENCE: Duration = Duration::from_secs(2);

/// Looks at this machine.
pub(super) async fn look(report: &mut Report, settings: &Settings) {
    if let Some(complaint) = leads_to_itself(settings) {
        report.add(complaint.into());
    }
    let addresses = [
        ("sidecar.listen", Some(&settings.listen)),
        ("sidecar.admin_listen", settings.admin_listen.as_ref()),
    ];
    for (name, address) in addresses {
        if let Some(address) = address {
            listener(report, settings, name, address).await;
        }
    }
    if let Some(files) = &settings.tls {
        let end = Certificates::open(files).map_err(|error| error.to_string()).and_then(|_| files.end());
        match end {
            Ok(end) => {
                let path = files.certificate.display();
                report.say("certificate", format!("{path} until {}", httpdate::fmt_http_date(end)));
                let now = SystemTime::now();
                if let Some(complaint) = Complaint::of_certificate(&files.certificate, end, now) {
                    report.add(if end < now { complaint.into() } else { Finding::warning(complaint) });
                }
            }
            Err(error) => report.add(Finding::problem(
                error,
                "sidecar.tls_certificate has to be a chain, leaf first, and sidecar.tls_key the leaf's key, in PEM \
                 files that the sidecar's user may read",
            )),
        }
    }
    if let Some(complaint) = warm::trouble_of(settings) {
        report.add(Finding::warning(complaint));
    }
    let has_expiry = settings
        .in_force
        .iter()
        .any(|setting| setting.name.ends_with("expires_seconds") && !setting.shown().is_empty());
    if !has_expiry {
        report.add(Finding::note(
            "no setting lets a CDN or a browser keep answers",
            "where there is a CDN in front, set record_cache_expires_seconds (or that of a bucket or a collection)",
        ));
    }
}

/// Whether the sidecar can listen where it shall. Nothing is left behind.
async fn listener(report: &mut Report, settings: &Settings, name: &str, address: &ListenAddr) {
    let error = match address {
        ListenAddr::Tcp(_) => match Sockets::open(address, 1) {
            Ok(_) => return,
            Err(error) => error,
        },
        // To open it would make it.
        ListenAddr::Unix(path) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => ErrorKind::AddrInUse.into(),
            Err(_) => return,
        },
    };
    if error.kind() != ErrorKind::AddrInUse {
        report.add(Finding::problem(
            format!("{name} = {address}: {error}"),
            "name an address of this machine, and a port that the sidecar's user may use",
        ));
        return;
    }
    let what = format!("{name} = {address} is taken by another process");
    let path = if name == "sidecar.listen" { "/v1/" } else { "/health/live" };
    let asked = tokio::time::timeout(PATIENCE, Place::listening(address).ask(path)).await;
    let is_sidecar = asked.is_ok_and(|asked| {
        asked.is_ok_and(|(_, body)| body.contains("\"http_api_version\"") || body.contains("\"live\":true"))
    });
    if is_sidecar || settings.tls.is_some() {
        report.add(Finding::warning(Complaint {
            what,
            mend: "nothing is to be done where that is the running sidecar; else name another address"
                .to_owned(),
        }));
    } else {
        report.add(Finding::problem(what, "end that process, or name another address"));
    }
}
