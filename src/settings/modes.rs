//! Settings that are one of a few words.

use super::values::Kind;

macro_rules! modes {
    ($(
        $(#[$about:meta])* $mode:ident = $kind:ident, $expected:literal {
            $($(#[$what:meta])* $case:ident = $word:literal,)+
        }
    )+) => {$(
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $mode {
            $($(#[$what])* $case,)+
        }

        pub(super) const $kind: Kind<$mode> = Kind::new($expected, |text| match text {
            $($word => Some($mode::$case),)+
            _ => None,
        });
    )+};
}

modes! {
    /// Which plugin the sidecar behaves as where they differ.
    Compat = COMPAT, "kinto-changes or remote-settings" {
        /// kinto-changes 4.1.2 as published.
        KintoChanges = "kinto-changes",
        /// The plugin's later life inside remote-settings.
        RemoteSettings = "remote-settings",
    }

    /// How clients come by attachments.
    AttachmentsMode = ATTACHMENTS, "redirect or forward" {
        /// They are sent to where attachments are.
        Redirect = "redirect",
        /// The sidecar fetches them.
        Forward = "forward",
    }

    /// How a mirror is kept up when its collection changed.
    MirrorMode = MIRROR, "delta, verified or full" {
        /// What is newer is read, with an overlap, and compared with a listing in the background.
        Delta = "delta",
        /// As `Delta`, but the comparison comes before the answer.
        Verified = "verified",
        /// Everything is read again.
        Full = "full",
    }

    /// Who answers monitor/changes and changesets.
    ChangesMode = CHANGES, "auto, upstream or off" {
        /// The sidecar.
        Auto = "auto",
        /// The plugin in the upstream; the sidecar caches.
        Upstream = "upstream",
        /// Whoever is at those paths upstream; they are forwarded like any other.
        Off = "off",
    }

    /// Who keeps the history.
    HistoryMode = HISTORY, "auto, journal, upstream or off" {
        /// The upstream where it has the capability, else the journal.
        Auto = "auto",
        /// The sidecar's journal.
        Journal = "journal",
        /// The upstream.
        Upstream = "upstream",
        /// Nobody; the paths are forwarded like any other.
        Off = "off",
    }

    /// What a log line looks like.
    LogFormat = LOG_FORMAT, "text or json" {
        /// For people.
        Text = "text",
        /// `MozLog`, as Kinto's own `JsonLogFormatter` writes it.
        Json = "json",
    }

    /// What the history says of data that was there before it.
    Backfill = BACKFILL, "none or current" {
        /// Nothing.
        None = "none",
        /// One `create` entry per object.
        Current = "current",
    }

    /// What becomes of a write while the journal cannot be written.
    JournalFailure = JOURNAL_FAILURE, "refuse or forward" {
        /// It is answered 503 before it reaches the upstream.
        Refuse = "refuse",
        /// It goes on, and the gap is healed by timestamps.
        Forward = "forward",
    }
}

impl HistoryMode {
    /// Whether the sidecar's journal may be needed.
    pub fn wants_journal(self) -> bool {
        matches!(self, Self::Auto | Self::Journal)
    }
}
