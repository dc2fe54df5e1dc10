//! How far a process is on its way to its end. It only goes forward.

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
