//! How far a process is on its way to its end. It only goes forward.

use tokio::sync::watch;
use tokio::time::Instant;

/// What the process does with connections and requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It serves.
    #[default]
    Serving,
    /// It still accepts connections, but says that it is not ready. Each connection ends with its next answer.
    Draining,
    /// It accepts no connection, and live feeds end. Who has a connection may use it for one more request.
    Leaving,
    /// Idle connections are closed, and what is under way is finished.
    Stopping,
}

/// Since when this process has the journal to itself, as far as the one before it goes: that one has let go of it, has
/// ended, or there was none. `None` while it lives and is about to let go.
pub type Relieved = watch::Receiver<Option<Instant>>;
