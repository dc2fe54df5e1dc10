//! How much is under way in the process, or waits for something to happen.

use parking_lot::Mutex;
use tokio::runtime::{Handle, RuntimeMetrics};

use super::text::Exposition;

static RUNTIMES: Mutex<Vec<RuntimeMetrics>> = Mutex::new(Vec::new());

/// Counts the tasks of one more runtime.
pub(crate) fn count_those_of(runtime: &Handle) {
    RUNTIMES.lock().push(runtime.metrics());
}

pub(super) fn render(out: &mut Exposition) {
    let tasks: usize = RUNTIMES.lock().iter().map(RuntimeMetrics::num_alive_tasks).sum();
    let help = "What is under way in the process, or waits for something to happen.";
    out.one("kinto_sidecar_tasks", "gauge", help, tasks);
}
