//! The paths that Remote Settings' readers ask for, below `/v2`.
//!
//! Follows `git-reader` of remote-settings, which reads a path once it is decoded as a whole. Nothing below `/v2` is
//! Kinto's, so no path is forwarded.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::kinto::CollectionKey;
use crate::settings::Settings;

/// What a path below `/v2` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum V2 {
    /// What the service is.
    Hello,
    /// The list of timestamps as a changeset.
    MonitorChangeset,
    /// A collection's changeset.
    Changeset(CollectionKey),
    /// What push services are told.
    Broadcasts,
    /// Whether the process answers.
    LbHeartbeat,
    /// Whether it has what it needs.
    Heartbeat,
    /// What it was built of.
    Version,
    /// What stands at this path below the `base_url` of attachments.
    Attachment(String),
    /// What stands at this path.
    Elsewhere(String),
    /// Nothing.
    Unknown,
}

impl V2 {
    /// Reads a path as it came, without its query; `None` where it is not below `/v2`.
    pub fn of(path: &str, settings: &Settings) -> Option<Self> {
        if let Some(base_url) = &settings.remote_settings.attachments_base_url {
            let base = base_url.path().trim_end_matches('/');
            let below = path.strip_prefix(base).and_then(|path| path.strip_prefix('/'));
            // What is Kinto's stays Kinto's.
            if !base.is_empty()
                && let Some(below) = below
            {
                return Some(Self::Attachment(below.to_owned()));
            }
        }
        let below = path.strip_prefix("/v2")?;
        if below.is_empty() {
            return Some(Self::Elsewhere("/v2/".to_owned()));
        }
        let below = below.strip_prefix('/')?;
        if below.is_empty() {
            return Some(Self::Hello);
        }
        let (first, rest) = below.split_once('/').map_or((below, None), |(first, rest)| (first, Some(rest)));
        if decoded(first) == "attachments" {
            return Some(match rest {
                Some(attachment) => Self::Attachment(attachment.to_owned()),
                None => Self::Elsewhere("/v2/attachments/".to_owned()),
            });
        }
        let bare = below.trim_end_matches('/');
        Some(match Self::below(bare) {
            Self::Unknown if !bare.is_empty() => Self::Unknown,
            // git-reader: what is there without the slashes at the end is there.
            _ if bare != below => Self::Elsewhere(path.trim_end_matches('/').to_owned()),
            known => known,
        })
    }

    fn below(path: &str) -> Self {
        let path = decoded(path);
        match &*path {
            "__broadcasts__" => return Self::Broadcasts,
            "__lbheartbeat__" => return Self::LbHeartbeat,
            "__heartbeat__" => return Self::Heartbeat,
            "__version__" => return Self::Version,
            _ => {}
        }
        let mut segments = path.split('/');
        let mut next = || segments.next().unwrap_or_default();
        let ("buckets", bucket, "collections", collection, "changeset") =
            (next(), next(), next(), next(), next())
        else {
            return Self::Unknown;
        };
        if bucket.is_empty() || collection.is_empty() || segments.next().is_some() {
            return Self::Unknown;
        }
        match (bucket, collection) {
            ("monitor", "changes") => Self::MonitorChangeset,
            _ => Self::Changeset(CollectionKey::new(bucket, collection)),
        }
    }

    /// Its name in logs and metrics.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::MonitorChangeset => "v2-monitor-changeset",
            Self::Changeset(_) => "v2-changeset",
            _ => "v2",
        }
    }
}

fn decoded(path: &str) -> Cow<'_, str> {
    percent_decode_str(path).decode_utf8_lossy()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attachments_are_below_their_base_url() {
        let mut settings = Settings::default();
        settings.remote_settings.attachments_base_url = Some("https://cdn.example/files/".parse().unwrap());
        let attachment = |path: &str| Some(V2::Attachment(path.to_owned()));
        assert_eq!(V2::of("/files/a/b", &settings), attachment("a/b"));
        assert_eq!(V2::of("/v2/attachments/a/b", &settings), attachment("a/b"));
        assert_eq!(V2::of("/filesystem", &settings), None);
        settings.remote_settings.attachments_base_url = Some("https://cdn.example/".parse().unwrap());
        assert_eq!(V2::of("/v1/", &settings), None);
    }

    #[test]
    fn paths_are_read_as_git_reader_reads_them() {
        let changeset = |bucket, collection| V2::Changeset(CollectionKey::new(bucket, collection));
        let elsewhere = |path: &str| V2::Elsewhere(path.to_owned());
        for (path, v2) in [
            ("/v2", elsewhere("/v2/")),
            ("/v2/", V2::Hello),
            ("/v2//", elsewhere("/v2")),
            ("/v2/buckets/monitor/collections/changes/changeset", V2::MonitorChangeset),
            ("/v2/buckets/a/collections/b/changeset", changeset("a", "b")),
            ("/v2/%62uckets/a%20b/collections/c%22/changeset", changeset("a b", "c\"")),
            ("/v2/buckets/%FF/collections/c/changeset", changeset("\u{fffd}", "c")),
            ("/v2/buckets/a%2Fb/collections/c/changeset", V2::Unknown),
            ("/v2/buckets//collections/c/changeset", V2::Unknown),
            (
                "/v2/buckets/a%20b/collections/c/changeset//",
                elsewhere("/v2/buckets/a%20b/collections/c/changeset"),
            ),
            ("/v2/__broadcasts__", V2::Broadcasts),
            ("/v2/%5F_broadcasts_%5f", V2::Broadcasts),
            ("/v2/%61ttachments/a%2Fb", V2::Attachment("a%2Fb".to_owned())),
            ("/v2/__broadcasts__/", elsewhere("/v2/__broadcasts__")),
            ("/v2/__lbheartbeat__", V2::LbHeartbeat),
            ("/v2/__heartbeat__", V2::Heartbeat),
            ("/v2/__version__", V2::Version),
            ("/v2/attachments", elsewhere("/v2/attachments/")),
            ("/v2/attachments/a/b%20c", V2::Attachment("a/b%20c".to_owned())),
            ("/v2/x/", V2::Unknown),
            ("/v2/buckets/monitor/collections/changes/records", V2::Unknown),
            ("/v2/buckets/a/collections/b/changeset/x", V2::Unknown),
        ] {
            assert_eq!(V2::of(path, &Settings::default()), Some(v2), "{path}");
        }
        for path in ["/", "/v1/", "/v22", "/V2/", "/v2x/"] {
            assert_eq!(V2::of(path, &Settings::default()), None, "{path}");
        }
    }
}
