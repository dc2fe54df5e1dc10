//! Numbers about the process, under the names that Prometheus' own clients use.

use std::fs;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

use super::text::Exposition;

/// When the process began, as near as it can tell without what a service may not read.
static BEGAN: LazyLock<SystemTime> = LazyLock::new(SystemTime::now);

/// Notes when the process began.
pub(crate) fn begin() {
    LazyLock::force(&BEGAN);
}

/// What the kernel says now; what it does not say is left out.
pub(crate) fn render(out: &mut Exposition) {
    if let Ok(stat) = fs::read_to_string("/proc/self/stat") {
        // The name of the program, in parentheses, may hold anything.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
        if let (Some(user), Some(system)) = (number(11), number(12)) {
            #[expect(clippy::cast_precision_loss, reason = "Prometheus knows no other numbers")]
            let seconds = (user + system) as f64 / clock_ticks_per_second() as f64;
            let name = "process_cpu_seconds_total";
            out.one(name, "counter", "Total user and system CPU time spent in seconds.", seconds);
        }
        if let Some(bytes) = number(20) {
            let name = "process_virtual_memory_bytes";
            out.one(name, "gauge", "Virtual memory size in bytes.", bytes);
        }
        if let Some(pages) = number(21) {
            let bytes = pages.saturating_mul(page_size() as u64);
            let name = "process_resident_memory_bytes";
            out.one(name, "gauge", "Resident memory size in bytes.", bytes);
        }
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // One of them reads the folder.
        let count = open.count().saturating_sub(1);
        out.one("process_open_fds", "gauge", "Number of open file descriptors.", count);
    }
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    out.one("process_max_fds", "gauge", "Maximum number of open file descriptors.", most);
    let began = BEGAN.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let help = "Start time of the process since unix epoch in seconds.";
    out.one("process_start_time_seconds", "gauge", help, began);
}
