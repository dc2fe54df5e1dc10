//! How many connections fit into the files that the process may open.

use super::table::Settings;

/// How many files are open beside the connections of clients and those to the upstream that they need.
const OTHERS: u64 = 488;
/// The part of what is left that requests to the upstream have, where there is not enough for all.
const OF_UPSTREAM: u64 = 4;

impl Settings {
    /// How many files are open where everybody is connected.
    pub(super) fn wanted_files(&self) -> u64 {
        let connections = self.limits.connections.saturating_add(self.limits.upstream_requests);
        (connections as u64).saturating_add(OTHERS)
    }

    /// Has no more connections than fit into so many files: whoever connects beyond them takes the place of one that is idle,
    /// where nobody could be let in.
    pub(super) fn fit_into(&mut self, files: u64) {
        if files >= self.wanted_files() {
            return;
        }
        let room = files - OTHERS.min(files / 2);
        let limits = &mut self.limits;
        let at_most =
            |wanted: usize, room: u64| wanted.min(usize::try_from(room).unwrap_or(usize::MAX)).max(1);
        limits.upstream_requests = at_most(limits.upstream_requests, room / OF_UPSTREAM);
        limits.connections = at_most(limits.connections, room - limits.upstream_requests as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_fit_into_the_files_that_there_are() {
        let fitted = |files| {
            let mut settings = Settings::default();
            settings.fit_into(files);
            (settings.limits.connections, settings.limits.upstream_requests)
        };
        assert_eq!(fitted(u64::MAX), (10_000, 512));
        assert_eq!(fitted(11_000), (10_000, 512));
        assert_eq!(fitted(10_999), (9_999, 512));
        assert_eq!(fitted(4_096), (3_096, 512));
        assert_eq!(fitted(1_024), (402, 134));
        assert_eq!(fitted(256), (96, 32));
    }
}
