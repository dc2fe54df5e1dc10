//! What an operator can mend, and how: in the same words at start, in the log, for those who ask how the sidecar is, and in
//! `kinto-sidecar check`.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use http::StatusCode;

use crate::kinto::{CollectionKey, segment};

/// How long before its end a certificate is complained about.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// How far two clocks may be apart. The upstream tells its time to the second.
const APART: Duration = Duration::from_secs(5);

/// Something that an operator can mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// What is wrong, and with what.
    pub what: String,
    /// How to mend it.
    pub mend: String,
}

impl Complaint {
    /// The collections of a bucket cannot be listed, or not all of them.
    pub fn cannot_list(bucket: &str, status: StatusCode) -> Self {
        Self {
            what: format!("the collections of {} cannot be listed ({status})", bucket_uri(bucket)),
            mend: "give the service account read permission on that bucket, or name its user id in Kinto's \
                   bucket_read_principals and collection_read_principals"
                .to_owned(),
        }
    }

    /// The records of a collection cannot be read.
    pub fn cannot_read(key: &CollectionKey, status: StatusCode) -> Self {
        Self {
            what: format!("the records of {} cannot be read ({status})", key.uri()),
            mend: "give the service account read permission on the bucket or the collection, or name its user id in \
                   Kinto's record_read_principals"
                .to_owned(),
        }
    }

    /// A changeset does not verify, for that reason.
    pub fn of_signature(key: &CollectionKey, error: &str) -> Self {
        Self {
            what: format!("the changeset of {} does not verify: {error}", key.uri()),
            mend: "have it signed anew; until then the last one that verified is published, where it is still kept"
                .to_owned(),
        }
    }

    /// The chain of certificates that signatures stand on ends soon, or has ended.
    pub fn of_signature_chain(end: SystemTime, now: SystemTime) -> Option<Self> {
        let left = end.duration_since(now).unwrap_or_default();
        (left < SOON).then(|| Self {
            what: format!("the certificates of signatures end on {}", httpdate::fmt_http_date(end)),
            mend: "have collections signed with a new chain".to_owned(),
        })
    }

    /// The upstream fails to say the timestamps of collections of which these are the first.
    pub fn set_aside(uris: &[String]) -> Self {
        Self {
            what: format!("Kinto fails, or says nothing, where it is asked for the records of {}", uris.join(", ")),
            mend: "see what Kinto's log and its database say of it; what is written there past the sidecar is found late \
                   meanwhile"
                .to_owned(),
        }
    }

    /// The settings name a bucket that is not there.
    pub fn no_bucket(bucket: &str) -> Self {
        Self::missing(&bucket_uri(bucket))
    }

    /// The settings name a collection that is not there.
    pub fn no_collection(key: &CollectionKey) -> Self {
        Self::missing(&key.uri())
    }

    /// The upstream does not know the service account.
    pub fn unknown_account() -> Self {
        Self {
            what: "the upstream does not know the service account".to_owned(),
            mend: "check the name and the password in sidecar.auth, and which authentication Kinto accepts \
                   (multiauth.policies)"
                .to_owned(),
        }
    }

    /// The upstream does not answer, for that reason.
    pub fn of_upstream(url: &dyn fmt::Display, error: &str) -> Self {
        Self { what: format!("the upstream does not answer ({error})"), mend: Self::is_running(url) }
    }

    /// Whoever answers there answers as no Kinto does.
    pub fn no_kinto(url: &dyn fmt::Display, error: &dyn fmt::Display) -> Self {
        Self {
            what: format!("{url}: {error}"),
            mend: "name Kinto's API root in sidecar.upstream, with the version at the end".to_owned(),
        }
    }

    /// What to look at where an upstream does not answer.
    pub fn is_running(url: &dyn fmt::Display) -> String {
        let url = url.to_string();
        let tls = if url.starts_with("https:") {
            ", with TLS and a certificate for that name, of an authority that is known here (sidecar.upstream_ca)"
        } else {
            ""
        };
        format!("is Kinto running at {url}{tls}?")
    }

    /// What is written cannot be recorded, for that reason.
    pub fn of_journal(error: &str) -> Self {
        Self {
            what: error.to_owned(),
            mend: "see to room on its disk and to its files, or to its database; writes are refused meanwhile, unless \
                   history.on_journal_failure = forward"
                .to_owned(),
        }
    }

    /// So many entries of the journal of so many are brought up to date.
    pub fn of_upgrade(done: u64, all: u64) -> Self {
        Self {
            what: format!(
                "the journal is of an earlier version, and is brought up to date ({done} of {all} entries)"
            ),
            mend: "wait for it; writes are refused meanwhile, unless history.on_journal_failure = forward"
                .to_owned(),
        }
    }

    /// What a restart is to begin with cannot be written, for that reason.
    pub fn of_state(folder: &Path, error: &io::Error) -> Self {
        Self {
            what: format!("nothing can be kept for a restart in {}: {error}", folder.display()),
            mend: "let the sidecar's user write there, or name another folder in sidecar.state_dir, or none"
                .to_owned(),
        }
    }

    /// All connections that there may be are open; no more of them where the process may open no more files than these.
    pub fn of_connections(open: u64, most: u64, files: Option<u64>) -> Self {
        if let Some(files) = files {
            return Self {
                what: format!("{open} connections are open, and the process may open {files} files"),
                mend: "raise the limit (ulimit -Hn, LimitNOFILE=)".to_owned(),
            };
        }
        Self {
            what: format!("{open} connections are open, and sidecar.max_connections = {most}"),
            mend: "raise it, or sidecar.max_connections_per_client for those who come through few addresses"
                .to_owned(),
        }
    }

    /// The upstream is where the sidecar itself listens.
    pub fn loops(setting: &str, listen: &dyn fmt::Display, upstream: &dyn fmt::Display) -> Self {
        Self {
            what: format!("sidecar.upstream = {upstream} is where {setting} = {listen} listens"),
            mend: "name Kinto's own address in sidecar.upstream".to_owned(),
        }
    }

    /// What is sent to the upstream comes back through something else.
    pub fn comes_back(upstream: &dyn fmt::Display) -> Self {
        Self {
            what: format!("sidecar.upstream = {upstream} leads back to this sidecar"),
            mend: "name Kinto's own address in sidecar.upstream".to_owned(),
        }
    }

    /// A certificate that ends at that moment, where it does soon or has done so.
    pub fn of_certificate(path: &Path, end: SystemTime, now: SystemTime) -> Option<Self> {
        let left = end.duration_since(now).unwrap_or_default();
        let when = httpdate::fmt_http_date(end);
        let what = if left.is_zero() {
            format!("the certificate {} has ended ({when})", path.display())
        } else if left < SOON {
            format!("the certificate {} ends in {} days ({when})", path.display(), left.as_secs() / 86_400)
        } else {
            return None;
        };
        Some(Self { what, mend: "have it renewed: the files are read again when they change".to_owned() })
    }

    /// This machine's clock is ahead of the upstream's by so many seconds, or behind where that is negative, if that is
    /// much.
    pub fn of_clock(ahead: f64) -> Option<Self> {
        (ahead.abs() > APART.as_secs_f64()).then(|| Self {
            what: format!(
                "this machine's clock is {:.0} s {} the upstream's",
                ahead.abs(),
                if ahead > 0.0 { "ahead of" } else { "behind" }
            ),
            mend: "have both follow a time server (NTP)".to_owned(),
        })
    }

    /// The part of its words that stays the same while it lasts.
    pub fn kind(&self) -> &str {
        &self.mend
    }

    fn missing(uri: &str) -> Self {
        Self {
            what: format!("{uri} does not exist"),
            mend: "make it, or take it out of changes.resources".to_owned(),
        }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.mend)
    }
}

fn bucket_uri(bucket: &str) -> String {
    format!("/buckets/{}", segment(bucket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_complained_about_from_two_weeks_before_its_end() {
        let now = SystemTime::now();
        let of = |days: u64| {
            let end = now + Duration::from_secs(days * 86_400 + 60);
            Complaint::of_certificate(Path::new("c.pem"), end, now).map(|complaint| complaint.what)
        };
        assert_eq!(of(14), None);
        assert!(of(13).unwrap().contains("c.pem ends in 13 days"));
        let over = Complaint::of_certificate(Path::new("c.pem"), now - Duration::from_secs(1), now);
        assert!(over.unwrap().what.contains("has ended"));
    }

    #[test]
    fn clocks_that_tell_seconds_may_differ_by_some() {
        assert_eq!(Complaint::of_clock(4.9), None);
        assert_eq!(Complaint::of_clock(-4.9), None);
        assert!(Complaint::of_clock(-60.0).unwrap().what.contains("60 s behind the upstream's"));
        assert!(Complaint::of_clock(60.0).unwrap().what.contains("60 s ahead of the upstream's"));
    }
}
